"""Jobs that tell no instant, and whose member is forgotten while they are under way."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from core.errors import MemberForgotten
from models.job import Job
from services.answer_cache import RedisAnswerCache
from tests.support.event_site import EventSite, documents_of, event_site

JOB = Job(job_id="job-1", member_id=42)
A_SECOND = timedelta(seconds=1)


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


class TestInMemory(ForgottenJobs):
    @pytest.fixture
    def redis_at(self) -> str:
        return "memory://"


class TestOnRedis(ForgottenJobs):
    @pytest.fixture
    def redis_at(self, redis_url: str) -> str:
        return redis_url
