"""The contract of ``ProvisionalResults``, with the same tests on a real Redis and on the one in memory."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from core.errors import DependencyUnavailable
from core.ports.results import ProvisionalDocuments, ResultDocuments
from models.job import Job
from services.redis_client import open_redis
from services.result_cache import RedisResultCache
from tests.support.hand_clock import HandClock
from tests.support.private_servers import free_port

START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SECOND_NS = 1_000_000_000
REQUESTED_NS = int(START.timestamp()) * SECOND_NS
JOB = Job(job_id="job-1", member_id=42, requested_at_ns=REQUESTED_NS)
NEWER = Job(job_id="job-2", member_id=42, requested_at_ns=REQUESTED_NS + 1)
MEMBER_KEYS = ("latest:recommendation:42", "recommend:42")
_fresh = itertools.count()


def provisional(job: Job = JOB) -> ProvisionalDocuments:
    return ProvisionalDocuments(
        result=f"provisional result {job.job_id}".encode(), cached_view=f"provisional view {job.job_id}".encode()
    )


def final(job: Job = JOB) -> ResultDocuments:
    return ResultDocuments(
        result=f"result {job.job_id}".encode(), cached_view=f"view {job.job_id}".encode(), preference=b"{}"
    )


def cache_on(client: Redis, *, degraded_ttl_s: int = 600, provisional_ttl_s: int = 300) -> RedisResultCache:
    return RedisResultCache(
        client,
        HandClock(START),
        job_ttl_s=86_400,
        cache_ttl_s=604_800,
        lease_s=15,
        degraded_ttl_s=degraded_ttl_s,
        provisional_ttl_s=provisional_ttl_s,
    )


async def shown(client: Redis) -> tuple[object, object]:
    """What ``latest:`` and ``recommend:`` hold for the member."""
    return await client.get(MEMBER_KEYS[0]), await client.get(MEMBER_KEYS[1])


async def snapshot(client: Redis) -> dict[bytes, bytes | None]:
    """Every key with its content, as Redis would write it to a dump."""
    return {key: await client.dump(key) async for key in client.scan_iter()}


class ProvisionalResultsContract:
    """Run by the subclasses, each on a Redis of its own."""

    @pytest.fixture
    async def client(self, url: str) -> AsyncIterator[Redis]:
        async with open_redis(url, max_connections=20, timeout_s=5) as client:
            yield client

    @pytest.fixture
    def cache(self, client: Redis) -> RedisResultCache:
        return cache_on(client)

    async def show(self, cache: RedisResultCache, job: Job = JOB, *, worker: str = "a") -> bool:
        """Claim and show; what was asked before and what was done then are always the same."""
        await cache.claim(job, token=worker)
        is_wanted = await cache.wants_provisional(job, token=worker)
        assert await cache.show_provisional(job, provisional(job), token=worker) is is_wanted
        return is_wanted

    # --- who sees one ---

    async def test_a_member_who_has_nothing_is_shown_the_documents_while_the_job_runs(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        assert await self.show(cache)
        assert await shown(client) == (b"provisional result job-1", b"provisional view job-1")
        assert await client.hget("job:status:job-1", "status") == b"running"
        assert not await client.exists("job:result:job-1", "preference:42")

    async def test_asking_changes_nothing(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        before = await snapshot(client)
        assert await cache.wants_provisional(JOB, token="a")
        assert await snapshot(client) == before

    async def test_the_result_takes_the_place_of_the_provisional_one_for_good(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await self.show(cache)
        await cache.succeed(JOB, final(), token="a")
        assert await shown(client) == (b"result job-1", b"view job-1")
        assert await client.ttl("latest:recommendation:42") == -1
        assert await client.ttl("recommend:42") == 604_800
        assert not await client.exists("songs_ai:provisional:42")

    async def test_a_member_who_has_a_result_keeps_it(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        await cache.succeed(JOB, final(), token="a")
        assert not await self.show(cache, NEWER)
        assert await shown(client) == (b"result job-1", b"view job-1")

    @pytest.mark.parametrize("key", MEMBER_KEYS)
    async def test_a_document_that_somebody_else_wrote_counts_as_a_result(
        self, client: Redis, cache: RedisResultCache, key: str
    ) -> None:
        await client.set(key, "the backend's own")
        assert not await self.show(cache)
        assert await client.get(key) == b"the backend's own"

    async def test_another_members_result_does_not_count(self, client: Redis, cache: RedisResultCache) -> None:
        await client.set("latest:recommendation:43", "theirs")
        assert await self.show(cache)

    # --- whose ---

    async def test_only_who_holds_the_running_job_may_show_anything(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        assert not await cache.show_provisional(JOB, provisional(), token="a")
        await cache.claim(JOB, token="a")
        assert not await cache.show_provisional(JOB, provisional(), token="b")
        await cache.release(JOB, token="a")
        assert not await cache.show_provisional(JOB, provisional(), token="a")
        assert await shown(client) == (None, None)

    async def test_nothing_is_shown_of_a_job_that_has_ended(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        await cache.fail(JOB.job_id, code="MODEL_ERROR", message="no", token="a")
        await client.set("songs_ai:lease:job-1", "a")
        assert not await cache.show_provisional(JOB, provisional(), token="a")

    async def test_a_worker_that_died_leaves_what_its_successor_replaces(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await self.show(cache, worker="dead")
        await client.delete("songs_ai:lease:job-1")
        assert await self.show(cache, worker="b")
        await cache.succeed(JOB, final(), token="b")
        assert await shown(client) == (b"result job-1", b"view job-1")

    # --- several jobs of a member ---

    async def test_a_newer_job_shows_its_own_in_place_of_an_older_ones(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        assert await self.show(cache, JOB)
        assert await self.show(cache, NEWER)
        assert await shown(client) == (b"provisional result job-2", b"provisional view job-2")

    async def test_an_older_job_shows_nothing_over_a_newer_ones(self, client: Redis, cache: RedisResultCache) -> None:
        assert await self.show(cache, NEWER)
        assert not await self.show(cache, JOB)
        assert await shown(client) == (b"provisional result job-2", b"provisional view job-2")

    async def test_an_older_jobs_result_leaves_a_newer_ones_provisional_documents(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await cache.claim(JOB, token="a")
        await self.show(cache, NEWER)
        await cache.succeed(JOB, final(JOB), token="a")
        assert await client.get("job:result:job-1") == b"result job-1"
        assert await client.hget("job:status:job-1", "status") == b"succeeded"
        assert await shown(client) == (b"provisional result job-2", b"provisional view job-2")
        await cache.succeed(NEWER, final(NEWER), token="a")
        assert await shown(client) == (b"result job-2", b"view job-2")

    async def test_a_newer_jobs_result_takes_the_place_of_an_older_ones_provisional_documents(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await self.show(cache, JOB)
        await cache.claim(NEWER, token="a")
        await cache.succeed(NEWER, final(NEWER), token="a")
        assert not await cache.show_provisional(JOB, provisional(JOB), token="a")
        assert await shown(client) == (b"result job-2", b"view job-2")

    async def test_an_older_job_shows_nothing_where_the_newer_ones_result_was_removed(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await cache.claim(NEWER, token="a")
        await cache.succeed(NEWER, final(NEWER), token="a")
        await client.delete(*MEMBER_KEYS)
        assert not await self.show(cache, JOB)
        assert await shown(client) == (None, None)

    async def test_a_submission_that_is_written_late_does_not_lock_a_job_out_of_its_own_place(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await self.show(cache)
        await client.hset("job:status:job-1", "submittedAt", "2026-03-04T05:06:00Z")
        await cache.succeed(JOB, final(), token="a")
        assert await shown(client) == (b"result job-1", b"view job-1")

    @settings(suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.sampled_from(("claim", "show", "succeed", "fail", "expire")), st.integers(0, 2))))
    async def test_in_any_order_of_calls_a_member_sees_what_the_model_does(
        self, client: Redis, cache: RedisResultCache, calls: list[tuple[str, int]]
    ) -> None:
        member = next(_fresh) + 1000
        jobs = [Job(job_id=f"{member}-{age}", member_id=member, requested_at_ns=REQUESTED_NS + age) for age in range(3)]
        model = MemberModel()
        for call, number in calls:
            model.do(call, number)
            await do(cache, client, jobs[number], call)
            latest = await client.get(f"latest:recommendation:{member}")
            kind, owner = model.shown or (None, 0)
            expected = {"provisional": provisional(jobs[owner]).result, "final": final(jobs[owner]).result, None: None}
            assert latest == expected[kind]
            assert (kind == "provisional") == await client.exists(f"songs_ai:provisional:{member}")

    # --- how long ---

    async def test_they_live_for_minutes_and_no_longer_than_degraded_ones(self, client: Redis) -> None:
        for lifetimes, expected_s in (({}, 300), ({"provisional_ttl_s": 60}, 60), ({"degraded_ttl_s": 20}, 20)):
            await client.flushdb()
            await self.show(cache_on(client, **lifetimes))
            keys = (*MEMBER_KEYS, "songs_ai:provisional:42")
            assert [await client.ttl(key) for key in keys] == [expected_s] * 3

    async def test_where_the_job_fails_they_stand_until_their_time_is_over(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await self.show(cache)
        await cache.fail(JOB.job_id, code="MODEL_ERROR", message="no", token="a")
        assert await shown(client) == (b"provisional result job-1", b"provisional view job-1")
        assert 0 < await client.ttl("latest:recommendation:42") <= 300

    async def test_once_their_time_is_over_an_older_result_counts_again(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await cache.claim(JOB, token="a")
        await self.show(cache, NEWER)
        await client.delete(*MEMBER_KEYS, "songs_ai:provisional:42")
        await cache.succeed(JOB, final(JOB), token="a")
        assert await shown(client) == (b"result job-1", b"view job-1")


async def do(cache: RedisResultCache, client: Redis, job: Job, call: str) -> None:
    match call:
        case "claim":
            await cache.claim(job, token="a")
        case "show":
            await cache.show_provisional(job, provisional(job), token="a")
        case "succeed":
            await cache.succeed(job, final(job), token="a")
        case "fail":
            await cache.fail(job.job_id, code="MODEL_ERROR", message="no", token="a")
        case "expire" if await client.exists(f"songs_ai:provisional:{job.member_id}"):
            await client.delete(*(f"{key}:{job.member_id}" for key in ("latest:recommendation", "recommend")))
            await client.delete(f"songs_ai:provisional:{job.member_id}")


class MemberModel:
    """What a member with three jobs, the later number the newer, is shown: as simply as it can be said."""

    def __init__(self) -> None:
        self.status: dict[int, str] = {}
        self.shown: tuple[str, int] | None = None

    def do(self, call: str, number: int) -> None:
        status = self.status.get(number)
        kind, owner = self.shown or (None, -1)
        match call:
            case "claim" if status is None:
                self.status[number] = "running"
            case "show" if status == "running" and kind != "final" and number >= owner:
                self.shown = ("provisional", number)
            case "succeed" if status not in {"succeeded", "failed"}:
                self.status[number] = "succeeded"
                self.shown = ("final", number) if number >= owner else self.shown
            case "fail" if status not in {"succeeded", "failed"}:
                self.status[number] = "failed"
            case "expire" if kind == "provisional":
                self.shown = None


class TestOnRedis(ProvisionalResultsContract):
    """The contract on a real server."""

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url


class TestInMemory(ProvisionalResultsContract):
    """The contract on the Redis of the embedded default."""

    @pytest.fixture
    def url(self) -> str:
        return "memory://"


@pytest.mark.parametrize(
    "call",
    [
        lambda cache: cache.wants_provisional(JOB, token="a"),
        lambda cache: cache.show_provisional(JOB, provisional(), token="a"),
    ],
    ids=["wants_provisional", "show_provisional"],
)
async def test_without_redis_both_say_so(call: Callable[[RedisResultCache], Awaitable[object]]) -> None:
    async with open_redis(f"redis://127.0.0.1:{free_port()}/0", max_connections=1, timeout_s=1) as client:
        with pytest.raises(DependencyUnavailable):
            await call(cache_on(client))
