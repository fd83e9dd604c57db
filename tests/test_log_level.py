"""The level of log lines, changed while workers run, and the ids on lines that belong to a job."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from redis.asyncio import Redis
from structlog.testing import capture_logs

from core.trace_context import trace_id_of
from models.log_event import LogEvent
from services.log_level import RedisLogLevel, follow_log_level
from services.logs import LogLevel
from services.redis_client import open_redis
from tests.support.backend import Document, job_body
from tests.support.command import run_command
from tests.support.llm_server import LLMServer
from tests.support.private_servers import free_port
from tests.support.waiting import until
from tests.support.worker_process import WorkerProcess, worker
from tests.test_end_to_end import Site, open_site

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["redis", "memory"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else "memory://"
    async with open_redis(url, max_connections=5, timeout_s=5) as client:
        yield client


async def test_what_is_set_holds_for_its_group_until_it_is_cleared(client: Redis) -> None:
    ours, theirs = RedisLogLevel(client, group="rec"), RedisLogLevel(client, group="other")
    assert await ours.get() is None
    await ours.set("DEBUG", for_s=60)
    assert (await ours.get(), await theirs.get()) == ("DEBUG", None)
    await ours.clear()
    assert await ours.get() is None


async def test_what_is_set_expires(client: Redis) -> None:
    ours = RedisLogLevel(client, group="rec")
    await ours.set("ERROR", for_s=600)
    (key,) = await client.keys("songs_ai:log_level:*")
    assert 590 < await client.ttl(key) <= 600


async def test_a_word_that_is_no_level_changes_nothing(client: Redis) -> None:
    await client.set("songs_ai:log_level:rec", b"\xffLOUD")
    assert await RedisLogLevel(client, group="rec").get() is None


class Applied:
    def __init__(self) -> None:
        self.levels: list[LogLevel] = []

    def __call__(self, level: LogLevel) -> None:
        self.levels.append(level)

    async def reached(self, *levels: LogLevel) -> None:
        async def have() -> bool:
            return self.levels == list(levels)

        await until(have)


async def test_each_change_is_followed_and_logged_and_the_own_level_comes_back(client: Redis) -> None:
    told, applied = RedisLogLevel(client, group="rec"), Applied()
    with capture_logs() as logs:
        following = asyncio.create_task(follow_log_level(told, "INFO", applied, every_s=0.01))
        await told.set("DEBUG", for_s=60)
        await applied.reached("DEBUG")
        await told.set("ERROR", for_s=60)
        await applied.reached("DEBUG", "ERROR")
        await told.clear()
        await applied.reached("DEBUG", "ERROR", "INFO")
        following.cancel()
    changes = [(entry["before"], entry["now"]) for entry in logs if entry["event"] == LogEvent.LOG_LEVEL_CHANGED]
    assert changes == [("INFO", "DEBUG"), ("DEBUG", "ERROR"), ("ERROR", "INFO")]


async def test_while_redis_is_away_the_level_stays_and_nothing_ends() -> None:
    applied = Applied()
    async with open_redis(f"redis://127.0.0.1:{free_port()}", max_connections=2, timeout_s=0.2) as away:
        told = RedisLogLevel(away, group="rec")
        following = asyncio.create_task(follow_log_level(told, "INFO", applied, every_s=0.01))
        await asyncio.wait({following}, timeout=1)
        assert not following.done()
        following.cancel()
    assert applied.levels == []


# --- a worker ---


@pytest.fixture
async def site(amqp_url: str, mysql_url: str, redis_url: str, llm_server: LLMServer) -> AsyncIterator[Site]:
    async with open_site(amqp_url, mysql_url, redis_url, llm_server) as site:
        yield site


async def logged(process: WorkerProcess, word: str) -> None:
    async def has_come() -> bool:
        return word in process.log

    await until(has_come, within_s=15)


def lines_of(process: WorkerProcess) -> Iterator[Document]:
    return (json.loads(line) for line in process.log.splitlines())


async def run(site: Site, body: Document) -> None:
    await site.backend.publish([body])
    await site.backend.wait([body["jobId"]], 20, until={"succeeded"})


async def test_one_command_changes_what_running_workers_log_and_back(site: Site) -> None:
    quiet, loud = job_body(1, [3, 4]), job_body(2, [3, 4])
    async with worker({**site.environment, "LOG_LEVEL": "WARNING"}) as process:
        await run(site, quiet)
        done = await run_command("log-level", "info", "--minutes", "5", environment=site.environment)
        assert (done.code, done.out) == (0, "All workers log from INFO on for 5 minutes.\n")
        await logged(process, '"now":"INFO"')
        await run(site, loud)
        await logged(process, "job_succeeded")
        done = await run_command("log-level", "own", environment=site.environment)
        assert (done.code, done.out) == (0, "All workers log by their own LOG_LEVEL again.\n")
        await logged(process, '"now":"WARNING"')
        n_before = process.log.count("job_received")
        await run(site, job_body(3, [3, 4]))
        assert process.log.count("job_received") == n_before
    jobs = {line["job_id"] for line in lines_of(process) if line["event"] == "job_received"}
    assert jobs == {loud["jobId"]}


OF_JOBS = ("job_", "result_save", "rerank_", "untrue_", "answer_not", "provisional_", "wish_")


async def test_every_line_of_a_job_says_which_job_which_trace_and_which_worker(site: Site) -> None:
    named, silent = job_body(1, [3, 4], traceId="their-trace"), job_body(2, [5, 6])
    bad = {**job_body(3, [3]), "topK": "many"}
    async with worker({**site.environment, "LOG_LEVEL": "DEBUG"}) as process:
        for body in (named, silent):
            await run(site, body)
        await site.backend.publish([bad])
        await site.backend.wait([bad["jobId"]], 20, until={"failed"})
        await logged(process, "job_dead_lettered")
        await process.terminate()
    lines = list(lines_of(process))
    assert {line["worker_id"] for line in lines} == {lines[0]["worker_id"]}
    assert str(lines[0]["worker_id"]).endswith(f":{process.pid}")
    of_jobs = [line for line in lines if str(line["event"]).startswith(OF_JOBS)]
    assert {line["job_id"] for line in of_jobs} == {named["jobId"], silent["jobId"], bad["jobId"]}
    traces = {(line["job_id"], line["trace_id"]) for line in of_jobs}
    assert traces == {
        (named["jobId"], "their-trace"),
        (silent["jobId"], uuid.UUID(silent["jobId"]).hex),
        (bad["jobId"], trace_id_of(bad["jobId"])),
    }
    assert all("job_id" in line for line in lines if "trace_id" in line)
    assert {str(line["event"]) for line in lines} <= {str(event) for event in LogEvent}
    structlog.contextvars.clear_contextvars()
