"""One job delivered many times, and many jobs of one member: workers side by side on a real broker and a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial

import orjson
import pytest
from redis.asyncio import Redis

from core.errors import DependencyUnavailable
from models.job import Job, JobStatus
from tests.support.backend import Document, job_body
from tests.support.crew import Kitchen, Worker, crew, publish
from tests.support.messaging import delete_topology, private_topology
from tests.support.waiting import until
from workers.amqp_broker import AmqpBroker
from workers.broker import OutgoingMessage
from workers.topology import Topology

pytestmark = pytest.mark.timeout(60)

PATIENCE_S = 20.0


@pytest.fixture
async def topology(amqp_url: str) -> AsyncIterator[Topology]:
    topology = private_topology(0.1, 0.2, 0.3)
    yield topology
    await delete_topology(amqp_url, topology)


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


@pytest.fixture
async def workers(amqp_url: str, redis_url: str, topology: Topology, kitchen: Kitchen) -> AsyncIterator[list[Worker]]:
    async with crew(amqp_url, redis_url, topology, kitchen, n=4) as workers:
        yield workers


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as redis:
        yield redis


async def job_shown(redis: Redis, key: str) -> str:
    """Whose documents ``key`` holds."""
    held = await redis.get(key)
    assert held is not None, f"{key} is not there"
    return str(orjson.loads(held)["job"])


async def nothing_waits(broker: AmqpBroker) -> bool:
    return not any((await broker.waiting([queue.name for queue in broker.topology.queues])).values())


async def all_settled(workers: list[Worker]) -> None:
    """Until no message is anywhere: neither ready nor with a worker."""

    async def is_settled() -> bool:
        return not any(each.consumer.n_unsettled for each in workers) and await nothing_waits(workers[0].broker)

    await until(is_settled, within_s=PATIENCE_S)


async def succeeded(worker: Worker, *job_ids: str) -> None:
    async def all_have() -> bool:
        views = [await worker.results.job(job_id) for job_id in job_ids]
        return all(view is not None and view.status is JobStatus.SUCCEEDED for view in views)

    await until(all_have, within_s=PATIENCE_S)


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


# --- one job, many deliveries ---


async def test_a_job_delivered_a_hundred_times_to_four_workers_at_once_is_run_once(
    workers: list[Worker], kitchen: Kitchen
) -> None:
    jobs = [job_body(member) for member in range(3)]

    async def slowly(_: Job) -> None:
        await asyncio.sleep(0.2)

    kitchen.before = slowly
    await publish(workers[0].broker, [job for job in jobs for _ in range(100)])
    await succeeded(workers[0], *(job["jobId"] for job in jobs))
    await all_settled(workers)
    assert set(kitchen.runs.values()) == {1}
    assert kitchen.n_calls == 3


async def test_deliveries_that_come_after_the_end_change_nothing(
    workers: list[Worker], kitchen: Kitchen, redis: Redis
) -> None:
    job = job_body(7)
    await publish(workers[0].broker, [job])
    await succeeded(workers[0], job["jobId"])
    before = {key: await redis.dump(key) async for key in redis.scan_iter()}
    await publish(workers[1].broker, [job] * 50)
    await all_settled(workers)
    assert kitchen.n_calls == 1
    assert {key: await redis.dump(key) async for key in redis.scan_iter()} == before


async def test_a_delivery_of_a_job_that_another_worker_holds_is_kept_until_that_ones_lease_is_over(
    workers: list[Worker], kitchen: Kitchen, redis: Redis
) -> None:
    job = job_body(7)
    await redis.hset(f"job:status:{job['jobId']}", mapping={"status": "running", "progress": "10"})
    await redis.set(f"songs_ai:lease:{job['jobId']}", "dead", px=800)
    began_s = asyncio.get_running_loop().time()
    await publish(workers[0].broker, [job])
    await succeeded(workers[0], job["jobId"])
    assert asyncio.get_running_loop().time() - began_s >= 0.8 - 0.05
    await all_settled(workers)
    assert kitchen.n_calls == 1


async def test_attempts_are_not_used_up_by_waiting_for_another_worker(
    workers: list[Worker], kitchen: Kitchen, redis: Redis
) -> None:
    job = job_body(7, attempt=3)
    await redis.set(f"songs_ai:lease:{job['jobId']}", "dead", px=1500)
    await publish(workers[0].broker, [job])
    await succeeded(workers[0], job["jobId"])
    assert kitchen.n_calls == 1


async def test_all_copies_of_a_job_that_fails_leave_one_dead_letter(
    amqp_url: str, redis_url: str, topology: Topology, kitchen: Kitchen
) -> None:
    async def break_down(_: Job) -> None:
        await asyncio.sleep(0.1)
        raise ZeroDivisionError

    kitchen.before = break_down
    job = job_body(7)
    dead = topology.main.dead_letter_queue
    async with crew(amqp_url, redis_url, topology, kitchen, n=3) as workers:
        broker = workers[0].broker
        await publish(broker, [job] * 20)
        await until(partial(has_dead_letters, broker, dead, 1), within_s=PATIENCE_S)
        await until(partial(is_idle, workers), within_s=PATIENCE_S)
        assert (kitchen.n_calls, await broker.waiting([dead])) == (1, {dead: 1})
        view = await workers[0].results.job(job["jobId"])
    assert view is not None
    assert (view.status, view.fields["error.code"]) == (JobStatus.FAILED, "INTERNAL_ERROR")


# --- two jobs of one member ---


@pytest.mark.parametrize("newer_first", [True, False])
async def test_of_two_jobs_of_one_member_at_once_the_newer_request_wins_whichever_ends_last(
    workers: list[Worker], kitchen: Kitchen, redis: Redis, newer_first: bool
) -> None:
    older, newer = job_body(7, requestedAt=at(-1)), job_body(7, requestedAt=at(0))
    last = older if newer_first else newer
    first_is_done = asyncio.Event()

    async def in_turn(job: Job) -> None:
        if job.job_id == last["jobId"]:
            await first_is_done.wait()

    kitchen.before = in_turn
    await publish(workers[0].broker, [older, newer])
    await succeeded(workers[0], (newer if newer_first else older)["jobId"])
    first_is_done.set()
    await succeeded(workers[0], older["jobId"], newer["jobId"])
    for key in ("latest:recommendation:7", "recommend:7", "preference:7"):
        assert await job_shown(redis, key) == newer["jobId"]
    for each in (older, newer):
        assert await job_shown(redis, f"job:result:{each['jobId']}") == each["jobId"]


async def test_of_thirty_jobs_of_one_member_at_once_the_newest_owns_what_the_member_sees(
    workers: list[Worker], kitchen: Kitchen, redis: Redis
) -> None:
    jobs = [job_body(7, requestedAt=at(second)) for second in range(-30, 0)]
    steps = {job["jobId"]: (place * 7) % 30 for place, job in enumerate(jobs)}

    async def out_of_order(job: Job) -> None:
        await asyncio.sleep(steps[job.job_id] / 100)

    kitchen.before = out_of_order
    await publish(workers[0].broker, jobs)
    await succeeded(workers[0], *steps)
    assert await job_shown(redis, "latest:recommendation:7") == jobs[-1]["jobId"]


# --- one idempotency key ---


def keyed(member_id: int, key: str | None) -> Document:
    return job_body(member_id, idempotencyKey=key)


async def test_jobs_of_one_member_and_one_key_at_once_are_run_once_and_all_end_with_that_result(
    workers: list[Worker], kitchen: Kitchen, redis: Redis
) -> None:
    async def slowly(_: Job) -> None:
        await asyncio.sleep(0.2)

    kitchen.before = slowly
    jobs = [keyed(7, "tap") for _ in range(12)]
    await publish(workers[0].broker, jobs)
    await succeeded(workers[0], *(job["jobId"] for job in jobs))
    await all_settled(workers)
    assert kitchen.n_calls == 1
    (ran,) = kitchen.runs
    assert {await job_shown(redis, f"job:result:{job['jobId']}") for job in jobs} == {ran}


async def test_a_key_is_its_members_own_and_an_empty_one_is_none(workers: list[Worker], kitchen: Kitchen) -> None:
    jobs = [keyed(7, "tap"), keyed(8, "tap"), keyed(7, "other"), keyed(7, ""), keyed(7, ""), keyed(7, None)]
    await publish(workers[0].broker, jobs)
    await succeeded(workers[0], *(job["jobId"] for job in jobs))
    assert kitchen.n_calls == 6


async def test_a_key_whose_first_job_failed_is_free_for_the_second(workers: list[Worker], kitchen: Kitchen) -> None:
    first, second = keyed(7, "tap"), keyed(7, "tap")

    async def break_down_once(job: Job) -> None:
        if job.job_id == first["jobId"]:
            raise ZeroDivisionError

    kitchen.before = break_down_once
    await publish(workers[0].broker, [first])
    await until(lambda: has_failed(workers[0], first["jobId"]), within_s=PATIENCE_S)
    await publish(workers[0].broker, [second])
    await succeeded(workers[0], second["jobId"])


async def has_failed(worker: Worker, job_id: str) -> bool:
    view = await worker.results.job(job_id)
    return view is not None and view.status is JobStatus.FAILED


# --- replays ---


async def test_a_replay_sent_twice_is_run_once_and_leaves_one_dead_letter(
    amqp_url: str, redis_url: str, topology: Topology, kitchen: Kitchen
) -> None:
    async def break_down(_: Job) -> None:
        raise ZeroDivisionError

    kitchen.before = break_down
    dead = topology.main.dead_letter_queue
    body = orjson.dumps(job_body(7))
    main = topology.main
    async with crew(amqp_url, redis_url, topology, kitchen, n=2) as workers:
        broker = workers[0].broker
        for number, copies in ((0, 1), (1, 5), (2, 5)):
            headers = {"x-replayed": number} if number else {}
            message = OutgoingMessage(exchange=main.exchange, routing_key=main.routing_key, body=body, headers=headers)
            await asyncio.gather(*(broker.publish(message) for _ in range(copies)))
            await until(partial(has_dead_letters, broker, dead, number + 1), within_s=PATIENCE_S)
            await until(partial(is_idle, workers), within_s=PATIENCE_S)
        assert (kitchen.n_calls, await broker.waiting([dead])) == (3, {dead: 3})


async def has_dead_letters(broker: AmqpBroker, queue: str, n: int) -> bool:
    return (await broker.waiting([queue]))[queue] >= n


async def is_idle(workers: list[Worker]) -> bool:
    topology = workers[0].broker.topology
    others = [queue.name for queue in topology.queues if queue.name != topology.main.dead_letter_queue]
    unsettled = any(each.consumer.n_unsettled for each in workers)
    return not unsettled and not any((await workers[0].broker.waiting(others)).values())


# --- a worker that dies while it gives a job up ---


@pytest.mark.parametrize("moment", ["before the failure is told", "before the dead letter", "before the ack"])
async def test_a_worker_that_dies_while_it_gives_a_job_up_leaves_exactly_one_dead_letter(
    amqp_url: str,
    redis_url: str,
    topology: Topology,
    kitchen: Kitchen,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    async def break_down(_: Job) -> None:
        raise DependencyUnavailable("database", "does not answer")

    kitchen.before = break_down
    job = job_body(7)
    dead = topology.main.dead_letter_queue
    is_reached = asyncio.Event()

    async def die(*_: object, **__: object) -> None:
        is_reached.set()
        await asyncio.Event().wait()

    async with crew(amqp_url, redis_url, topology, kitchen, n=1, max_attempts=1) as (mortal,):
        match moment:
            case "before the failure is told":
                monkeypatch.setattr(mortal.results, "fail", die)
            case "before the dead letter":
                monkeypatch.setattr(mortal.broker, "publish", die)
            case _:
                monkeypatch.setattr(mortal.broker, "ack", die)
        await backend_publishes(amqp_url, topology, job)
        async with asyncio.timeout(PATIENCE_S):
            await is_reached.wait()
        # As a kill does: its deliveries unsettled, its lease not given up.
        monkeypatch.setattr(mortal.results, "release", nothing_done)
        await mortal.consumer.stop(0)
    async with crew(amqp_url, redis_url, topology, kitchen, n=2, max_attempts=1) as workers:
        await until(partial(has_dead_letters, workers[0].broker, dead, 1), within_s=PATIENCE_S)
        await until(partial(is_idle, workers), within_s=PATIENCE_S)
        view = await workers[0].results.job(job["jobId"])
        assert view is not None
        assert (view.status, view.fields["error.code"]) == (JobStatus.FAILED, "DEPENDENCY_UNAVAILABLE")
        async with workers[0].broker.browse(dead) as deliveries:
            (letter,) = [delivery async for delivery in deliveries]
    assert orjson.loads(letter.body) == job
    assert letter.headers["x-dead-letter-reason"] == "attempts_used_up"
    assert letter.headers["x-last-error"] == "database: does not answer"
    assert kitchen.n_calls == (2 if moment == "before the failure is told" else 1)


async def backend_publishes(amqp_url: str, topology: Topology, job: Document) -> None:
    broker = AmqpBroker(amqp_url, topology)
    await broker.start()
    await publish(broker, [job])
    await broker.close()


async def nothing_done(*_: object, **__: object) -> None:
    pass
