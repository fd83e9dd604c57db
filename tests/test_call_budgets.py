"""The budgets on a real Redis and on the one in memory: never over a limit in any window, nor over the ceiling."""

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypedDict, Unpack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from config.rate_limit import RateLimit
from config.token_price import TokenPrice
from core.errors import ConfigurationError, DependencyUnavailable, LanguageModelFailed
from core.lanes import Lane, in_lane
from services.call_budgets import OPEN_PREFIX, SPEND_PREFIX, RedisCallBudgets, Reservation, spend_today_usd
from services.clock import SystemClock
from services.redis_client import open_redis
from tests.support.hand_clock import HandClock
from tests.support.private_servers import free_port

PRICE = TokenPrice(input=1.0, cached_input=0.25, output=4.0)
PRICES = {"small": PRICE, "large": PRICE}


class Limits(TypedDict, total=False):
    rate_limits: Mapping[str, RateLimit]
    requests_per_minute: int
    tokens_per_minute: int
    daily_usd: float
    requests_per_call: int
    lease_s: float
    window_s: float
    batch_share: float


def budgets(client: Redis, clock: HandClock | None = None, **given: Unpack[Limits]) -> RedisCallBudgets:
    limits: Limits = {
        "requests_per_minute": 0,
        "tokens_per_minute": 0,
        "daily_usd": 0.0,
        "requests_per_call": 1,
        "lease_s": 100.0,
        **given,
    }
    now_ms = None if clock is None else lambda: round(clock.now().timestamp() * 1000)
    return RedisCallBudgets(
        client, clock or SystemClock(), prices=PRICES, time_zone="Asia/Seoul", now_ms=now_ms, **limits
    )


async def reserved(
    each: RedisCallBudgets,
    call: str = "t",
    *,
    model: str = "small",
    prompt: int = 90,
    completion: int = 10,
    patience_s: float = 0.0,
) -> Reservation:
    return await each.reserve(model, call, prompt_tokens=prompt, completion_tokens=completion, patience_s=patience_s)


async def refusal(each: RedisCallBudgets, call: str = "refused", *, prompt: int = 90) -> str:
    with pytest.raises(LanguageModelFailed) as caught:
        await reserved(each, call, prompt=prompt)
    return caught.value.reason


async def used(each: RedisCallBudgets, reservation: Reservation, *, requests: int = 1, tokens: int = 100) -> None:
    await each.settle(reservation, n_requests=requests, tokens=tokens, cost_usd=0.0)


def most_in_any_window(events: Sequence[tuple[float, int]], window_s: float) -> int:
    """The largest sum of amounts of ``events`` (time, amount) within a window that begins at one of them."""
    starts = [start for start, _ in events]
    return max((sum(amount for at, amount in events if start <= at < start + window_s) for start in starts), default=0)


class CallBudgetsContract:
    """Run by the subclasses, each on a Redis of its own."""

    @pytest.fixture
    async def client(self, url: str) -> AsyncIterator[Redis]:
        async with open_redis(url, max_connections=20, timeout_s=5) as client:
            yield client

    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock()

    async def test_requests_of_all_workers_together_stay_within_the_limit(
        self, client: Redis, clock: HandClock
    ) -> None:
        here, there = (budgets(client, clock, requests_per_minute=3) for _ in range(2))
        await reserved(here, "a")
        await reserved(there, "b")
        await used(here, await reserved(here, "c"))
        assert await refusal(there) == "over_budget"

    async def test_the_batch_keeps_to_its_share_and_leaves_the_rest_to_those_who_wait(
        self, client: Redis, clock: HandClock
    ) -> None:
        here, there = (budgets(client, clock, requests_per_minute=4, batch_share=0.5) for _ in range(2))
        with in_lane(Lane.BATCH):
            await used(here, await reserved(here, "a"))
            await reserved(there, "b")
            assert await refusal(here) == "over_budget"
        await reserved(here, "c")
        await reserved(there, "d")
        assert await refusal(here) == "over_budget"

    async def test_what_those_who_wait_have_used_is_not_there_for_the_batch(
        self, client: Redis, clock: HandClock
    ) -> None:
        each = budgets(client, clock, requests_per_minute=4, batch_share=0.5)
        for call in "abcd":
            await reserved(each, call)
        with in_lane(Lane.BATCH):
            assert await refusal(each) == "over_budget"

    async def test_a_batch_call_that_found_no_room_takes_none_of_the_batchs_share(
        self, client: Redis, clock: HandClock
    ) -> None:
        each = budgets(client, clock, requests_per_minute=2, batch_share=0.5)
        taken = [await reserved(each, "a"), await reserved(each, "b")]
        with in_lane(Lane.BATCH):
            assert await refusal(each) == "over_budget"
        for reservation in taken:
            await each.settle(reservation, n_requests=0, tokens=0, cost_usd=0.0)
        with in_lane(Lane.BATCH):
            await reserved(each, "c")

    async def test_a_batch_that_spends_its_share_of_the_day_stops_and_others_go_on(
        self, client: Redis, clock: HandClock
    ) -> None:
        each = budgets(client, clock, daily_usd=0.001, batch_share=0.3)
        with in_lane(Lane.BATCH):
            reservation = await reserved(each, "a", prompt=100, completion=25)  # 0.0002 USD
            assert await refusal(each, prompt=110) == "over_spend"
            assert await each.settle(reservation, n_requests=1, tokens=125, cost_usd=0.0002) == pytest.approx(0.0002)
            assert await refusal(each, prompt=110) == "over_spend"
        other = await reserved(each, "b", prompt=100, completion=25)
        assert await each.settle(other, n_requests=1, tokens=125, cost_usd=0.0002) == pytest.approx(0.0004)

    async def test_a_small_limit_leaves_the_batch_one_request(self, client: Redis, clock: HandClock) -> None:
        each = budgets(client, clock, requests_per_minute=1, batch_share=0.1)
        with in_lane(Lane.BATCH):
            await reserved(each, "a")

    async def test_what_was_settled_counts_for_a_whole_minute_after_that(self, client: Redis, clock: HandClock) -> None:
        each = budgets(client, clock, requests_per_minute=1)
        reservation = await reserved(each)
        clock.move(40)
        await used(each, reservation)
        clock.move(60)
        assert await refusal(each) == "over_budget"
        clock.move(1)
        await reserved(each, "next")

    async def test_what_is_under_way_counts_however_long_it_takes(self, client: Redis, clock: HandClock) -> None:
        each = budgets(client, clock, requests_per_minute=1)
        await reserved(each)
        clock.move(99)
        assert await refusal(each) == "over_budget"

    async def test_what_a_dead_worker_reserved_counts_as_used_when_it_is_given_up(
        self, client: Redis, clock: HandClock
    ) -> None:
        each = budgets(client, clock, requests_per_minute=1)
        lost = await reserved(each)
        clock.move(100 + 60)
        assert await refusal(each) == "over_budget"
        clock.move(1)
        await reserved(each, "next")
        await used(each, lost)
        assert await refusal(each) == "over_budget"

    async def test_tokens_are_reserved_at_the_most_and_corrected_when_settled(
        self, client: Redis, clock: HandClock
    ) -> None:
        each = budgets(client, clock, tokens_per_minute=250)
        first = await reserved(each, "a")
        await reserved(each, "b")
        assert await refusal(each) == "over_budget"
        await used(each, first, tokens=50)
        await reserved(each, "c")
        assert await refusal(each) == "over_budget"

    async def test_retries_are_requests_too(self, client: Redis, clock: HandClock) -> None:
        each = budgets(client, clock, requests_per_minute=5, requests_per_call=3)
        first = await reserved(each, "a")
        assert await refusal(each) == "over_budget"
        await used(each, first, requests=2)
        await reserved(each, "b")
        assert await refusal(each) == "over_budget"

    async def test_each_model_has_limits_of_its_own(self, client: Redis, clock: HandClock) -> None:
        each = budgets(client, clock, requests_per_minute=1, rate_limits={"large": RateLimit(tokens_per_minute=250)})
        first = await reserved(each, "a")
        assert await refusal(each) == "over_budget"
        await reserved(each, "b", model="large")
        with pytest.raises(LanguageModelFailed, match="over_budget"):
            await reserved(each, "c", model="large")
        await used(each, first)
        await reserved(each, "d", model="third")

    async def test_limits_of_a_model_s_own_stand_in_place_of_the_general_ones(
        self, client: Redis, clock: HandClock
    ) -> None:
        limit = RateLimit(requests_per_minute=0, tokens_per_minute=150)
        each = budgets(client, clock, requests_per_minute=1, rate_limits={"large": limit})
        for call in ("a", "b", "c"):
            reservation = await reserved(each, call, model="large")
            await used(each, reservation, tokens=10)
        await reserved(each, "d", model="large")
        with pytest.raises(LanguageModelFailed, match="over_budget"):
            await reserved(each, "e", model="large")

    async def test_all_models_spend_the_same_money(self, client: Redis, clock: HandClock) -> None:
        each = budgets(client, clock, daily_usd=0.0002)
        await reserved(each, "a")
        with pytest.raises(LanguageModelFailed, match="over_spend"):
            await reserved(each, "b", model="large")

    async def test_what_all_spent_today_is_told_and_nothing_the_day_after(
        self, client: Redis, clock: HandClock
    ) -> None:
        async def spent() -> float:
            return await spend_today_usd(client, clock, "Asia/Seoul")

        assert await spent() == 0
        each = budgets(client, clock, daily_usd=1.0)
        first, second = await reserved(each, "a"), await reserved(each, "b")
        for reservation in (first, second):
            await each.settle(reservation, n_requests=1, tokens=100, cost_usd=0.05)
        assert await spent() == pytest.approx(0.1)
        clock.move(86_400)
        assert await spent() == 0

    async def test_a_call_above_the_whole_limit_goes_alone(self, client: Redis, clock: HandClock) -> None:
        each = budgets(client, clock, tokens_per_minute=50, requests_per_minute=1, requests_per_call=3)
        await reserved(each, "a")
        assert await refusal(each) == "over_budget"

    async def test_tokens_are_reserved_for_each_request_that_a_call_may_send(
        self, client: Redis, clock: HandClock
    ) -> None:
        each = budgets(client, clock, tokens_per_minute=350, requests_per_call=3)
        first = await reserved(each, "a")
        assert await refusal(each) == "over_budget"
        await used(each, first, tokens=50)
        await reserved(each, "b")

    async def test_a_call_that_is_cancelled_while_it_reserves_leaves_nothing_reserved(
        self, client: Redis, clock: HandClock
    ) -> None:
        each = budgets(client, clock, requests_per_minute=1000, daily_usd=1, batch_share=0.5)
        n_granted = 0
        for number in range(60):
            with in_lane(Lane.BATCH if number % 2 else Lane.INTERACTIVE):
                task = asyncio.create_task(reserved(each, f"t{number}"))
            for _ in range(number // 2):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await each.settle(await task, n_requests=0, tokens=0, cost_usd=0.0)
                n_granted += 1
        assert n_granted < 60
        assert [await client.zcard(key) for key in await client.keys(OPEN_PREFIX + "*")] == []
        spent = [await client.get(key) for key in await client.keys(SPEND_PREFIX + "*")]
        assert [int(each or 0) for each in spent] == [0] * len(spent)

    async def test_a_reservation_that_is_sent_twice_or_settled_twice_counts_once(
        self, client: Redis, clock: HandClock
    ) -> None:
        each = budgets(client, clock, requests_per_minute=2)
        first = await reserved(each, "same")
        assert (await reserved(each, "same")).key == first.key
        await used(each, first)
        await used(each, first)
        await reserved(each, "other")

    async def test_a_call_waits_for_room_as_long_as_it_has_patience(self, client: Redis) -> None:
        each = budgets(client, requests_per_minute=1, window_s=0.3)
        await used(each, await reserved(each, "a"))
        second = await reserved(each, "b", patience_s=5)
        assert 0.2 < second.waited_s < 3

    async def test_a_call_that_cannot_have_room_in_time_does_not_wait_at_all(
        self, client: Redis, clock: HandClock
    ) -> None:
        each = budgets(client, clock, requests_per_minute=1)
        await used(each, await reserved(each, "a"))
        async with asyncio.timeout(5):
            with pytest.raises(LanguageModelFailed, match="over_budget"):
                await reserved(each, "b", patience_s=30)

    async def test_the_days_ceiling_is_never_passed_and_spend_is_corrected(
        self, client: Redis, clock: HandClock
    ) -> None:
        each = budgets(client, clock, daily_usd=0.001)
        first = await reserved(each, "a", prompt=600, completion=50)
        assert int(await client.get(f"{SPEND_PREFIX}2026-03-01") or 0) == 800_000
        assert await refusal(each, prompt=300) == "over_spend"
        cost_usd = each.cost_usd("small", prompt_tokens=600, completion_tokens=50, cached_tokens=400)
        assert cost_usd is not None
        assert cost_usd == pytest.approx(0.0005)
        assert await each.settle(first, n_requests=1, tokens=650, cost_usd=cost_usd) == pytest.approx(0.0005)
        await reserved(each, "b", prompt=300)

    async def test_the_day_is_that_of_the_time_zone(self, client: Redis) -> None:
        clock = HandClock(datetime(2026, 3, 1, 14, 59, 50, tzinfo=UTC))  # ten seconds before midnight in Seoul
        each = budgets(client, clock, daily_usd=0.0001)
        await reserved(each, "a", prompt=60)
        assert await refusal(each) == "over_spend"
        clock.move(10)
        await reserved(each, "b", prompt=60)
        keys = set(await client.keys(SPEND_PREFIX + "*"))
        assert keys == {f"{SPEND_PREFIX}2026-03-0{day}".encode() for day in (1, 2)}

    async def test_what_a_model_without_a_price_costs_is_not_known(self, client: Redis, clock: HandClock) -> None:
        each = budgets(client, clock, daily_usd=0.0001)
        assert each.cost_usd("unknown", prompt_tokens=10**9, completion_tokens=10**9) is None
        free = budgets(client, clock)
        reservation = await free.reserve("unknown", "t", prompt_tokens=9, completion_tokens=9, patience_s=0)
        assert reservation.model == "unknown"

    async def test_all_that_it_keeps_goes_away_by_itself(self, client: Redis, clock: HandClock) -> None:
        each = budgets(client, clock, requests_per_minute=5, daily_usd=1)
        first = await reserved(each, "a")
        await reserved(each, "b")
        await used(each, first)
        keys = await client.keys("*")
        assert len(keys) == 3
        assert all([await client.ttl(key) > 0 for key in keys])


class TestOnRedis(CallBudgetsContract):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url


class TestInMemory(CallBudgetsContract):
    @pytest.fixture
    def url(self) -> str:
        return "memory://"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(("reserve", "settle", "move")), st.integers(0, 50)), min_size=10, max_size=60
    )
)
async def test_whatever_happens_no_window_holds_more_than_the_limit(
    redis_url: str, steps: list[tuple[str, int]]
) -> None:
    async with open_redis(redis_url, max_connections=2, timeout_s=5) as client:
        await client.flushdb()
        sent = await _sent(client, steps)
    assert most_in_any_window(sent, 60) <= 300
    assert most_in_any_window([(at, 1) for at, _ in sent], 60) <= 4


async def _sent(client: Redis, steps: list[tuple[str, int]]) -> list[tuple[float, int]]:
    """What two workers sent, as time and tokens."""
    clock = HandClock()
    workers = [budgets(client, clock, requests_per_minute=4, tokens_per_minute=300, lease_s=1e6) for _ in range(2)]
    under_way: list[tuple[Reservation, int]] = []
    sent: list[tuple[float, int]] = []
    for number, (step, amount) in enumerate(steps):
        if step == "move":
            clock.move(amount * 0.7)
        elif step == "reserve":
            with suppress(LanguageModelFailed):
                reservation = await reserved(workers[number % 2], f"t{number}", prompt=2 * amount)
                under_way.append((reservation, 2 * amount + 10))
        elif under_way:
            # As late as can be: what the provider sees of a call comes at some time before it is settled.
            reservation, tokens = under_way.pop(amount % len(under_way))
            sent.append((clock.monotonic_s(), tokens))
            await used(workers[number % 2], reservation, tokens=tokens)
    return sent


# --- ten workers ---

WINDOW_S, LIMIT, RUN_S = 0.3, 7, 1.0


async def _client_of(url: str, name: str, until_s: float) -> list[float]:
    """Call as often as there is room; when the requests were sent, by the clock that all processes share."""
    sent: list[float] = []
    async with open_redis(url, max_connections=5, timeout_s=5) as client:
        each = budgets(client, requests_per_minute=LIMIT, window_s=WINDOW_S)
        while time.monotonic() < until_s:
            try:
                reservation = await reserved(each, f"{name}-{len(sent)}", patience_s=0.1)
            except LanguageModelFailed:
                continue
            sent.append(time.monotonic())
            await asyncio.sleep(0.001)  # the call
            await used(each, reservation)
    return sent


def _process(url: str, name: str, until_s: float) -> list[float]:
    # At least for a moment, where the process took long to start.
    return asyncio.run(_client_of(url, name, max(until_s, time.monotonic() + WINDOW_S)))


async def test_ten_clients_are_never_over_the_limit_in_any_window(redis_url: str) -> None:
    until_s = time.monotonic() + RUN_S
    logs = await asyncio.gather(*(_client_of(redis_url, f"c{n}", until_s) for n in range(10)))
    sent = [(at, 1) for log in logs for at in log]
    assert len(sent) > LIMIT
    assert most_in_any_window(sent, WINDOW_S) == LIMIT


def test_processes_of_their_own_are_never_over_it_either(redis_url: str) -> None:
    until_s = time.monotonic() + 2 * RUN_S
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        logs = pool.starmap(_process, [(redis_url, f"p{n}", until_s) for n in range(2)])
    sent = [(at, 1) for log in logs for at in log]
    assert sent
    assert most_in_any_window(sent, WINDOW_S) <= LIMIT


# --- what cannot be ---


async def test_a_ceiling_without_a_price_is_a_configuration_error() -> None:
    async with open_redis("memory://", max_connections=1, timeout_s=1) as client:
        with pytest.raises(ConfigurationError, match=r"price of dear in LLM_PRICES"):
            RedisCallBudgets(
                client,
                HandClock(),
                models=("small", "dear"),
                prices=PRICES,
                requests_per_minute=0,
                tokens_per_minute=0,
                daily_usd=1,
                requests_per_call=1,
                lease_s=1,
                time_zone="UTC",
            )


async def test_without_redis_it_says_so() -> None:
    async with open_redis(f"redis://127.0.0.1:{free_port()}/0", max_connections=2, timeout_s=1) as client:
        with pytest.raises(DependencyUnavailable):
            await reserved(budgets(client))
