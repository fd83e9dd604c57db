"""The contract of ``AnswerCache``, with the same tests on a real Redis and on the one in memory; then real faults."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from structlog.testing import capture_logs

from core.errors import DependencyUnavailable
from core.ports.results import ResultDocuments
from models.job import Job
from models.log_event import LogEvent
from services.answer_cache import RedisAnswerCache
from services.redis_client import open_redis
from tests.support.private_servers import free_port
from tests.support.servers import BreakableServer
from tests.support.waiting import until

JOB = Job(job_id="j", member_id=7)
DOCUMENTS = ResultDocuments(result=b'{"r": 1}', cached_view=b'{"v": 1}', preference=b'{"p": 1}')
FLIGHT = "songs_ai:flight:f"
LARGE = orjson.dumps(
    {
        "songs": [
            {"item_id": n, "title_en": f"Song {n * 7919 % 1000}", "score": n / 7, "reason": "Close"} for n in range(99)
        ]
    }
)


def worker(client: Redis, *, flight_lease_s: float = 5.0) -> RedisAnswerCache:
    """An answer cache as one worker process has it."""
    return RedisAnswerCache(client, ttl_s=86_400, degraded_ttl_s=600, flight_lease_s=flight_lease_s)


class Kitchen:
    """Makes answers, slowly, and remembers how many, and how many at once."""

    def __init__(self) -> None:
        self.n_made = self.n_at_once = self.max_at_once = 0

    async def answer(self, cache: RedisAnswerCache, fingerprint: str = "f") -> ResultDocuments:
        async with cache.single_flight(fingerprint):
            if found := await cache.get(fingerprint):
                return found
            self.n_at_once += 1
            self.max_at_once = max(self.max_at_once, self.n_at_once)
            for _ in range(20):
                await asyncio.sleep(0)
            self.n_made += 1
            await cache.put(fingerprint, DOCUMENTS, JOB)
            self.n_at_once -= 1
            return DOCUMENTS


class Holder:
    """A task that holds a flight until it is told to let go."""

    def __init__(self, cache: RedisAnswerCache, fingerprint: str = "f") -> None:
        self.inside, self.may_go = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._hold(cache, fingerprint))

    async def _hold(self, cache: RedisAnswerCache, fingerprint: str) -> None:
        async with cache.single_flight(fingerprint):
            self.inside.set()
            await self.may_go.wait()

    async def leave(self) -> None:
        self.may_go.set()
        await self.task

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled()


class AnswerCacheContract:
    """Run by the subclasses, each on a Redis of its own."""

    @pytest.fixture
    async def client(self, url: str) -> AsyncIterator[Redis]:
        async with open_redis(url, max_connections=20, timeout_s=5) as client:
            yield client

    @pytest.fixture
    def cache(self, client: Redis) -> RedisAnswerCache:
        return worker(client)

    # --- answers ---

    async def test_an_answer_that_nobody_stored_is_none(self, cache: RedisAnswerCache) -> None:
        assert await cache.get("f") is None

    @settings(suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture])
    @given(st.builds(ResultDocuments, result=st.binary(), cached_view=st.binary(), preference=st.binary()))
    async def test_what_goes_in_comes_out_to_the_byte(self, cache: RedisAnswerCache, stored: ResultDocuments) -> None:
        await cache.put("f", stored, JOB)
        assert await cache.get("f") == stored

    @pytest.mark.parametrize(("degraded", "ttl_s"), [(False, 86_400), (True, 600)])
    async def test_a_degraded_answer_says_so_and_lives_shorter(
        self, client: Redis, cache: RedisAnswerCache, degraded: bool, ttl_s: int
    ) -> None:
        stored = ResultDocuments(result=b"r", cached_view=b"v", preference=b"p", degraded=degraded)
        await cache.put("f", stored, JOB)
        assert await cache.get("f") == stored
        assert await client.ttl("songs_ai:answer:f") == ttl_s
        assert await client.zrange("songs_ai:of_member:7", 0, -1) == [b"key songs_ai:answer:f"]
        assert sorted(await client.keys()) == [b"songs_ai:answer:f", b"songs_ai:of_member:7"]

    async def test_a_better_answer_takes_the_place_of_a_degraded_one(
        self, client: Redis, cache: RedisAnswerCache
    ) -> None:
        await cache.put("f", ResultDocuments(result=b"r", cached_view=b"v", preference=b"p", degraded=True), JOB)
        await cache.put("f", DOCUMENTS, JOB)
        assert await cache.get("f") == DOCUMENTS
        assert await client.ttl("songs_ai:answer:f") == 86_400

    async def test_an_answer_with_a_part_missing_is_none(self, client: Redis, cache: RedisAnswerCache) -> None:
        await cache.put("f", DOCUMENTS, JOB)
        await client.hdel("songs_ai:answer:f", "preference")
        assert await cache.get("f") is None

    async def test_documents_as_large_as_real_ones_take_less_than_a_fifth_of_their_length(
        self, client: Redis, cache: RedisAnswerCache
    ) -> None:
        stored = ResultDocuments(result=LARGE, cached_view=LARGE, preference=b"{}")
        await cache.put("f", stored, JOB)
        assert await cache.get("f") == stored
        assert sum(map(len, await client.hvals("songs_ai:answer:f"))) < 2 * len(LARGE) / 5

    # --- single flight ---

    async def test_many_tasks_of_one_worker_make_one_answer(self, cache: RedisAnswerCache) -> None:
        kitchen = Kitchen()
        answers = await asyncio.gather(*(kitchen.answer(cache) for _ in range(30)))
        assert (kitchen.n_made, kitchen.max_at_once) == (1, 1)
        assert answers == [DOCUMENTS] * 30

    async def test_tasks_of_one_worker_enter_in_the_order_in_which_they_came(self, cache: RedisAnswerCache) -> None:
        entered = []

        async def enter(n: int) -> None:
            async with cache.single_flight("f"):
                entered.append(n)

        await asyncio.gather(*(enter(n) for n in range(20)))
        assert entered == list(range(20))

    async def test_many_workers_make_one_answer(self, client: Redis) -> None:
        kitchen = Kitchen()
        workers = [worker(client) for _ in range(4)]
        answers = await asyncio.gather(*(kitchen.answer(cache) for cache in workers * 3))
        assert (kitchen.n_made, kitchen.max_at_once) == (1, 1)
        assert answers == [DOCUMENTS] * 12

    async def test_a_flight_is_one_lease_that_ends_with_it(self, client: Redis, cache: RedisAnswerCache) -> None:
        async with cache.single_flight("f"):
            assert 4_000 < await client.pttl(FLIGHT) <= 5_000
        assert await client.keys() == []

    async def test_flights_of_different_fingerprints_do_not_wait_for_each_other(self, cache: RedisAnswerCache) -> None:
        async with asyncio.timeout(5), cache.single_flight("f"), cache.single_flight("g"):
            pass

    async def test_no_lock_is_kept_for_a_fingerprint_that_nobody_wants(self, cache: RedisAnswerCache) -> None:
        kitchen = Kitchen()
        await asyncio.gather(*(kitchen.answer(cache, f"f{n % 10}") for n in range(40)))
        assert kitchen.n_made == 10
        assert len(cache._locks) == 0

    async def test_an_error_under_the_lease_lets_go_of_it(self, client: Redis, cache: RedisAnswerCache) -> None:
        with pytest.raises(ZeroDivisionError):
            async with cache.single_flight("f"):
                _ = 1 / 0
        assert not await client.exists(FLIGHT)

    async def test_a_cancelled_holder_lets_go(self, client: Redis, cache: RedisAnswerCache) -> None:
        holder = Holder(cache)
        await holder.inside.wait()
        await holder.cancel()
        assert not await client.exists(FLIGHT)

    @pytest.mark.parametrize("n_steps", range(12))
    async def test_whenever_an_entering_task_is_cancelled_no_lease_is_left(
        self, client: Redis, cache: RedisAnswerCache, n_steps: int
    ) -> None:
        async with cache.single_flight("warm-up"):
            pass
        holder = Holder(cache)
        for _ in range(n_steps):
            await asyncio.sleep(0)
        await holder.cancel()
        assert await client.keys() == []

    async def test_a_cancelled_waiter_leaves_the_holder_alone(self, client: Redis) -> None:
        holder = Holder(worker(client))
        await holder.inside.wait()
        token = await client.get(FLIGHT)
        neighbour, stranger = Holder(worker(client)), Holder(worker(client))
        await asyncio.sleep(0)
        await neighbour.cancel()
        await stranger.cancel()
        assert await client.get(FLIGHT) == token
        await holder.leave()
        assert not await client.exists(FLIGHT)

    async def test_waiters_enter_once_the_holder_of_another_worker_has_left(self, client: Redis) -> None:
        holder = Holder(worker(client))
        await holder.inside.wait()
        waiter = Holder(worker(client))
        await holder.leave()
        async with asyncio.timeout(10):
            await waiter.inside.wait()
        await waiter.leave()

    async def test_a_dead_holder_lets_go_when_its_lease_runs_out(self, client: Redis, cache: RedisAnswerCache) -> None:
        await client.set(FLIGHT, "dead", px=150)
        async with asyncio.timeout(10), cache.single_flight("f"):
            assert await client.get(FLIGHT) != b"dead"

    async def test_a_living_holder_renews_its_lease(self, client: Redis) -> None:
        async with worker(client, flight_lease_s=1.5).single_flight("f"):
            await until(lambda: is_below(client, 1_250))
            await until(lambda: is_above(client, 1_250))

    async def test_a_holder_that_lost_its_lease_does_not_end_its_successors(self, client: Redis) -> None:
        async with worker(client).single_flight("f"):
            await client.set(FLIGHT, "successor", px=4_000)
        assert await client.get(FLIGHT) == b"successor"


async def is_above(client: Redis, left_ms: int) -> bool:
    return await client.pttl(FLIGHT) > left_ms


async def is_below(client: Redis, left_ms: int) -> bool:
    return 0 < await client.pttl(FLIGHT) < left_ms


class TestOnRedis(AnswerCacheContract):
    """The contract on a real server."""

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url

    async def test_workers_with_connections_of_their_own_make_one_answer(self, url: str) -> None:
        kitchen = Kitchen()
        async with (
            open_redis(url, max_connections=3, timeout_s=5) as one,
            open_redis(url, max_connections=3, timeout_s=5) as other,
        ):
            caches = [worker(one), worker(other)] * 8
            await asyncio.gather(*(kitchen.answer(cache) for cache in caches))
        assert (kitchen.n_made, kitchen.max_at_once) == (1, 1)


class TestInMemory(AnswerCacheContract):
    """The contract on the Redis of the embedded default."""

    @pytest.fixture
    def url(self) -> str:
        return "memory://"


# --- faults of a real server ---


async def test_without_redis_every_method_says_so() -> None:
    async with open_redis(f"redis://127.0.0.1:{free_port()}/0", max_connections=2, timeout_s=1) as client:
        cache = worker(client)
        with pytest.raises(DependencyUnavailable):
            await cache.get("f")
        with pytest.raises(DependencyUnavailable):
            await cache.put("f", DOCUMENTS, JOB)
        with pytest.raises(DependencyUnavailable):
            async with cache.single_flight("f"):
                pytest.fail("entered without a lease")


async def test_an_outage_that_somebody_remembers_keeps_no_lock() -> None:
    async with open_redis(f"redis://127.0.0.1:{free_port()}/0", max_connections=2, timeout_s=1) as client:
        cache = worker(client)
        with pytest.raises(DependencyUnavailable) as remembered:
            async with cache.single_flight("f"):
                pytest.fail("entered without a lease")
        assert "single_flight" in {entry.name for entry in remembered.traceback}
        assert len(cache._locks) == 0


async def test_what_was_done_under_the_lease_is_kept_where_redis_dies_meanwhile(private_redis: BreakableServer) -> None:
    async with open_redis(private_redis.url, max_connections=2, timeout_s=1) as client:
        with capture_logs() as logs:
            async with worker(client, flight_lease_s=0.3).single_flight("f"):
                await asyncio.to_thread(private_redis.kill)
                await until(lambda: told(logs))
        assert logs[0]["event"] == LogEvent.LEASE_RENEWAL_FAILED


async def told(logs: Sequence[object]) -> bool:
    return bool(logs)
