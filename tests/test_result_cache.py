"""The contract of ``ResultCache``, with the same tests on a real Redis and on the one in memory; then real faults."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from core.errors import DependencyUnavailable
from core.ports.results import Claim, ResultDocuments
from models.job import Job, JobStatus
from services.redis_client import open_redis
from services.result_cache import RedisResultCache
from tests.support.private_servers import free_port
from tests.support.servers import BreakableServer
from tests.support.waiting import until

DAY_S, WEEK_S = 86_400, 604_800
START = datetime(2026, 3, 4, 5, 6, 7, 89_000, UTC)
DOCUMENTS = ResultDocuments(result=b'{"r": 1}', cached_view=b'{"v": 1}', preference=b'{"p": 1}')
JOB = Job(job_id="job-1", member_id=42, requested_at_ns=1_772_600_767_000_000_001)
CALLS = (
    *("queue", "claim", "first replay", "second replay", "report", "succeed", "fail", "dead-letter", "dead-lettered"),
    *("release", "lose"),
)
REPLAYS = {"claim": 0, "first replay": 1, "second replay": 2}
_fresh = itertools.count()


class SteppingClock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at

    def monotonic_s(self) -> float:
        return self.at.timestamp()


def documents(name: str, *, degraded: bool = False) -> ResultDocuments:
    return ResultDocuments(
        result=f"result {name}".encode(),
        cached_view=f"view {name}".encode(),
        preference=f"preference {name}".encode(),
        degraded=degraded,
    )


async def everything(client: Redis) -> dict[bytes, object]:
    """All that Redis holds."""
    readers: dict[bytes, Callable[[bytes], Awaitable[object]]] = {
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"set": client.smembers,
        b"string": client.get,
    }
    return {key: await readers[cast("bytes", await client.type(key))](key) async for key in client.scan_iter()}


async def status_of(client: Redis, job: Job = JOB) -> dict[bytes | str, bytes | str]:
    return await client.hgetall(f"job:status:{job.job_id}")


class ResultCacheContract:
    """Run by the subclasses, each on a Redis of its own."""

    @pytest.fixture
    async def client(self, url: str) -> AsyncIterator[Redis]:
        async with open_redis(url, max_connections=20, timeout_s=5) as client:
            yield client

    @pytest.fixture
    def clock(self) -> SteppingClock:
        return SteppingClock()

    @pytest.fixture
    def cache(self, client: Redis, clock: SteppingClock) -> RedisResultCache:
        return RedisResultCache(client, clock, job_ttl_s=DAY_S, cache_ttl_s=WEEK_S, lease_s=15, degraded_ttl_s=600)

    # --- queued ---

    async def test_a_job_of_ours_is_queued_for_a_day(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.mark_queued(JOB)
        expected = {b"status": b"queued", b"progress": b"0", b"submittedAt": b"2026-03-04T05:06:07.089Z"}
        assert await status_of(client) == expected
        assert await client.ttl("job:status:job-1") == DAY_S

    async def test_a_job_that_has_a_status_is_not_queued_again(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        before = await everything(client)
        await cache.mark_queued(JOB)
        assert await everything(client) == before

    # --- claims ---

    async def test_a_claimed_job_is_running_and_leased(self, client: Redis, cache: RedisResultCache) -> None:
        assert await cache.claim(JOB, token="a") is Claim.GRANTED
        expected = {b"status": b"running", b"progress": b"0", b"startedAt": b"2026-03-04T05:06:07.089Z"}
        assert await status_of(client) == expected
        assert await client.ttl("job:status:job-1") == DAY_S
        assert await client.get("songs_ai:lease:job-1") == b"a"
        assert 14_000 < await client.pttl("songs_ai:lease:job-1") <= 15_000

    async def test_a_claim_keeps_what_the_backend_wrote_and_prolongs_it(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await client.hset("job:status:job-1", mapping={"status": "queued", "submittedAt": "2026-03-04T05:06:00Z"})
        await client.expire("job:status:job-1", 100)
        await cache.claim(JOB, token="a")
        assert (await status_of(client))[b"submittedAt"] == b"2026-03-04T05:06:00Z"
        assert await client.ttl("job:status:job-1") == DAY_S

    async def test_of_many_claims_at_once_exactly_one_is_granted(self, cache: RedisResultCache) -> None:
        claims = await asyncio.gather(*(cache.claim(JOB, token=f"worker {n}") for n in range(50)))
        assert sorted(claims) == [Claim.GRANTED] + [Claim.RUNNING_ELSEWHERE] * 49

    async def test_a_claim_that_was_sent_twice_is_granted_twice(self, cache: RedisResultCache) -> None:
        assert await cache.claim(JOB, token="a") is Claim.GRANTED
        assert await cache.claim(JOB, token="a") is Claim.GRANTED

    async def test_a_job_whose_workers_die_is_granted_too_often_in_the_end(
        self, client: Redis, clock: SteppingClock
    ) -> None:
        cache = RedisResultCache(client, clock, job_ttl_s=DAY_S, cache_ttl_s=WEEK_S, lease_s=15, max_returns=2)

        async def die() -> None:
            await client.delete("songs_ai:lease:job-1")

        for token in ("a", "b"):
            assert await cache.claim(JOB, token=token) is Claim.GRANTED
            assert await cache.claim(JOB, token=token) is Claim.GRANTED  # sent twice
            await die()
        assert await cache.claim(JOB, token="c") is Claim.GRANTED_TOO_OFTEN
        assert await client.get("songs_ai:lease:job-1") == b"c"
        assert await cache.fail(JOB.job_id, code="C", message="m", token="c")
        assert await cache.claim(JOB, token="d", replay=1) is Claim.GRANTED
        await die()
        assert await cache.claim(JOB, token="e", replay=1) is Claim.GRANTED

    async def test_retries_are_no_deaths(self, client: Redis, clock: SteppingClock) -> None:
        cache = RedisResultCache(client, clock, job_ttl_s=DAY_S, cache_ttl_s=WEEK_S, lease_s=15, max_returns=1)
        for attempt in range(5):
            job = replace(JOB, attempt=attempt)
            assert await cache.claim(job, token="a") is Claim.GRANTED
            await cache.release(job, token="a")

    async def test_without_a_limit_a_job_may_come_back_for_ever(self, client: Redis, cache: RedisResultCache) -> None:
        for number in range(50):
            assert await cache.claim(JOB, token=str(number)) is Claim.GRANTED
            await client.delete("songs_ai:lease:job-1")

    async def test_a_job_whose_worker_died_is_granted_once_its_lease_has_run_out(
        self, client: Redis, clock: SteppingClock, cache: RedisResultCache
    ) -> None:
        mortal = RedisResultCache(client, clock, job_ttl_s=DAY_S, cache_ttl_s=WEEK_S, lease_s=0.2)
        await mortal.claim(JOB, token="dead")
        await cache.report_progress(JOB, 40)
        assert await cache.claim(JOB, token="b") is Claim.RUNNING_ELSEWHERE

        async def granted() -> bool:
            clock.at += timedelta(seconds=1)
            return await cache.claim(JOB, token="b") is Claim.GRANTED

        await until(granted)
        status = await status_of(client)
        assert (status[b"progress"], status[b"startedAt"]) == (b"40", b"2026-03-04T05:06:07.089Z")

    async def test_a_finished_job_is_recognised(self, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        await cache.succeed(JOB, DOCUMENTS, token="a")
        other = replace(JOB, job_id="job-2")
        await cache.fail("job-2", code="MODEL_ERROR", message="no")
        for replay in (0, 1):
            assert await cache.claim(JOB, token="b", replay=replay) is Claim.SUCCEEDED_BEFORE
        assert await cache.claim(other, token="b") is Claim.FAILED_BEFORE

    async def test_a_replay_runs_a_failed_job_anew(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        await cache.report_progress(JOB, 60)
        await cache.fail("job-1", code="MODEL_ERROR", message="no", token="a")
        assert await cache.claim(JOB, token="b", replay=1) is Claim.GRANTED
        expected = {
            b"status": b"running",
            b"progress": b"0",
            b"startedAt": b"2026-03-04T05:06:07.089Z",
            b"replays": b"1",
        }
        assert await status_of(client) == expected

    async def test_a_replay_that_was_sent_twice_runs_once(self, cache: RedisResultCache) -> None:
        for number in (1, 2):
            await cache.fail("job-1", code="MODEL_ERROR", message="no")
            assert await cache.claim(JOB, token="b", replay=number) is Claim.GRANTED
            await cache.fail("job-1", code="MODEL_ERROR", message="again", token="b")
            for sent_again in range(1, number + 1):
                assert await cache.claim(JOB, token="c", replay=sent_again) is Claim.FAILED_BEFORE

    async def test_a_failed_job_whose_dead_letter_may_be_lost_is_told_of_until_it_is_safe(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await cache.claim(JOB, token="a")
        await cache.fail("job-1", code="MODEL_ERROR", message="no", token="a", dead_letter=True)
        assert await client.ttl("songs_ai:dead_letter_due:job-1") == DAY_S
        for token in "ab":
            assert await cache.claim(JOB, token=token) is Claim.RUNNING_ELSEWHERE
        await client.delete("songs_ai:lease:job-1")
        claims = await asyncio.gather(*(cache.claim(JOB, token=token) for token in "bcd"))
        assert sorted(claims) == [Claim.DEAD_LETTER_DUE, Claim.RUNNING_ELSEWHERE, Claim.RUNNING_ELSEWHERE]
        assert 14_000 < await client.pttl("songs_ai:lease:job-1") <= 15_000
        for token in "bcd":
            await cache.dead_lettered("job-1", token=token)
        assert not await client.exists("songs_ai:lease:job-1", "songs_ai:dead_letter_due:job-1")
        assert await cache.claim(JOB, token="b") is Claim.FAILED_BEFORE

    async def test_a_replay_that_runs_already_keeps_its_lease(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        await cache.fail("job-1", code="MODEL_ERROR", message="no", token="a", dead_letter=True)
        assert await cache.claim(JOB, token="a", replay=1) is Claim.GRANTED
        await cache.dead_lettered("job-1", token="a")
        assert await client.get("songs_ai:lease:job-1") == b"a"

    async def test_a_replayed_job_owes_no_dead_letter(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        await cache.fail("job-1", code="MODEL_ERROR", message="no", token="a", dead_letter=True)
        assert await cache.claim(JOB, token="b", replay=1) is Claim.RUNNING_ELSEWHERE
        await client.delete("songs_ai:lease:job-1")
        assert await cache.claim(JOB, token="b", replay=1) is Claim.GRANTED
        assert not await client.exists("songs_ai:dead_letter_due:job-1")

    async def test_who_lost_the_job_owes_no_dead_letter(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="b")
        await cache.fail("job-1", code="MODEL_ERROR", message="no", token="a", dead_letter=True)
        assert not await client.exists("songs_ai:dead_letter_due:job-1")

    async def test_a_replay_does_not_take_a_job_from_who_runs_it(self, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        assert await cache.claim(JOB, token="b", replay=1) is Claim.RUNNING_ELSEWHERE

    # --- leases ---

    async def test_renewing_prolongs_ones_own_leases_alone(self, client: Redis, cache: RedisResultCache) -> None:
        jobs = [replace(JOB, job_id=f"job-{n}") for n in range(3)]
        for job, token in zip(jobs, ("mine", "mine", "theirs"), strict=True):
            await cache.claim(job, token=token)
            await client.pexpire(f"songs_ai:lease:{job.job_id}", 5_000)
        await cache.renew({"job-0": "mine", "job-2": "mine", "job-9": "mine"})
        left = [await client.pttl(f"songs_ai:lease:job-{n}") for n in (0, 1, 2)]
        assert left[0] > 14_000
        assert max(left[1:]) <= 5_000
        assert not await client.exists("songs_ai:lease:job-9")

    async def test_renewing_nothing_is_nothing(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.renew({})
        assert await everything(client) == {}

    async def test_a_released_job_can_be_claimed_at_once_and_keeps_its_progress(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await cache.claim(JOB, token="a")
        await cache.report_progress(JOB, 30)
        await cache.release(JOB, token="a")
        assert (await status_of(client))[b"status"] == b"running"
        assert await cache.claim(JOB, token="b") is Claim.GRANTED
        assert (await status_of(client))[b"progress"] == b"30"

    async def test_who_does_not_hold_a_lease_cannot_release_it(self, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        await cache.release(JOB, token="b")
        assert await cache.claim(JOB, token="b") is Claim.RUNNING_ELSEWHERE

    # --- progress ---

    async def test_progress_only_rises_and_stays_within_bounds(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        seen = []
        for progress in (10, 5, 9, 30, -1, 101, 100):
            await cache.report_progress(JOB, progress)
            seen.append(int((await status_of(client))[b"progress"]))
        assert seen == [10, 10, 10, 30, 30, 100, 100]

    async def test_progress_of_a_job_that_does_not_run_is_not_written(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await cache.report_progress(JOB, 10)
        assert await everything(client) == {}
        await cache.fail("job-1", code="MODEL_ERROR", message="no")
        await cache.report_progress(JOB, 10)
        assert b"progress" not in await status_of(client)

    # --- success ---

    async def test_success_writes_exactly_the_keys_of_the_contract(
        self, client: Redis, clock: SteppingClock, cache: RedisResultCache
    ) -> None:
        await client.hset("job:status:job-1", mapping={"status": "queued", "submittedAt": "2026-03-04T05:06:00Z"})
        await cache.claim(JOB, token="a")
        clock.at += timedelta(seconds=2)
        await cache.succeed(JOB, DOCUMENTS, token="a")
        assert await everything(client) == {
            b"job:status:job-1": {
                b"status": b"succeeded",
                b"progress": b"100",
                b"submittedAt": b"2026-03-04T05:06:00Z",
                b"startedAt": b"2026-03-04T05:06:07.089Z",
                b"finishedAt": b"2026-03-04T05:06:09.089Z",
            },
            b"job:result:job-1": b'{"r": 1}',
            b"latest:recommendation:42": b'{"r": 1}',
            b"recommend:42": b'{"v": 1}',
            b"preference:42": b'{"p": 1}',
            b"songs_ai:order:42": b"2026-03-04T05:06:07.000000001 2026-03-04T05:06:00.000000000",
            b"songs_ai:of_member:42": [b"job job-1"],
        }

    async def test_every_key_lives_as_long_as_the_contract_says(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        await cache.succeed(JOB, DOCUMENTS, token="a")
        lifetimes = {key: await client.ttl(key) async for key in client.scan_iter()}
        assert DAY_S < lifetimes.pop(b"songs_ai:of_member:42") <= DAY_S + 60
        assert lifetimes == {
            b"job:status:job-1": DAY_S,
            b"job:result:job-1": DAY_S,
            b"latest:recommendation:42": -1,
            b"recommend:42": WEEK_S,
            b"preference:42": WEEK_S,
            b"songs_ai:order:42": -1,
        }

    async def test_degraded_views_live_shorter(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        await cache.succeed(JOB, replace(DOCUMENTS, degraded=True), token="a")
        assert await client.ttl("recommend:42") == await client.ttl("preference:42") == 600
        assert await client.ttl("job:result:job-1") == DAY_S

    async def test_a_poller_sees_the_result_as_soon_as_it_sees_the_success(self, cache: RedisResultCache) -> None:
        jobs = [replace(JOB, job_id=f"job-{n}") for n in range(20)]

        async def poll(job: Job) -> bytes | None:
            while not (view := await cache.job(job.job_id)) or view.status is not JobStatus.SUCCEEDED:
                assert view is None or view.result is None
            return view.result

        pollers = [asyncio.create_task(poll(job)) for job in jobs]
        for job in jobs:
            await cache.claim(job, token="a")
            await cache.succeed(job, DOCUMENTS, token="a")
        assert await asyncio.gather(*pollers) == [DOCUMENTS.result] * len(jobs)

    async def test_whatever_comes_after_success_changes_nothing(
        self, client: Redis, clock: SteppingClock, cache: RedisResultCache
    ) -> None:
        await cache.claim(JOB, token="a")
        await cache.succeed(JOB, DOCUMENTS, token="a")
        before = await everything(client)
        clock.at += timedelta(hours=1)
        await cache.mark_queued(JOB)
        await cache.claim(JOB, token="b")
        await cache.claim(JOB, token="b", replay=1)
        await cache.report_progress(JOB, 50)
        await cache.succeed(JOB, documents("of a redelivery"), token="b")
        await cache.fail("job-1", code="MODEL_ERROR", message="too late", token="b")
        await cache.fail("job-1", code="MODEL_ERROR", message="too late")
        await cache.renew({"job-1": "a"})
        await cache.release(JOB, token="a")
        assert await everything(client) == before

    async def test_a_worker_that_lost_its_lease_may_still_bring_the_result(self, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="slow")
        await cache.release(JOB, token="slow")
        await cache.claim(JOB, token="b")
        await cache.succeed(JOB, documents("slow"), token="slow")
        await cache.succeed(JOB, documents("b"), token="b")
        view = await cache.job("job-1")
        assert view is not None
        assert view.result == b"result slow"

    # --- the newest job of a member ---

    async def save(self, cache: RedisResultCache, job: Job) -> None:
        await cache.claim(job, token="t")
        await cache.succeed(job, documents(job.job_id), token="t")

    async def latest(self, client: Redis, member_id: int = 42) -> list[bytes | str | None]:
        return [await client.get(f"{prefix}:{member_id}") for prefix in ("latest:recommendation", "recommend")]

    @pytest.mark.parametrize("newer_first", [True, False])
    async def test_the_later_request_owns_the_views_by_a_nanosecond(
        self, client: Redis, cache: RedisResultCache, newer_first: bool
    ) -> None:
        older = Job(job_id="older", member_id=42, requested_at_ns=1_772_600_767_123_456_788)
        newer = Job(job_id="newer", member_id=42, requested_at_ns=1_772_600_767_123_456_789)
        for job in (newer, older) if newer_first else (older, newer):
            await self.save(cache, job)
        assert await self.latest(client) == [b"result newer", b"view newer"]
        assert await client.get("preference:42") == b"preference newer"
        for job in (older, newer):
            view = await cache.job(job.job_id)
            assert view is not None
            assert view.result == f"result {job.job_id}".encode()

    @pytest.mark.parametrize(
        "times",
        [
            ("2026-03-04T05:06:07Z", "2026-03-04T05:06:07.100Z"),
            ("2026-03-04T05:06:07.999Z", "2026-03-04T05:06:08Z"),
            ("2026-03-04T05:06:07.123456Z", "2026-03-04T05:06:07.123456001Z"),
        ],
    )
    @pytest.mark.parametrize("newer_first", [True, False])
    @pytest.mark.parametrize("job", [JOB, replace(JOB, requested_at_ns=None)])
    async def test_of_one_request_time_or_none_the_later_submission_is_newer(
        self, client: Redis, cache: RedisResultCache, job: Job, times: tuple[str, str], *, newer_first: bool
    ) -> None:
        jobs = []
        for name, submitted_at in zip(("older", "newer"), times, strict=True):
            await client.hset(f"job:status:{name}", mapping={"status": "queued", "submittedAt": submitted_at})
            jobs.append(replace(job, job_id=name))
        for ended in reversed(jobs) if newer_first else jobs:
            await self.save(cache, ended)
        assert await self.latest(client) == [b"result newer", b"view newer"]

    @pytest.mark.parametrize("submitted_at", [None, "yesterday", "1772600767.5"])
    async def test_jobs_without_any_time_rank_by_their_first_start(
        self, client: Redis, clock: SteppingClock, cache: RedisResultCache, submitted_at: str | None
    ) -> None:
        first, second = (Job(job_id=name, member_id=42) for name in ("first", "second"))
        for job in (first, second):
            if submitted_at:
                await client.hset(f"job:status:{job.job_id}", "submittedAt", submitted_at)
            await cache.claim(job, token="t")
            clock.at += timedelta(milliseconds=1)
        for job in (second, first):
            await cache.succeed(job, documents(job.job_id), token="t")
        assert await self.latest(client) == [b"result second", b"view second"]

    async def test_of_jobs_of_one_instant_the_last_to_end_owns_the_views(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        for name in ("one", "other"):
            await self.save(cache, replace(JOB, job_id=name))
        assert await self.latest(client) == [b"result other", b"view other"]

    async def test_request_times_beyond_the_calendar_still_rank(self, client: Redis, cache: RedisResultCache) -> None:
        for name, at_ns in (("future", 10**30), ("past", -(10**30)), ("now", 1_772_600_767_000_000_000)):
            await self.save(cache, Job(job_id=name, member_id=42, requested_at_ns=at_ns))
        assert await self.latest(client) == [b"result future", b"view future"]

    async def test_members_do_not_touch_each_other(self, client: Redis, cache: RedisResultCache) -> None:
        await self.save(cache, Job(job_id="a", member_id=2**63 - 1, requested_at_ns=2))
        await self.save(cache, Job(job_id="b", member_id=1, requested_at_ns=1))
        assert await self.latest(client, 2**63 - 1) == [b"result a", b"view a"]
        assert await self.latest(client, 1) == [b"result b", b"view b"]

    @settings(suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture])
    @given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
    async def test_whatever_order_jobs_end_in_the_newest_owns_the_views(
        self, client: Redis, clock: SteppingClock, cache: RedisResultCache, ages_ns: list[int], data: st.DataObject
    ) -> None:
        member_id = next(_fresh)
        jobs = []
        for n, age_ns in enumerate(ages_ns):
            clock.at += timedelta(milliseconds=1)
            at_ns = 1_772_600_767_000_000_000 + age_ns
            jobs.append(Job(job_id=f"{member_id}-{n}", member_id=member_id, requested_at_ns=at_ns))
            await cache.mark_queued(jobs[-1])
        for job in data.draw(st.permutations(jobs)):
            await self.save(cache, job)
        _, newest = max((age_ns, n) for n, age_ns in enumerate(ages_ns))
        assert (await self.latest(client, member_id))[0] == f"result {member_id}-{newest}".encode()

    # --- failure ---

    async def test_failure_names_its_cause(self, client: Redis, clock: SteppingClock, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="a")
        await cache.report_progress(JOB, 30)
        clock.at += timedelta(seconds=1)
        await cache.fail("job-1", code="GENERATION_TIMEOUT", message="노래를 찾지 못했습니다", token="a")
        assert await everything(client) == {
            b"job:status:job-1": {
                b"status": b"failed",
                b"progress": b"30",
                b"startedAt": b"2026-03-04T05:06:07.089Z",
                b"finishedAt": b"2026-03-04T05:06:08.089Z",
                b"error.code": b"GENERATION_TIMEOUT",
                b"error.message": "노래를 찾지 못했습니다".encode(),
            },
            b"songs_ai:of_member:42": [b"job job-1"],
        }
        assert await client.ttl("job:status:job-1") == DAY_S

    async def test_a_job_that_never_ran_can_fail(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.fail("job-1", code="INVALID_JOB", message="memberId: must be an integer, got None")
        status = await status_of(client)
        assert status[b"status"] == b"failed"
        assert await client.ttl("job:status:job-1") == DAY_S

    async def test_a_worker_that_lost_its_lease_cannot_fail_the_job_of_its_successor(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await cache.claim(JOB, token="slow")
        await cache.release(JOB, token="slow")
        await cache.claim(JOB, token="b")
        before = await everything(client)
        await cache.fail("job-1", code="GENERATION_TIMEOUT", message="slow", token="slow")
        assert await everything(client) == before

    async def test_who_claimed_nothing_cannot_fail_a_job_that_runs(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await cache.claim(JOB, token="a")
        before = await everything(client)
        await cache.fail("job-1", code="INVALID_JOB", message="of another message")
        assert await everything(client) == before

    async def test_who_claimed_nothing_cannot_fail_a_job_that_waits_for_a_retry(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await cache.claim(JOB, token="a")
        await cache.release(JOB, token="a")
        before = await everything(client)
        await cache.fail("job-1", code="INVALID_JOB", message="of another message")
        assert await everything(client) == before

    async def test_a_queued_job_whose_message_is_wrong_fails(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.mark_queued(JOB)
        await cache.fail("job-1", code="INVALID_JOB", message="topK: must be an integer")
        assert (await status_of(client))[b"status"] == b"failed"

    async def test_a_result_that_comes_after_a_failure_is_refused(self, client: Redis, cache: RedisResultCache) -> None:
        await cache.claim(JOB, token="slow")
        await cache.release(JOB, token="slow")
        await cache.claim(JOB, token="b")
        await cache.fail("job-1", code="MODEL_ERROR", message="no", token="b")
        before = await everything(client)
        assert not await cache.succeed(JOB, DOCUMENTS, token="slow")
        assert await everything(client) == before

    async def test_a_failure_that_comes_after_the_end_is_refused(self, client: Redis, cache: RedisResultCache) -> None:
        failed = replace(JOB, job_id="job-2")
        for job in (JOB, failed):
            await cache.claim(job, token="a")
        assert await cache.succeed(JOB, DOCUMENTS, token="a")
        assert await cache.fail(failed.job_id, code="MODEL_ERROR", message="no", token="a")
        before = await everything(client)
        for job in (JOB, failed):
            for token in ("a", "b", None):
                assert not await cache.fail(job.job_id, code="MODEL_ERROR", message="late", token=token)
        assert await everything(client) == before

    # --- idempotency keys ---

    FIRST = Job(job_id="first", member_id=42, idempotency_key="k:1")
    SECOND = Job(job_id="second", member_id=42, idempotency_key="k:1")

    async def test_a_second_job_of_one_key_ends_with_the_first_ones_result(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await self.save(cache, self.FIRST)
        await cache.mark_queued(self.SECOND)
        assert await cache.claim(self.SECOND, token="b") is Claim.SUCCEEDED_BEFORE
        view = await cache.job("second")
        assert view is not None
        assert (view.status, view.progress, view.result) == (JobStatus.SUCCEEDED, 100, b"result first")
        assert view.fields.keys() == {"status", "progress", "submittedAt", "startedAt", "finishedAt"}
        assert await client.ttl("job:result:second") == await client.ttl("job:status:second") == DAY_S
        assert await client.exists("songs_ai:lease:second") == 0
        assert await client.get("songs_ai:idempotency:42:k:1") == b"first"
        assert await client.ttl("songs_ai:idempotency:42:k:1") == DAY_S

    @pytest.mark.parametrize(("age_ns", "owner"), [(3, "first"), (1, "between"), (2, "first")])
    async def test_a_repetition_owns_the_views_where_it_is_the_newest_job(
        self, client: Redis, cache: RedisResultCache, age_ns: int, owner: str
    ) -> None:
        await self.save(cache, replace(self.FIRST, requested_at_ns=0))
        await self.save(cache, Job(job_id="between", member_id=42, requested_at_ns=2))
        repetition = replace(self.SECOND, requested_at_ns=age_ns)
        assert await cache.claim(repetition, token="b") is Claim.SUCCEEDED_BEFORE
        assert await self.latest(client) == [f"result {owner}".encode(), f"view {owner}".encode()]
        assert await client.get("preference:42") == f"preference {owner}".encode()
        assert await client.ttl("recommend:42") == WEEK_S

    async def test_what_repetitions_of_a_degraded_job_take_over_lives_shorter(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await cache.claim(self.FIRST, token="a")
        await cache.succeed(self.FIRST, documents("first", degraded=True), token="a")
        for name in ("second", "third"):
            assert await cache.claim(replace(self.SECOND, job_id=name), token="b") is Claim.SUCCEEDED_BEFORE
        assert await self.latest(client) == [b"result first", b"view first"]
        assert await client.ttl("recommend:42") == await client.ttl("preference:42") == 600

    async def test_what_a_repetition_takes_over_lives_as_long_as_the_result(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await self.save(cache, self.FIRST)
        assert await client.ttl("songs_ai:views:first") == await client.ttl("job:result:first") == DAY_S

    async def test_a_second_job_of_one_key_waits_while_the_first_runs(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await cache.claim(self.FIRST, token="a")
        assert await cache.claim(self.SECOND, token="b") is Claim.RUNNING_ELSEWHERE
        assert await status_of(client, self.SECOND) == {}
        await cache.succeed(self.FIRST, DOCUMENTS, token="a")
        assert await cache.claim(self.SECOND, token="b") is Claim.SUCCEEDED_BEFORE

    async def test_of_many_jobs_of_one_key_at_once_exactly_one_runs(self, cache: RedisResultCache) -> None:
        jobs = [replace(self.FIRST, job_id=f"job-{n}") for n in range(20)]
        claims = await asyncio.gather(*(cache.claim(job, token=job.job_id) for job in jobs))
        assert sorted(claims) == [Claim.GRANTED] + [Claim.RUNNING_ELSEWHERE] * 19

    async def test_a_second_job_overtakes_a_first_one_that_failed(self, cache: RedisResultCache) -> None:
        await cache.claim(self.FIRST, token="a")
        await cache.fail("first", code="MODEL_ERROR", message="no", token="a")
        assert await cache.claim(self.SECOND, token="b") is Claim.GRANTED

    async def test_a_second_job_overtakes_a_first_one_that_nobody_runs_and_shares_its_result(
        self, cache: RedisResultCache
    ) -> None:
        await cache.claim(self.FIRST, token="a")
        await cache.release(self.FIRST, token="a")
        assert await cache.claim(self.SECOND, token="b") is Claim.GRANTED
        assert await cache.claim(self.FIRST, token="a") is Claim.RUNNING_ELSEWHERE
        await cache.succeed(self.SECOND, documents("second"), token="b")
        assert await cache.claim(self.FIRST, token="a") is Claim.SUCCEEDED_BEFORE
        view = await cache.job("first")
        assert view is not None
        assert view.result == b"result second"

    @pytest.mark.parametrize("lost", ["job:status:first", "job:result:first", "songs_ai:views:first"])
    async def test_a_second_job_runs_where_nothing_is_left_of_the_first(
        self, client: Redis, cache: RedisResultCache, lost: str
    ) -> None:
        await self.save(cache, self.FIRST)
        await client.delete(lost)
        assert await cache.claim(self.SECOND, token="b") is Claim.GRANTED

    async def test_one_key_of_two_members_is_two_keys(self, cache: RedisResultCache) -> None:
        await self.save(cache, self.FIRST)
        assert await cache.claim(replace(self.SECOND, member_id=43), token="b") is Claim.GRANTED

    async def test_a_replayed_job_of_a_key_that_succeeded_meanwhile_forgets_its_failure(
        self, client: Redis, cache: RedisResultCache
    ) -> None:
        await cache.claim(self.FIRST, token="a")
        await cache.fail("first", code="MODEL_ERROR", message="no", token="a")
        await self.save(cache, self.SECOND)
        assert await cache.claim(self.FIRST, token="a", replay=1) is Claim.SUCCEEDED_BEFORE
        assert b"error.code" not in await status_of(client, self.FIRST)

    # --- reading ---

    async def test_a_job_that_nobody_knows_is_none(self, cache: RedisResultCache) -> None:
        assert await cache.job("job-1") is None
        assert await cache.cached_view(42) is None

    async def test_a_job_is_read_as_its_poller_sees_it(self, client: Redis, cache: RedisResultCache) -> None:
        await client.hset("job:status:job-1", mapping={"status": "queued", "submittedAt": "2026-03-04T05:06:00Z"})
        queued = await cache.job("job-1")
        assert queued is not None
        assert (queued.status, queued.progress, queued.result) == (JobStatus.QUEUED, 0, None)
        await self.save(cache, JOB)
        done = await cache.job("job-1")
        assert done is not None
        assert (done.status, done.progress, done.result) == (JobStatus.SUCCEEDED, 100, b"result job-1")
        assert done.fields["submittedAt"] == "2026-03-04T05:06:00Z"
        assert await cache.cached_view(42) == b"view job-1"

    # --- any order of calls ---

    @settings(suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.sampled_from(CALLS), st.sampled_from("ab")), max_size=20))
    async def test_in_any_order_of_calls_a_job_does_as_the_model(
        self, client: Redis, cache: RedisResultCache, calls: list[tuple[str, str]]
    ) -> None:
        job, model = Job(job_id=f"any-{next(_fresh)}", member_id=1), JobModel()
        for step, (call, token) in enumerate(calls):
            before = model.status
            expected = model.do(call, token, progress=(step * 37) % 101)
            assert await do(cache, client, job, call=call, token=token, progress=(step * 37) % 101) == expected
            assert (before, model.status) in LAWFUL
            view = await cache.job(job.job_id)
            assert (view and view.status, view.progress if view else 0) == (model.status, model.progress)
            lease = await client.get(f"songs_ai:lease:{job.job_id}")
            assert lease == (model.holder and model.holder.encode())
            assert ("error.code" in view.fields if view else False) == (model.status is JobStatus.FAILED)


async def do(  # noqa: C901 - one case for each call
    cache: RedisResultCache, client: Redis, job: Job, *, call: str, token: str, progress: int
) -> Claim | None:
    match call:
        case "queue":
            await cache.mark_queued(job)
        case "claim" | "first replay" | "second replay":
            return await cache.claim(job, token=token, replay=REPLAYS[call])
        case "report":
            await cache.report_progress(job, progress)
        case "succeed":
            await cache.succeed(job, DOCUMENTS, token=token)
        case "fail":
            await cache.fail(job.job_id, code="MODEL_ERROR", message="no", token=token)
        case "dead-letter":
            await cache.fail(job.job_id, code="MODEL_ERROR", message="no", token=token, dead_letter=True)
        case "dead-lettered":
            await cache.dead_lettered(job.job_id, token=token)
        case "release":
            await cache.release(job, token=token)
        case "lose":
            await client.delete(f"songs_ai:lease:{job.job_id}")
    return None


_ORDER = [None, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.FAILED, JobStatus.SUCCEEDED]
_ENDS = {JobStatus.FAILED, JobStatus.SUCCEEDED}
LAWFUL = {(a, b) for i, a in enumerate(_ORDER) for b in _ORDER[i:]} | {(JobStatus.FAILED, JobStatus.RUNNING)}
LAWFUL -= {(JobStatus.FAILED, JobStatus.SUCCEEDED)}


class JobModel:
    """The life of one job, as simply as it can be said."""

    def __init__(self) -> None:
        self.status: JobStatus | None = None
        self.progress = 0
        self.holder: str | None = None
        self.n_replays = 0
        self.is_due = False

    def do(self, call: str, token: str, *, progress: int) -> Claim | None:  # noqa: C901 - one case for each call
        match call:
            case "queue":
                self.status = self.status or JobStatus.QUEUED
            case "claim" | "first replay" | "second replay":
                return self.claim(token, replay=REPLAYS[call])
            case "dead-lettered":
                self.is_due = False
                self.holder = None if (self.status, self.holder) == (JobStatus.FAILED, token) else self.holder
            case "report" if self.status is JobStatus.RUNNING:
                self.progress = max(self.progress, progress)
            case "succeed" if self.status not in _ENDS:
                self.status, self.progress, self.holder = JobStatus.SUCCEEDED, 100, None
            case "fail" | "dead-letter" if self.status not in _ENDS and self.holder in {None, token}:
                self.status, self.holder = JobStatus.FAILED, token if call == "dead-letter" else None
                self.is_due = self.is_due or call == "dead-letter"
            case "release":
                self.holder = None if self.holder == token else self.holder
            case "lose":
                self.holder = None
        return None

    def claim(self, token: str, *, replay: int) -> Claim:
        if self.status is JobStatus.SUCCEEDED:
            return Claim.SUCCEEDED_BEFORE
        if self.status is JobStatus.FAILED and replay <= self.n_replays:
            if not self.is_due:
                return Claim.FAILED_BEFORE
            if self.holder:
                return Claim.RUNNING_ELSEWHERE
            self.holder = token
            return Claim.DEAD_LETTER_DUE
        if self.holder not in {None, token}:
            return Claim.RUNNING_ELSEWHERE
        if self.status is JobStatus.FAILED:
            self.progress, self.is_due = 0, False
        self.n_replays = max(replay, self.n_replays)
        self.status, self.holder = JobStatus.RUNNING, token
        return Claim.GRANTED


class TestOnRedis(ResultCacheContract):
    """The contract on a real server."""

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url


class TestInMemory(ResultCacheContract):
    """The contract on the Redis of the embedded default."""

    @pytest.fixture
    def url(self) -> str:
        return "memory://"


# --- faults of a real server ---


def cache_on(client: Redis) -> RedisResultCache:
    return RedisResultCache(client, SteppingClock(), job_ttl_s=DAY_S, cache_ttl_s=WEEK_S, lease_s=15)


@pytest.mark.parametrize(
    "call",
    [
        lambda cache: cache.mark_queued(JOB),
        lambda cache: cache.claim(JOB, token="a"),
        lambda cache: cache.renew({"job-1": "a"}),
        lambda cache: cache.release(JOB, token="a"),
        lambda cache: cache.report_progress(JOB, 10),
        lambda cache: cache.succeed(JOB, DOCUMENTS, token="a"),
        lambda cache: cache.fail("job-1", code="MODEL_ERROR", message="no"),
        lambda cache: cache.dead_lettered("job-1", token="a"),
        lambda cache: cache.job("job-1"),
        lambda cache: cache.cached_view(42),
    ],
    ids=[
        *("mark_queued", "claim", "renew", "release", "report_progress", "succeed", "fail", "dead_lettered", "job"),
        "cached_view",
    ],
)
async def test_without_redis_every_method_says_so(call: Callable[[RedisResultCache], Awaitable[object]]) -> None:
    async with open_redis(f"redis://127.0.0.1:{free_port()}/0", max_connections=1, timeout_s=1) as client:
        with pytest.raises(DependencyUnavailable):
            await call(cache_on(client))


async def test_nothing_of_a_success_that_finds_the_memory_full_is_seen(private_redis: BreakableServer) -> None:
    async with open_redis(private_redis.url, max_connections=2, timeout_s=2) as client:
        cache = cache_on(client)
        await cache.claim(JOB, token="a")
        before = await everything(client)
        with redis.Redis.from_url(private_redis.url) as admin:
            admin.config_set("maxmemory", 1)
            try:
                with pytest.raises(DependencyUnavailable):
                    await cache.succeed(JOB, DOCUMENTS, token="a")
            finally:
                admin.config_set("maxmemory", 0)
        assert await everything(client) == before
        await cache.succeed(JOB, DOCUMENTS, token="a")
        view = await cache.job("job-1")
        assert view is not None
        assert view.result == DOCUMENTS.result


async def test_a_success_outlives_a_killed_server(private_redis: BreakableServer) -> None:
    async with open_redis(private_redis.url, max_connections=2, timeout_s=2) as client:
        cache = cache_on(client)
        await cache.claim(JOB, token="a")
        await cache.succeed(JOB, DOCUMENTS, token="a")
        before = await everything(client)
        await asyncio.to_thread(private_redis.kill)
        await asyncio.to_thread(private_redis.start)
        assert await everything(client) == before
        assert await cache.claim(JOB, token="b") is Claim.SUCCEEDED_BEFORE
