"""What batches take of a day's money, beside what calls take, on a real Redis and on the one in memory."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from config.token_price import TokenPrice
from core.errors import DependencyUnavailable, LanguageModelFailed
from services.batch_purse import RedisBatchPurse
from services.call_budgets import SPEND_PREFIX, RedisCallBudgets
from services.redis_client import open_redis
from tests.support.hand_clock import HandClock
from tests.support.private_servers import free_port

DAY = 86_400.0


class PurseTests:
    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock(datetime(2026, 3, 1, 12, tzinfo=UTC))

    def purse(self, client: Redis, clock: HandClock, daily_usd: float = 10.0) -> RedisBatchPurse:
        return RedisBatchPurse(client, clock, daily_usd=daily_usd, time_zone="UTC")

    async def spent(self, client: Redis, day: str = "2026-03-01") -> float:
        return int(await client.get(SPEND_PREFIX + day) or 0) / 1e9

    async def test_a_reservation_is_spent_until_it_is_settled(self, client: Redis, clock: HandClock) -> None:
        purse = self.purse(client, clock)
        assert await purse.left_usd() == 10
        assert await purse.reserve("a", 4)
        assert await purse.left_usd() == 6
        await purse.settle("a", 1.5)
        assert await purse.left_usd() == 8.5

    async def test_what_is_above_the_ceiling_is_refused_and_spends_nothing(
        self, client: Redis, clock: HandClock
    ) -> None:
        purse = self.purse(client, clock)
        assert await purse.reserve("a", 7)
        assert not await purse.reserve("b", 3.01)
        assert await purse.left_usd() == 3
        assert await purse.reserve("b", 3)
        assert await purse.left_usd() == 0

    async def test_the_same_reservation_twice_is_one(self, client: Redis, clock: HandClock) -> None:
        purse = self.purse(client, clock)
        assert [await purse.reserve("a", 9) for _ in range(2)] == [True, True]
        assert await self.spent(client) == 9

    async def test_a_batch_is_paid_for_once(self, client: Redis, clock: HandClock) -> None:
        purse = self.purse(client, clock)
        await purse.reserve("a", 4)
        for _ in range(2):
            await purse.settle("a", 3)
        assert await purse.reserve("a", 4)
        assert await self.spent(client) == 3

    async def test_it_is_paid_for_on_the_day_of_its_reservation(self, client: Redis, clock: HandClock) -> None:
        purse = self.purse(client, clock)
        await purse.reserve("a", 4)
        clock.move(DAY)
        assert await purse.left_usd() == 10
        await purse.settle("a", 1)
        assert (await self.spent(client), await self.spent(client, "2026-03-02")) == (1, 0)

    async def test_a_day_that_nobody_counts_any_more_is_not_counted_again(
        self, client: Redis, clock: HandClock
    ) -> None:
        purse = self.purse(client, clock)
        await purse.reserve("a", 4)
        await client.delete(SPEND_PREFIX + "2026-03-01")
        clock.move(5 * DAY)
        await purse.settle("a", 1)
        assert [key async for key in client.scan_iter(match=f"{SPEND_PREFIX}*")] == []

    async def test_where_the_reservation_is_lost_today_pays(self, client: Redis, clock: HandClock) -> None:
        purse = self.purse(client, clock)
        await purse.reserve("a", 4)
        await client.flushdb()
        await purse.settle("a", 1)
        await purse.settle("a", 1)
        assert await self.spent(client) == 1

    async def test_without_a_ceiling_everything_is_counted_and_nothing_refused(
        self, client: Redis, clock: HandClock
    ) -> None:
        purse = self.purse(client, clock, daily_usd=0.0)
        assert await purse.left_usd() is None
        assert await purse.reserve("a", 1e6)
        await purse.settle("a", 2)
        assert await self.spent(client) == 2

    async def test_calls_and_batches_take_from_one_purse(self, client: Redis, clock: HandClock) -> None:
        purse = self.purse(client, clock)
        budgets = RedisCallBudgets(
            client,
            clock,
            models=("m",),
            prices={"m": TokenPrice(input=1.0, output=1.0)},
            requests_per_minute=0,
            tokens_per_minute=0,
            daily_usd=10.0,
            requests_per_call=1,
            lease_s=60.0,
            time_zone="UTC",
            now_ms=lambda: int(clock.now().timestamp() * 1000),
        )
        assert await purse.reserve("a", 9.5)
        with pytest.raises(LanguageModelFailed, match="over_spend"):
            await budgets.reserve("m", "t", prompt_tokens=600_000, completion_tokens=0, patience_s=0)
        await budgets.reserve("m", "t", prompt_tokens=400_000, completion_tokens=0, patience_s=0)
        assert await purse.left_usd() == pytest.approx(0.1)

    async def test_many_at_once_never_pass_the_ceiling(self, client: Redis, clock: HandClock) -> None:
        purse = self.purse(client, clock)
        granted = await asyncio.gather(*(purse.reserve(f"k{place}", 1.5) for place in range(20)))
        assert sum(granted) == 6
        assert await self.spent(client) == 9

    async def test_what_redis_holds_of_a_batch_ends_by_itself(self, client: Redis, clock: HandClock) -> None:
        await self.purse(client, clock).reserve("a", 1)
        await self.purse(client, clock).settle("b", 1)
        async for key in client.scan_iter():
            assert await client.ttl(key) > 0


class TestOnRedis(PurseTests):
    @pytest.fixture
    async def client(self, redis_url: str) -> AsyncIterator[Redis]:
        async with open_redis(redis_url, max_connections=50, timeout_s=5.0) as client:
            yield client

    async def test_without_redis_nothing_is_reserved(self, clock: HandClock) -> None:
        async with open_redis(f"redis://127.0.0.1:{free_port()}/0", max_connections=2, timeout_s=0.5) as client:
            with pytest.raises(DependencyUnavailable):
                await self.purse(client, clock).reserve("a", 1)


class TestInMemory(PurseTests):
    @pytest.fixture
    async def client(self) -> AsyncIterator[Redis]:
        async with open_redis("memory://", max_connections=50, timeout_s=5.0) as client:
            yield client
