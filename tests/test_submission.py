"""Jobs of ours on their way to a queue that does not take them."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import pytest
import pytest_asyncio

from core.errors import PublishRefused
from core.ports.batches import BatchQuestion
from core.ports.results import Claim
from core.refresh_job import refresh_job
from core.submission import submit
from models.job import Job, JobStatus
from services.clock import SystemClock
from services.redis_client import open_redis
from services.result_cache import RedisResultCache
from tests.support.http_app import RecordingPublisher
from training.online_refresh import submit_refreshes

TODAY = date(2026, 11, 21)
ASKED_NS = int(datetime.now(UTC).timestamp()) * 1_000_000_000
QUESTION = BatchQuestion(custom_id="f", member_id=42, locale="en", taste_mark="", shown_ids=())


@pytest_asyncio.fixture
async def results() -> AsyncIterator[RedisResultCache]:
    async with open_redis("memory://", max_connections=5, timeout_s=5) as redis:
        yield RedisResultCache(redis, SystemClock(), job_ttl_s=600, cache_ttl_s=600, lease_s=15)


async def status_of(results: RedisResultCache, job: Job) -> JobStatus | None:
    view = await results.job(job.job_id)
    return view.status if view else None


async def test_a_job_that_no_queue_takes_has_failed_where_its_poller_looks(results: RedisResultCache) -> None:
    publisher, job = RecordingPublisher(results), Job(job_id="j", member_id=42)
    publisher.refused_members = {42}
    with pytest.raises(PublishRefused):
        await submit(job, results=results, publisher=publisher)
    assert await status_of(results, job) is JobStatus.FAILED


async def test_a_refresh_that_no_queue_took_is_run_when_the_next_run_publishes_it(results: RedisResultCache) -> None:
    publisher = RecordingPublisher(results)
    publisher.refused_members = {42}
    with pytest.raises(PublishRefused):
        await submit_refreshes([QUESTION], TODAY, ASKED_NS, results=results, publisher=publisher)
    publisher.refused_members = set()
    later_ns = ASKED_NS + timedelta(hours=1) // timedelta(microseconds=1) * 1000
    await submit_refreshes([QUESTION], TODAY, later_ns, results=results, publisher=publisher)
    job = refresh_job(42, TODAY, requested_at_ns=later_ns, locale="en")
    assert await status_of(results, job) is JobStatus.QUEUED
    assert await results.claim(job, token="t") is Claim.GRANTED
