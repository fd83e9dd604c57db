"""Jobs whose member is forgotten while they are asked for, wait or are under way."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from core.errors import MemberForgotten
from core.feedback import DueRefresh, RefreshRequests
from core.ports.results import Claim
from models.job import Job
from services.answer_cache import RedisAnswerCache
from services.clock import SystemClock
from tests.support.event_site import EventSite, documents_of, event_site
from tests.support.waiting import until
from workers.event_refreshes import RequestedRefreshes

JOB = Job(job_id="job-1", member_id=42)
A_SECOND = timedelta(seconds=1)


class ForgetsOnceTaken:
    """Refresh requests whose member is forgotten between their taking and their job's publishing."""

    def __init__(self, site: EventSite) -> None:
        self._site = site
        self.ask, self.done = site.requests.ask, site.requests.done

    async def take(self, n: int) -> Sequence[DueRefresh]:
        taken = await self._site.requests.take(n)
        for each in taken:
            await self._site.forgetting.forget(each.member_id, datetime.now(UTC))
        return taken


class AlwaysMoved:
    async def has_moved(self, member_id: int) -> bool:
        return True


class Published:
    """Keeps the jobs that are published."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    async def publish_job(self, job: Job, *, batch: bool = False) -> None:
        self.jobs.append(job)


class SilentRefreshes:
    def requested_refresh(self, *, outcome: str) -> None:
        pass


def refreshing(site: EventSite, requests: RefreshRequests, published: Published) -> RequestedRefreshes:
    return RequestedRefreshes(
        requests,
        AlwaysMoved(),
        results=site.results,
        publisher=published,
        clock=SystemClock(),
        observer=SilentRefreshes(),
        poll_s=0.01,
    )


class ForgottenJobs:
    @pytest.fixture
    def redis_at(self) -> str:
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def site(self, tmp_path: Path, redis_at: str) -> AsyncIterator[EventSite]:
        async with event_site(f"sqlite:///{tmp_path / 'events.db'}", redis_at) as site:
            yield site

    async def test_nothing_that_it_found_is_kept(self, site: EventSite) -> None:
        answers = RedisAnswerCache(site.redis, ttl_s=60, degraded_ttl_s=60)
        await site.results.claim(JOB, token="t")
        await site.forgetting.forget(42, datetime.now(UTC) - A_SECOND)
        await answers.put("fingerprint", documents_of(1, 2), JOB)
        with pytest.raises(MemberForgotten):
            await site.results.succeed(JOB, documents_of(1, 2), token="t")
        assert await answers.get("fingerprint") is None
        assert (await site.forgetting.remains(42)).n == 0

    async def test_one_that_is_begun_later_is_run(self, site: EventSite) -> None:
        await site.forgetting.forget(42, datetime.now(UTC) - A_SECOND)
        await site.results.claim(JOB, token="t")
        assert await site.results.succeed(JOB, documents_of(1, 2), token="t")

    async def test_of_a_member_whom_nobody_forgot_it_is_kept_though_redis_lost_its_status(
        self, site: EventSite
    ) -> None:
        await site.results.claim(JOB, token="t")
        await site.redis.flushdb()
        assert await site.results.succeed(JOB, documents_of(1, 2), token="t")

    async def test_one_that_waits_for_a_retry_is_not_run_again(self, site: EventSite) -> None:
        await site.results.claim(JOB, token="t")
        await site.results.release(JOB, token="t")
        await site.forgetting.forget(42, datetime.now(UTC))
        with pytest.raises(MemberForgotten):
            await site.results.claim(replace(JOB, attempt=2), token="u")

    async def test_one_that_was_only_submitted_is_not_begun(self, site: EventSite) -> None:
        await site.results.mark_queued(JOB)
        await site.forgetting.forget(42, datetime.now(UTC))
        with pytest.raises(MemberForgotten):
            await site.results.claim(JOB, token="t")

    async def test_one_that_says_that_it_was_asked_for_later_is_run_though_it_was_begun_before(
        self, site: EventSite
    ) -> None:
        """The word that the member was to be forgotten came late."""
        later = replace(JOB, requested_at_ns=time.time_ns())
        await site.results.claim(later, token="t")
        await site.results.release(later, token="t")
        await site.forgetting.forget(42, datetime.now(UTC) - timedelta(minutes=1))
        assert await site.results.claim(later, token="u") is Claim.GRANTED

    async def test_the_job_of_a_refresh_that_was_taken_before_is_not_begun(self, site: EventSite) -> None:
        published = Published()
        refreshes = refreshing(site, ForgetsOnceTaken(site), published)
        await site.requests.ask(42, [1, 2])

        async def is_published() -> bool:
            await refreshes.publish_due()
            return bool(published.jobs)

        await until(is_published, within_s=10)
        with pytest.raises(MemberForgotten):
            await site.results.claim(published.jobs[0], token="t")


class TestInMemory(ForgottenJobs):
    @pytest.fixture
    def redis_at(self) -> str:
        return "memory://"


class TestOnRedis(ForgottenJobs):
    @pytest.fixture
    def redis_at(self, redis_url: str) -> str:
        return redis_url
