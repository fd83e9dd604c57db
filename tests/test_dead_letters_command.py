"""``dead-letters`` as people use it: a process of its own on a real queue, killed wherever that could hurt."""

import asyncio
import hashlib
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson
import pytest

from core.job_codec import decode_job
from models.job import Job, JobStatus
from services.clock import SystemClock
from services.redis_client import open_redis
from services.result_cache import RedisResultCache
from tests.support.backend import job_body
from tests.support.command import Outcome, run_command, run_here
from tests.support.crew import FAST, Kitchen, crew
from tests.support.messaging import delete_topology
from tests.support.waiting import until
from tests.support.worker_process import ROOT
from workers.amqp_broker import AmqpBroker
from workers.broker import OutgoingMessage
from workers.dead_letters import read_letter
from workers.topology import Topology, build_topology

pytestmark = pytest.mark.timeout(90)

PATIENCE_S = 20.0
DELAYS_S = (0.1, 0.2, 0.3)
POISON = b"\x1b[2J\xff not a job"
SECRET = "hunter2"
NAMES = ("a", "b", "c")


@dataclass(frozen=True, slots=True)
class Queue:
    """A dead-letter queue on a real broker, and who looks into it."""

    broker: AmqpBroker
    results: RedisResultCache
    environment: Mapping[str, str]

    @property
    def topology(self) -> Topology:
        return self.broker.topology

    @property
    def dead(self) -> str:
        return self.topology.main.dead_letter_queue

    async def put(self, body: bytes, **headers: object) -> None:
        main = self.topology.main
        await self.broker.publish(
            OutgoingMessage(
                exchange=main.dead_letter_exchange, routing_key=main.dead_letter_key, body=body, headers=headers
            )
        )

    async def put_failed(self, *names: str) -> None:
        """As a worker leaves them that had MySQL away."""
        for name in names:
            job = Job(job_id=name, member_id=7)
            await self.results.claim(job, token="w")
            await self.results.fail(name, code="DEPENDENCY_UNAVAILABLE", message="no", token="w")
            await self.put(
                orjson.dumps(job_body(7, jobId=name, attempt=3)),
                **{
                    "__TypeId__": "com.example.Job",
                    "x-dead-letter-reason": "attempts_used_up",
                    "x-last-error-code": "DEPENDENCY_UNAVAILABLE",
                    "x-last-error": f"database: mysql://root:{SECRET}@db/songs does not answer",
                },
            )

    async def run(self, *command: str) -> Outcome:
        return await run_here("dead-letters", *command, environment=self.environment)

    async def waiting(self, queue: str) -> list[str]:
        async with self.broker.browse(queue) as deliveries:
            return [read_letter(delivery).letter_id async for delivery in deliveries]

    async def n_ready(self, n_dead: int, n_back: int) -> bool:
        counts = await self.broker.waiting([self.dead, self.topology.main.queue])
        return counts == {self.dead: n_dead, self.topology.main.queue: n_back}

    async def all_done(self, *names: str) -> bool:
        views = [await self.results.job(name) for name in names]
        return all(view is not None and view.status is JobStatus.SUCCEEDED for view in views)


@pytest.fixture
async def queue(amqp_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Queue]:
    prefix = f"dead.{os.urandom(4).hex()}"
    environment = {
        "BROKER_URL": amqp_url,
        "REDIS_URL": redis_url,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'none.db'}",
        "NAME_PREFIX": prefix,
        "RETRY_DELAYS_S": ",".join(map(str, DELAYS_S)),
        "LOG_LEVEL": "ERROR",
    }
    topology = build_topology(prefix, DELAYS_S)
    broker = AmqpBroker(amqp_url, topology, timings=FAST)
    await broker.start()
    async with open_redis(redis_url, max_connections=5, timeout_s=5) as redis:
        results = RedisResultCache(redis, SystemClock(), job_ttl_s=86_400, cache_ttl_s=604_800, lease_s=15)
        yield Queue(broker, results, environment)
    await broker.close()
    await delete_topology(amqp_url, topology)


# --- looking ---


async def test_letters_are_listed_in_pages_for_people_and_for_programs(queue: Queue) -> None:
    await queue.put_failed(*NAMES)
    await queue.put(POISON, **{"x-dead-letter-reason": "invalid"})
    table = await queue.run("list", "--limit", "2", "--offset", "1")
    assert table.code == 0
    assert "2 of 4 shown" in table.out
    assert [name in table.out for name in (" b ", " c ", "DEPENDENCY_UNAVAILABLE", SECRET)] == [True, True, True, False]
    found = await queue.run("list", "--json", "--where", "error=DEPENDENCY_UNAVAILABLE")
    rows = [json.loads(line) for line in found.out.splitlines()]
    assert [(row["id"], row["memberId"], row["tries"], row["isJob"]) for row in rows] == [
        (n, 7, 4, True) for n in NAMES
    ]
    assert SECRET not in found.out
    poison = [json.loads(line) for line in (await queue.run("list", "--json", "--offset", "3")).out.splitlines()]
    assert [(row["isJob"], row["reason"]) for row in poison] == [(False, "invalid")]
    assert await queue.n_ready(4, 0)


async def test_letters_of_events_are_listed_shown_and_purged_apart_from_those_of_jobs(queue: Queue) -> None:
    await queue.put_failed("a")
    events, body = queue.topology.events, b'{"eventId":"e","memberId":7,"type":"sing"}'
    letter = OutgoingMessage(
        exchange=events.dead_letter_exchange,
        routing_key=events.dead_letter_key,
        body=body,
        headers={"x-dead-letter-reason": "invalid", "x-last-error": "type: must be one of like"},
    )
    await queue.broker.publish(letter)
    [row] = [json.loads(line) for line in (await queue.run("list", "--events", "--json")).out.splitlines()]
    assert (row["id"], row["reason"]) == (read_letter_id(body), "invalid")
    shown = await queue.run("show", "--events", row["id"])
    assert "type: must be one of like" in shown.out
    assert '"type":"sing"' in shown.out
    assert (await queue.run("purge", "--events", "--all", "--yes")).out == "1 purged\n"
    assert await queue.waiting(events.dead_letter_queue) == []
    assert await queue.waiting(queue.dead) == ["a"]


async def test_a_letter_is_shown_whole_without_its_secrets_and_harmless_to_a_terminal(queue: Queue) -> None:
    await queue.put_failed("a")
    await queue.put(POISON)
    shown = await queue.run("show", "a")
    assert (shown.code, SECRET in shown.out) == (0, False)
    for part in ("4 tries", "attempts_used_up", "mysql://root:***@db/songs", "com.example.Job", '"jobId":"a"'):
        assert part in shown.out
    poison_id = read_letter_id(POISON)
    poison = await queue.run("show", poison_id)
    assert "cannot be replayed: body: must be UTF-8" in poison.out
    assert r"\x1b[2J\xff not a job" in poison.out
    assert "\x1b" not in poison.out
    assert json.loads((await queue.run("show", "a", "--json")).out)["headers"]["__TypeId__"] == "com.example.Job"
    missing = await queue.run("show", "nobody")
    assert (missing.code, "no dead letter is called 'nobody'" in missing.err) == (1, True)


def read_letter_id(body: bytes) -> str:
    return f"body-{hashlib.sha256(body).hexdigest()[:12]}"


# --- replaying ---


async def test_replayed_jobs_run_and_what_is_no_job_stays(queue: Queue, amqp_url: str, redis_url: str) -> None:
    await queue.put_failed(*NAMES)
    await queue.put(POISON)
    dry = await queue.run("replay", "--all", "--dry-run")
    assert dry.out == "3 replayed, 1 left: no job message (see `dead-letters show`) (nothing is done: --dry-run)\n"
    assert await queue.n_ready(4, 0)
    outcome = await queue.run("replay", "--all")
    assert (outcome.code, outcome.out.startswith("3 replayed, 1 left")) == (0, True)
    assert "must be UTF-8" in outcome.err
    assert await queue.waiting(queue.topology.main.queue) == [*NAMES]
    kitchen = Kitchen()
    async with crew(amqp_url, redis_url, queue.topology, kitchen, n=2):
        await until(partial(queue.all_done, *NAMES), within_s=PATIENCE_S)
    assert kitchen.runs == dict.fromkeys(NAMES, 1)
    assert await queue.waiting(queue.dead) == [read_letter_id(POISON)]


async def test_jobs_are_replayed_by_name_and_a_name_that_is_not_there_is_told(queue: Queue) -> None:
    await queue.put_failed(*NAMES)
    outcome = await queue.run("replay", "b", "nobody")
    assert (outcome.code, outcome.out) == (1, "1 replayed\n")
    assert "no dead letter is called nobody" in outcome.err
    assert await queue.waiting(queue.dead) == ["a", "c"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("replay",), "--all"),
        (("purge", "--yes"), "--all"),
        (("purge", "--all"), "--yes"),
        (("purge", "--all", "--to", "-", "--json"), "--json"),
        (("replay", "--where", "colour=red"), "--where"),
    ],
)
async def test_nothing_is_done_that_was_not_said(queue: Queue, command: tuple[str, ...], said: str) -> None:
    await queue.put_failed("a")
    outcome = await queue.run(*command)
    assert outcome.code != 0
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert await queue.n_ready(1, 0)


async def test_a_broker_in_memory_has_no_dead_letters_to_show(queue: Queue) -> None:
    outcome = await run_here("dead-letters", "list", environment={**queue.environment, "BROKER_URL": "memory://"})
    assert (outcome.code, "BROKER_URL" in outcome.err) == (2, True)


async def test_help_shows_examples(queue: Queue) -> None:
    for command in ("list", "show", "replay", "purge"):
        outcome = await queue.run(command, "--help")
        assert (outcome.code, f"python main.py dead-letters {command}" in outcome.out) == (0, True)


# --- purging ---


async def test_what_is_purged_is_written_to_a_file_first_to_the_byte(queue: Queue, tmp_path: Path) -> None:
    await queue.put_failed("a", "b")
    await queue.put(POISON, **{"x-dead-letter-reason": "invalid"})
    file = tmp_path / "purged.jsonl"
    assert (await queue.run("purge", "--where", "reason=invalid", "--to", str(file))).code == 0
    assert (await queue.run("purge", "a", "--to", str(file))).out == f"1 purged; kept in {file}\n"
    poison, job = [json.loads(line) for line in file.read_text().splitlines()]
    assert poison["bodyBase64"] == "G1sySv8gbm90IGEgam9i"
    assert decode_job(job["body"].encode()).job_id == "a"
    assert SECRET in job["headers"]["x-last-error"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert await queue.waiting(queue.dead) == ["b"]


async def test_a_file_that_cannot_be_written_purges_nothing(queue: Queue, tmp_path: Path) -> None:
    await queue.put_failed("a")
    outcome = await queue.run("purge", "--all", "--to", str(tmp_path / "no" / "such" / "file"))
    assert (outcome.code, "Traceback" in outcome.err) == (1, False)
    assert "--to - writes to standard output" in outcome.err
    assert await queue.n_ready(1, 0)


async def test_what_is_purged_can_be_written_to_standard_output_where_nothing_else_is_said(queue: Queue) -> None:
    await queue.put_failed("a", "b")
    await queue.put(POISON, **{"x-dead-letter-reason": "invalid"})
    outcome = await run_command(*["dead-letters", "purge", "--all", "--to", "-"], environment=queue.environment)
    assert (outcome.code, outcome.err) == (0, "3 purged; written to standard output\n")
    first, second, poison = [json.loads(line) for line in outcome.out.splitlines()]
    assert [decode_job(each["body"].encode()).job_id for each in (first, second)] == ["a", "b"]
    assert poison["bodyBase64"] == "G1sySv8gbm90IGEgam9i"
    assert await queue.n_ready(0, 0)
    assert not (ROOT / "-").exists()


async def test_a_pipe_that_nobody_reads_any_more_purges_nothing(queue: Queue) -> None:
    await queue.put_failed("a", "b")
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "main.py"), "dead-letters", "purge", "--all", "--to", "-"),
        env={**os.environ, **queue.environment},
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writing)
    async with asyncio.timeout(PATIENCE_S):
        _, said = await process.communicate()
    assert (process.returncode, said.decode().splitlines()) == (
        1,
        ["none", "--to -: Broken pipe; what was not written is where it was"],
    )
    assert await queue.n_ready(2, 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no disk that is always full")
async def test_a_full_disk_purges_nothing(queue: Queue) -> None:
    await queue.put_failed("a")
    outcome = await queue.run("purge", "--all", "--to", "/dev/full")
    assert (outcome.code, "No space left on device" in outcome.err) == (1, True)
    assert await queue.n_ready(1, 0)


# --- killed and interrupted ---


async def stopped(queue: Queue, method: str, number: int, moment: str, *command: str) -> asyncio.subprocess.Process:
    """The command, once it stands still at that moment."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.stopped_command", method, str(number), moment, "dead-letters", *command),
        env={**os.environ, **queue.environment},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        assert await process.stdout.readline() == b"reached\n"
    return process


@pytest.mark.parametrize(
    ("method", "number", "moment", "n_dead", "n_back"),
    [
        ("publish", 2, "before", 2, 1),
        ("ack", 2, "before", 2, 2),
        ("ack", 2, "after", 1, 2),
    ],
)
async def test_a_replay_killed_at_any_moment_loses_nothing_and_a_second_one_repeats_nothing(
    queue: Queue,
    amqp_url: str,
    redis_url: str,
    method: str,
    number: int,
    moment: str,
    n_dead: int,
    n_back: int,
) -> None:
    await queue.put_failed(*NAMES)
    process = await stopped(queue, method, number, moment, "replay", "--all")
    process.kill()
    await process.wait()
    await until(partial(queue.n_ready, n_dead, n_back), within_s=PATIENCE_S)
    there = {*await queue.waiting(queue.dead), *await queue.waiting(queue.topology.main.queue)}
    assert there == {*NAMES}

    assert (await queue.run("replay", "--all")).code == 0
    kitchen, failing = Kitchen(), Kitchen()

    async def break_down(_: Job) -> None:
        raise ZeroDivisionError

    failing.before = break_down
    async with crew(amqp_url, redis_url, queue.topology, failing, n=2):
        await until(partial(queue.n_ready, 3, 0), within_s=PATIENCE_S)
        await until(partial(nobody_works, queue), within_s=PATIENCE_S)
    assert sorted(await queue.waiting(queue.dead)) == [*NAMES]
    assert failing.runs == dict.fromkeys(NAMES, 1)

    assert (await queue.run("replay", "--all")).out == "3 replayed\n"
    async with crew(amqp_url, redis_url, queue.topology, kitchen, n=2):
        await until(partial(queue.all_done, *NAMES), within_s=PATIENCE_S)
        await until(partial(queue.n_ready, 0, 0), within_s=PATIENCE_S)
    assert kitchen.runs == dict.fromkeys(NAMES, 1)


async def nobody_works(queue: Queue) -> bool:
    names = [each.name for each in queue.topology.queues if each.name != queue.dead]
    return not any((await queue.broker.waiting(names)).values())


async def test_a_replay_of_what_a_killed_one_had_sent_already_is_told_once_it_ran(
    queue: Queue, amqp_url: str, redis_url: str
) -> None:
    await queue.put_failed(*NAMES)
    process = await stopped(queue, "ack", 2, "before", "replay", "--all")
    process.kill()
    await process.wait()
    await until(partial(queue.n_ready, 2, 2), within_s=PATIENCE_S)
    kitchen = Kitchen()
    async with crew(amqp_url, redis_url, queue.topology, kitchen, n=1):
        await until(partial(queue.all_done, "a", "b"), within_s=PATIENCE_S)
        again = await run_command("dead-letters", "replay", "--all", environment=queue.environment)
        assert again.out == "1 taken off: succeeded since, 1 replayed\n"
        await until(partial(queue.all_done, *NAMES), within_s=PATIENCE_S)
    assert kitchen.runs == dict.fromkeys(NAMES, 1)


async def test_a_purge_killed_before_its_ack_leaves_letter_and_copy(queue: Queue, tmp_path: Path) -> None:
    await queue.put_failed(*NAMES)
    file = tmp_path / "purged.jsonl"
    process = await stopped(queue, "ack", 2, "before", "purge", "--all", "--to", str(file))
    process.kill()
    await process.wait()
    await until(partial(queue.n_ready, 2, 0), within_s=PATIENCE_S)
    assert await queue.waiting(queue.dead) == ["b", "c"]
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == ["a", "b"]


async def test_an_interrupted_replay_ends_in_order_and_says_how_far_it_came(queue: Queue) -> None:
    await queue.put_failed(*NAMES)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "main.py"), "dead-letters", "replay", "--all", "--rate", "0.01"),
        env={**os.environ, **queue.environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await until(partial(queue_holds, queue, 1), within_s=PATIENCE_S)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert process.returncode not in {0, None}
    assert out.decode().startswith("1 replayed")
    assert b"Traceback" not in err
    await until(partial(queue.n_ready, 2, 1), within_s=PATIENCE_S)
    assert await queue.waiting(queue.dead) == ["b", "c"]


async def queue_holds(queue: Queue, n: int) -> bool:
    name = queue.topology.main.queue
    return (await queue.broker.waiting([name]))[name] == n
