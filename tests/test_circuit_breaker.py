"""The breaker on a real Redis and on the one in memory: two workers, one opinion."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from core.errors import LANGUAGE_MODEL_FAILURES, DependencyUnavailable
from services.circuit_breaker import (
    BREAKER_PREFIX,
    PROVIDER_FAILURES,
    BreakerState,
    Passage,
    RedisCircuitBreaker,
    breaker_states,
)
from services.redis_client import open_redis
from tests.support.private_servers import free_port

CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN
MODEL = "small"


class Hand:
    """Milliseconds, moved by hand."""

    def __init__(self) -> None:
        self.at_ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.at_ms

    def move(self, seconds: float) -> None:
        self.at_ms += round(seconds * 1000)


def breaker(client: Redis, hand: Hand | None = None) -> RedisCircuitBreaker:
    return RedisCircuitBreaker(client, n_failures=3, window_s=30, cool_down_s=10, probe_s=5, now_ms=hand)


async def failed(each: RedisCircuitBreaker, n: int = 3, *, reason: str = "timeout") -> list[BreakerState]:
    states = []
    for number in range(n):
        token = f"{id(each)}-{number}"
        assert await each.admit(MODEL, token) is Passage.CLOSED
        states.append(await each.settle(MODEL, token, reason))
    return states


class CircuitBreakerContract:
    """Run by the subclasses, each on a Redis of its own: ``here`` and ``there`` are two workers."""

    @pytest.fixture
    async def client(self, url: str) -> AsyncIterator[Redis]:
        async with open_redis(url, max_connections=20, timeout_s=5) as client:
            yield client

    @pytest.fixture
    def hand(self) -> Hand:
        return Hand()

    @pytest.fixture
    def here(self, client: Redis, hand: Hand) -> RedisCircuitBreaker:
        return breaker(client, hand)

    @pytest.fixture
    def there(self, client: Redis, hand: Hand) -> RedisCircuitBreaker:
        return breaker(client, hand)

    @pytest.mark.parametrize("reason", sorted(PROVIDER_FAILURES))
    async def test_so_many_failures_of_the_provider_open_it_for_all_workers(
        self, here: RedisCircuitBreaker, there: RedisCircuitBreaker, reason: str
    ) -> None:
        assert await failed(here, 2, reason=reason) == [CLOSED, CLOSED]
        assert await there.admit(MODEL, "t") is Passage.CLOSED
        assert await there.settle(MODEL, "t", reason) is OPEN
        assert await here.admit(MODEL, "h") is Passage.OPEN
        assert await here.admit("another", "h") is Passage.CLOSED

    @pytest.mark.parametrize("outcome", ["ok", "cancelled", *sorted(set(LANGUAGE_MODEL_FAILURES) - PROVIDER_FAILURES)])
    async def test_what_is_no_failure_of_the_provider_never_opens_it(
        self, here: RedisCircuitBreaker, outcome: str
    ) -> None:
        assert await failed(here, 9, reason=outcome) == [CLOSED] * 9

    async def test_failures_that_are_too_far_apart_do_not_open_it(self, here: RedisCircuitBreaker, hand: Hand) -> None:
        for token in "abcdef":
            assert await here.settle(MODEL, token, "timeout") is CLOSED
            hand.move(15.1)

    async def test_as_many_successes_as_failures_keep_it_closed(self, here: RedisCircuitBreaker) -> None:
        for number in range(20):
            assert await here.settle(MODEL, f"f{number}", "timeout") is CLOSED
            assert await here.settle(MODEL, f"s{number}", "ok") is CLOSED

    async def test_a_failure_that_is_told_twice_counts_once(self, here: RedisCircuitBreaker) -> None:
        for _ in range(5):
            assert await here.settle(MODEL, "same", "timeout") is CLOSED

    async def test_the_state_is_told_without_a_call(self, client: Redis, here: RedisCircuitBreaker, hand: Hand) -> None:
        async def states() -> list[BreakerState]:
            return list((await breaker_states(client, [MODEL, "another"], hand)).values())

        assert await states() == [CLOSED, CLOSED]
        await failed(here)
        assert await states() == [OPEN, CLOSED]
        hand.move(10.1)
        assert await states() == [HALF_OPEN, CLOSED], "nobody has asked since"
        await here.admit(MODEL, "probe")
        assert await states() == [HALF_OPEN, CLOSED]
        await here.settle(MODEL, "probe", "timeout")
        assert await states() == [OPEN, CLOSED]
        hand.move(10.1)
        await here.admit(MODEL, "probe")
        await here.settle(MODEL, "probe", "ok")
        assert await states() == [CLOSED, CLOSED]

    async def test_the_state_goes_by_the_servers_own_clock(self, client: Redis) -> None:
        seconds, _ = await client.time()
        for name, opens_again_s in (("past", seconds - 5), ("future", seconds + 60)):
            await client.hset(BREAKER_PREFIX + name, "opens_again_at", str(1000 * opens_again_s))
        assert await breaker_states(client, ["past", "future"]) == {"past": HALF_OPEN, "future": OPEN}
        assert await breaker_states(client, []) == {}

    async def test_after_the_cool_down_one_caller_among_all_workers_may_try(
        self, here: RedisCircuitBreaker, there: RedisCircuitBreaker, hand: Hand
    ) -> None:
        await failed(here)
        hand.move(9.9)
        assert await here.admit(MODEL, "early") is Passage.OPEN
        hand.move(0.2)
        asked = [worker.admit(MODEL, f"{name}{n}") for n in range(5) for name, worker in (("h", here), ("t", there))]
        passages = await asyncio.gather(*asked)
        assert sorted(passages) == [Passage.OPEN] * 9 + [Passage.PROBE]

    async def test_the_probes_success_closes_it_and_forgets_the_failures(
        self, here: RedisCircuitBreaker, there: RedisCircuitBreaker, hand: Hand
    ) -> None:
        await failed(here)
        hand.move(10)
        assert await there.admit(MODEL, "p") is Passage.PROBE
        assert await there.settle(MODEL, "p", "ok") is CLOSED
        assert await failed(here, 2) == [CLOSED, CLOSED]

    async def test_the_probes_failure_opens_it_for_another_cool_down(
        self, here: RedisCircuitBreaker, there: RedisCircuitBreaker, hand: Hand
    ) -> None:
        await failed(here)
        hand.move(10)
        assert await there.admit(MODEL, "p") is Passage.PROBE
        hand.move(4)
        assert await there.settle(MODEL, "p", "unavailable") is OPEN
        hand.move(9.9)
        assert await here.admit(MODEL, "x") is Passage.OPEN
        hand.move(0.1)
        assert await here.admit(MODEL, "x") is Passage.PROBE

    async def test_a_probe_whose_worker_died_is_followed_by_another(
        self, here: RedisCircuitBreaker, there: RedisCircuitBreaker, hand: Hand
    ) -> None:
        await failed(here)
        hand.move(10)
        assert await here.admit(MODEL, "dies") is Passage.PROBE
        hand.move(4.9)
        assert await there.admit(MODEL, "next") is Passage.OPEN
        hand.move(0.1)
        assert await there.admit(MODEL, "next") is Passage.PROBE
        assert await here.settle(MODEL, "dies", "ok") is HALF_OPEN

    async def test_a_probe_that_was_not_made_leaves_room_for_another_at_once(
        self, here: RedisCircuitBreaker, there: RedisCircuitBreaker, hand: Hand
    ) -> None:
        await failed(here)
        hand.move(10)
        assert await here.admit(MODEL, "p") is Passage.PROBE
        assert await here.settle(MODEL, "p", "over_budget") is HALF_OPEN
        assert await there.admit(MODEL, "q") is Passage.PROBE

    async def test_late_ends_of_earlier_calls_change_nothing_while_it_is_open(
        self, here: RedisCircuitBreaker, there: RedisCircuitBreaker
    ) -> None:
        await failed(here)
        assert await there.settle(MODEL, "late", "ok") is OPEN
        assert await there.settle(MODEL, "later", "timeout") is OPEN
        assert await there.admit(MODEL, "x") is Passage.OPEN

    async def test_by_the_clock_of_redis_it_opens_and_probes_as_well(self, client: Redis) -> None:
        each = RedisCircuitBreaker(client, n_failures=1, window_s=5, cool_down_s=0.001, probe_s=60)
        assert await each.settle(MODEL, "f", "timeout") is OPEN
        async with asyncio.timeout(5):
            while await each.admit(MODEL, "p") is not Passage.PROBE:
                pass
        assert await each.admit(MODEL, "q") is Passage.OPEN

    async def test_all_that_it_keeps_goes_away_by_itself(self, here: RedisCircuitBreaker, client: Redis) -> None:
        await failed(here, 1)
        assert [await client.ttl(key) > 0 for key in await client.keys("songs_ai:*")] == [True]
        await failed(here, 2)
        assert [await client.ttl(key) > 0 for key in await client.keys("songs_ai:*")] == [True]


class TestOnRedis(CircuitBreakerContract):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url


class TestInMemory(CircuitBreakerContract):
    @pytest.fixture
    def url(self) -> str:
        return "memory://"


async def test_without_redis_it_says_so() -> None:
    async with open_redis(f"redis://127.0.0.1:{free_port()}/0", max_connections=2, timeout_s=1) as client:
        with pytest.raises(DependencyUnavailable):
            await breaker(client).admit(MODEL, "t")
