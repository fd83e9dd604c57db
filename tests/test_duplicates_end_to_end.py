"""Order, duplicates and age through real worker processes: who dies, who is late, who comes twice."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.backend import Document, job_body
from tests.support.llm_server import LLMServer
from tests.support.waiting import until
from tests.support.worker_process import WorkerProcess, worker
from tests.test_end_to_end import Site, all_succeeded, open_site, queues_are_empty

pytestmark = pytest.mark.timeout(120)

LEASE_S = 2.0


@pytest.fixture
async def site(amqp_url: str, mysql_url: str, redis_url: str, llm_server: LLMServer) -> AsyncIterator[Site]:
    async with open_site(amqp_url, mysql_url, redis_url, llm_server) as site:
        yield site


def asked(hours_ago: float) -> str:
    return (datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat().replace("+00:00", "Z")


async def holder_of(job: Document, *workers: WorkerProcess) -> WorkerProcess:
    """The worker that was given the job."""

    async def is_given() -> bool:
        return any(job["jobId"] in each.log for each in workers)

    await until(is_given, within_s=20)
    return next(each for each in workers if job["jobId"] in each.log)


async def test_when_a_worker_is_killed_the_redelivery_wins_once_its_lease_is_over_and_copies_wait_as_well(
    site: Site,
) -> None:
    site.llm.delay_s = 2.5
    job = job_body(7, [3, 4, 5])
    async with worker(site.environment) as first, worker(site.environment) as second:
        await site.backend.publish([job])
        await site.llm.called(1)
        holder = await holder_of(job, first, second)
        survivor = second if holder is first else first
        site.llm.delay_s = 0
        await site.backend.publish([job] * 10)
        await holder.kill()
        killed_s = time.monotonic()
        await all_succeeded(site, [job])
        assert LEASE_S / 2 < time.monotonic() - killed_s < LEASE_S + 8
        await until(lambda: queues_are_empty(site), within_s=20)

        async def all_are_counted() -> bool:
            told = await survivor.metrics()
            # More than ten copies, where the one that was killed had published a copy's retry and not acked it yet.
            return acked(told, "succeeded") == 1 and acked(told, "succeeded_before") >= 10

        await until(all_are_counted, within_s=10)
        metrics = await survivor.metrics()
    assert site.llm.n_calls == 2
    assert counted(metrics, 'songs_ai_retries_total{delay="0.2s",route="main"}') >= 10


def counted(metrics: str, series: str) -> float:
    return next((float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(series)), 0.0)


def acked(metrics: str, reason: str) -> float:
    return counted(metrics, f'songs_ai_deliveries_settled_total{{outcome="acked",reason="{reason}",route="main"}}')


async def test_a_result_that_comes_late_replaces_neither_a_newer_provisional_one_nor_a_newer_result(
    site: Site,
) -> None:
    older = job_body(7, [3, 4, 5], requestedAt=asked(1 / 60))
    newer = job_body(7, [6, 7, 8], requestedAt=asked(0))
    site.llm.delay_s = 1.5
    async with worker({**site.environment, "LLM_TIMEOUT_S": "8", "JOB_TIMEOUT_S": "60"}):
        await site.backend.publish([older])
        await site.llm.called(1)
        site.llm.delay_s = 3.0
        await site.backend.publish([newer])
        await site.llm.called(2)
        shown = await site.backend.json("recommend:7")
        assert (shown["provisional"], shown["favorite_song_ids"]) == (True, [6, 7, 8])
        await site.backend.wait([older["jobId"]], 20, until={"succeeded"})
        assert await site.backend.json("recommend:7") == shown
        assert (await site.backend.json("latest:recommendation:7"))["provisional"] is True
        assert (await site.backend.result(older["jobId"]))["provisional"] is False
        await all_succeeded(site, [newer])
    assert await site.backend.json("latest:recommendation:7") == await site.backend.result(newer["jobId"])
    assert (await site.backend.json("recommend:7"))["favorite_song_ids"] == [6, 7, 8]
    assert (await site.backend.json("preference:7"))["favorite_song_ids"] == [6, 7, 8]


async def test_jobs_of_one_key_on_two_workers_cost_one_call_and_end_with_one_result(site: Site) -> None:
    site.llm.delay_s = 0.5
    jobs = [job_body(7, [likes, 4, 5], idempotencyKey="tap") for likes in range(10, 18)]
    other = job_body(8, [3, 4, 5], idempotencyKey="tap")
    async with worker(site.environment), worker(site.environment):
        await site.backend.publish([*jobs, other])
        await site.backend.wait([job["jobId"] for job in [*jobs, other]], 30, until={"succeeded"})
    results = [await site.backend.result(job["jobId"]) for job in jobs]
    assert all(result == results[0] for result in results)
    assert site.llm.n_calls == 2


async def test_a_job_that_comes_too_late_is_told_so_and_costs_nothing(site: Site) -> None:
    stale, fresh = job_body(7, [3, 4, 5], requestedAt=asked(2)), job_body(8, [3, 4, 5], requestedAt=asked(0.5))
    fast_clock = job_body(9, [3, 4, 5], requestedAt=asked(-5))
    async with worker({**site.environment, "JOB_MAX_AGE_S": "3600"}) as process:
        await site.backend.publish([stale, stale, fresh, fast_clock])
        await all_succeeded(site, [fresh, fast_clock])
        statuses = await site.backend.wait([stale["jobId"]], 20)
        await until(lambda: queues_are_empty(site), within_s=20)
        metrics = await process.metrics()
    fields = statuses[stale["jobId"]]
    assert (fields["status"], fields["error.code"]) == ("failed", "STALE")
    assert "3600 s" in fields["error.message"]
    assert site.llm.n_calls == 2
    assert not await site.backend.exists(f"job:result:{stale['jobId']}")
    assert 'songs_ai_deliveries_settled_total{outcome="acked",reason="stale",route="main"} 1.0' in metrics
    assert 'songs_ai_recommendations_total{outcome="succeeded",source="login"} 2.0' in metrics
