"""``schedule``, ``clean-up`` and ``digest`` as people use them, and real workers that start tasks by themselves."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
import sqlalchemy as sa

from core.schedule import TaskOutcome, TaskRun
from models.log_event import LogEvent
from services.call_budgets import nano_usd, spend_key
from services.clock import SystemClock
from services.database import Database
from services.model_store import SqlModelStore
from services.redis_client import open_redis
from services.schema import ai_model, interaction
from services.task_runs import SqlTaskRuns
from tests.support.catalogue import connection, create_all_tables, insert_songs, record_event
from tests.support.command import run_command, run_here
from tests.support.faulty_wire import faulty_wire
from tests.support.messaging import delete_topology
from tests.support.notice_servers import hook_server
from tests.support.waiting import until
from tests.support.worker_process import WorkerProcess
from workers.topology import build_topology

pytestmark = pytest.mark.timeout(120)

NOW = datetime.now(UTC)
LAST_WEEK = NOW - timedelta(days=7)
NEVER = {"embed": "", "clean_up": "", "refresh": "", "fit": "", "digest": ""}


class Site:
    """The environment of all workers of a site, and its rows of tasks."""

    def __init__(self, environment: Mapping[str, str], database: Database) -> None:
        self.environment, self.url = environment, environment["DATABASE_URL"]
        self.runs = SqlTaskRuns(database)
        self.models = SqlModelStore(database, SystemClock())

    async def fill(self) -> None:
        """Give it a song with a vector: without any, workers are not ready."""
        insert_songs(self.url, {"song_id": 1, "title_en": "One", "artist": "A", "genre": "pop"})
        assert (await run_here("embed", environment=self.environment)).code == 0

    async def ended(self, task: str) -> bool:
        return (await self.runs.last())[task].outcome is not None

    async def miss(self, task: str) -> dict[str, str]:
        """Make the task due since yesterday, and the setting of workers that do nothing else."""
        await self.runs.add(task, LAST_WEEK)
        hour = (NOW - timedelta(hours=2)).hour
        return {"SCHEDULE": json.dumps({**NEVER, task: f"0 {hour} * * *"})}


@pytest_asyncio.fixture
async def site(amqp_url: str, mysql_url: str, redis_url: str) -> AsyncIterator[Site]:
    create_all_tables(mysql_url)
    prefix = f"site-{os.getpid()}-{os.urandom(3).hex()}"
    environment = {
        "BROKER_URL": amqp_url,
        "DATABASE_URL": mysql_url,
        "REDIS_URL": redis_url,
        "NAME_PREFIX": prefix,
        "TIME_ZONE": "UTC",
        "LEADER_LEASE_S": "2",
    }
    database = Database(mysql_url, pool_size=2)
    try:
        yield Site(environment, database)
    finally:
        await database.close()
        await delete_topology(amqp_url, build_topology(prefix, (5, 30, 120)))


@asynccontextmanager
async def workers(site: Site, n: int, **settings: str) -> AsyncIterator[list[WorkerProcess]]:
    processes = [WorkerProcess({**site.environment, **settings}) for _ in range(n)]
    try:
        await asyncio.gather(*(each.start() for each in processes))
        yield processes
    finally:
        for each in processes:
            await each.kill()


async def leads(process: WorkerProcess) -> bool:
    if not process.is_running:
        return False
    return "songs_ai_leader 1.0" in await process.metrics()


# --- commands ---


async def test_the_schedule_says_when_tasks_run_and_how_they_ended(site: Site) -> None:
    await site.runs.add("digest", LAST_WEEK)
    await site.runs.begin("digest", at=LAST_WEEK, fence=1, worker="one")
    ended_at = LAST_WEEK + timedelta(seconds=3)
    await site.runs.end("digest", at=ended_at, fence=1, outcome=TaskOutcome.FAILED, detail="no table\nexit code 1")
    found = await run_here("schedule", "--json", environment=site.environment)
    rows = {row["task"]: row for row in json.loads(found.out)}
    assert set(rows) == set(NEVER)
    assert (rows["digest"]["seconds"], rows["digest"]["outcome"]) == (3.0, "failed")
    assert datetime.fromisoformat(rows["digest"]["next_at"]) > NOW
    assert (rows["fit"]["next_at"], rows["fit"]["outcome"]) == (None, "never ran")
    table = await run_here("schedule", environment=site.environment)
    assert "exit code 1" in table.out


async def test_clean_up_deletes_old_events_and_surplus_models_and_nothing_else(site: Site) -> None:
    for name, days in (("old", 31), ("older", 400), ("new", 29)):
        record_event(site.url, name, 7, 1, "like", at=NOW - timedelta(days=days))
    for n in range(5):
        await site.models.save("collaborative", str(n), b"model", {})
        await site.models.activate("collaborative", str(n))
    settings = {"EVENT_RETENTION_DAYS": "30", "MODEL_VERSIONS_KEPT": "3"}
    found = await run_here("clean-up", environment={**site.environment, **settings})
    assert found.out.startswith("2 events deleted, of more than 30 days ago\n2 versions of models deleted")
    with connection(site.url) as opened:
        assert opened.scalars(sa.select(interaction.c.event_id)).all() == ["new"]
        assert sorted(opened.scalars(sa.select(ai_model.c.version))) == ["2", "3", "4"]
    environment = {**site.environment, **settings, "LOG_FORMAT": "json", "LOG_LEVEL": "INFO"}
    again = await run_command("clean-up", environment=environment)
    assert "0 events deleted, of more than 30 days ago\n0 versions of models deleted" in again.out
    [line] = [each for each in (again.out + again.err).splitlines() if LogEvent.EVENTS_CLEANED_UP in each]
    assert json.loads(line)["n_events"] == 0


async def test_the_digest_tells_of_spend_failed_tasks_and_dead_letters(site: Site, redis_url: str) -> None:
    await site.runs.add("fit", LAST_WEEK)
    await site.runs.begin("fit", at=LAST_WEEK, fence=1, worker="one")
    await site.runs.end("fit", at=LAST_WEEK, fence=1, outcome=TaskOutcome.FAILED, detail="scipy is missing")
    async with open_redis(redis_url, max_connections=2, timeout_s=5) as redis:
        await redis.set(spend_key(datetime.now(UTC)), nano_usd(1.25))
    environment = {**site.environment, "LLM_DAILY_USD": "2"}
    found = json.loads((await run_here("digest", "--json", environment=environment)).out)
    assert (found["spent_today"], found["daily_limit"], found["dead_letters"]) == (1.25, 2.0, 0)
    assert found["failed_tasks"] == {"fit": "scipy is missing"}
    lines = (await run_here("digest", environment=environment)).out
    assert lines.startswith("task fit failed: scipy is missing\nwaiting: 0 in ")
    assert "1.2500 of 2.00 USD today" in lines


async def test_a_digest_that_is_to_be_told_goes_to_those_who_are_named(site: Site) -> None:
    async with hook_server() as hooks:
        told = {**site.environment, "NOTICE_WEBHOOK": hooks.url}
        await run_here("digest", environment=told)
        assert hooks.bodies == []
        assert (await run_here("digest", "--tell", environment=told)).code == 0
    [notice] = hooks.bodies
    assert notice["kind"] == "digest"
    assert notice["text"].startswith("waiting: 0 in ")


async def test_without_a_broker_the_digest_says_nothing_of_what_waits(site: Site) -> None:
    lines = (await run_here("digest", environment={**site.environment, "BROKER_URL": "memory://"})).out.splitlines()
    assert lines == [
        "RabbitMQ: not seen, BROKER_URL is memory://",
        "collaborative model: none",
        "LLM: 0.0000 USD today",
    ]


AWAY = {
    "MySQL": {"DATABASE_URL": "mysql://root:hunter2@127.0.0.1:1/songs"},
    "Redis": {"REDIS_URL": "redis://:hunter2@127.0.0.1:1"},
    "RabbitMQ": {"BROKER_URL": "amqp://guest:hunter2@127.0.0.1:1/"},
}


@pytest.mark.parametrize("away", [["MySQL"], ["Redis"], ["RabbitMQ"], [*AWAY]], ids="-".join)
async def test_a_server_that_is_away_is_a_line_of_the_digest_and_the_others_are_told_of(
    site: Site, away: list[str]
) -> None:
    await site.models.save("collaborative", "7", b"model", {})
    await site.models.activate("collaborative", "7")
    environment = {**site.environment, **{name: url for server in away for name, url in AWAY[server].items()}}
    found = await run_here("digest", environment=environment)
    lines = found.out.splitlines()
    assert (found.code, [line.partition(": away: ")[0] for line in lines[: len(away)]]) == (1, away)
    assert all("refused" in line for line in lines[: len(away)])
    told = {"MySQL": "collaborative model: 7", "Redis": "LLM: 0.0000 USD today", "RabbitMQ": "waiting: 0 in "}
    begun = [server for server, beginning in told.items() if any(line.startswith(beginning) for line in lines)]
    assert begun == [server for server in AWAY if server not in away]
    assert "Is it running, and is it the one that " in found.err
    assert "hunter2" not in found.out + found.err
    as_json = json.loads((await run_here("digest", "--json", environment=environment)).out)
    assert [*as_json["troubles"]] == away
    unknown = {"MySQL": "failed_tasks", "Redis": "spent_today", "RabbitMQ": "waiting"}
    assert [server for server, key in unknown.items() if as_json[key] is None] == away


async def test_what_is_to_be_mended_is_a_line_of_the_digest_too(site: Site) -> None:
    refused = site.environment["BROKER_URL"].replace("guest:guest", "guest:hunter2")
    found = await run_here("digest", environment={**site.environment, "BROKER_URL": refused})
    assert found.out.startswith("RabbitMQ: BROKER_URL: the broker refused the user or the password\n")
    assert "collaborative model: none\nLLM: 0.0000 USD today\n" in found.out
    assert found.code != 0


async def test_servers_that_say_nothing_do_not_hold_the_digest_up(site: Site) -> None:
    async with (
        faulty_wire(site.environment["DATABASE_URL"]) as database,
        faulty_wire(site.environment["REDIS_URL"]) as redis,
        faulty_wire(site.environment["BROKER_URL"]) as broker,
        database.stalled(),
        redis.stalled(),
        broker.stalled(),
    ):
        mute = {"DATABASE_URL": database.url, "REDIS_URL": redis.url, "BROKER_URL": broker.url}
        async with asyncio.timeout(30):
            found = await run_here("digest", environment={**site.environment, **mute})
    assert found.code == 1
    assert sorted(line.partition(": away: ")[0] for line in found.out.splitlines()) == sorted(AWAY)


async def test_a_digest_without_a_server_is_told_to_those_who_are_named(site: Site) -> None:
    async with hook_server() as hooks:
        told = {**site.environment, **AWAY["Redis"], "NOTICE_WEBHOOK": hooks.url}
        assert (await run_here("digest", "--tell", environment=told)).code == 1
    [notice] = hooks.bodies
    assert notice["text"].startswith("Redis: away: ")


# --- workers that lead ---


async def test_of_two_workers_one_starts_what_was_missed_and_the_other_takes_over(site: Site) -> None:
    await site.fill()
    missed = await site.miss("clean_up")
    record_event(site.url, "old", 7, 1, "like", at=NOW - timedelta(days=400))
    async with workers(site, 2, **missed) as crew:
        await until(lambda: site.ended("clean_up"), within_s=30)
        run = (await site.runs.last())["clean_up"]
        assert run.outcome is TaskOutcome.SUCCEEDED
        assert run.detail.startswith("1 events deleted")
        leading = [await leads(each) for each in crew]
        assert sorted(leading) == [False, True]
        leader, other = (crew[leading.index(is_leader)] for is_leader in (True, False))
        assert run.worker.endswith(f":{leader.pid}")
        os.kill(leader.pid, signal.SIGKILL)
        await until(lambda: leads(other), within_s=10)
        # The new leader has put its fence there, or is about to; nothing was run again.
        assert replace((await site.runs.last())["clean_up"], fence=run.fence) == run


async def test_a_worker_that_is_told_so_starts_no_tasks(site: Site) -> None:
    await site.fill()
    missed = await site.miss("digest")
    async with workers(site, 1, **{**missed, "LEADER_LEASE_S": "0"}) as (worker,):
        assert not await leads(worker)
    last = await site.runs.last()
    assert last["digest"] == TaskRun(task="digest", covered_to=last["digest"].covered_to, fence=0)
