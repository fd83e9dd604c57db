"""Breaker, budgets and ladder together: over real HTTP, with a real Redis, and without one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from config.token_price import TokenPrice
from core.errors import LanguageModelFailed
from core.model_ladder import ModelLadder, max_prompt_tokens
from core.ports.language_model import CallUse, Prompt
from services.call_budgets import WINDOW_PREFIX, RedisCallBudgets
from services.call_guard import RedisCallGuard
from services.circuit_breaker import BREAKER_PREFIX, RedisCircuitBreaker
from services.clock import SystemClock
from services.language_model import OpenAILanguageModel
from services.redis_client import open_redis
from tests.support.llm_faults import Fault
from tests.support.llm_server import LLMServer
from tests.support.private_servers import free_port
from tests.support.scripted_language_model import RecordingObserver
from tests.support.waiting import until

PROMPT = Prompt(system="Say so.", user="so", schema_name="s", schema={"type": "object"}, max_output_tokens=40)
PRICE = TokenPrice(input=1.0, cached_input=0.1, output=10.0)
CLOCK = SystemClock()


class Seen:
    """A ``GuardObserver`` that remembers."""

    def __init__(self) -> None:
        self.costs: list[tuple[str, float]] = []
        self.spend_usd: float | None = None
        self.states: list[tuple[str, str]] = []
        self.waits: list[bool] = []
        self.unavailable: list[str] = []

    def llm_guarded(self, models: Sequence[str], *, ceiling_usd: float) -> None:
        pass

    def llm_cost(self, model: str, usd: float, *, spend_usd: float | None) -> None:
        self.costs.append((model, usd))
        self.spend_usd = spend_usd

    def llm_breaker(self, model: str, state: str) -> None:
        self.states.append((model, state))

    def llm_budget_wait(self, seconds: float, *, admitted: bool) -> None:
        self.waits.append(admitted)

    def llm_guard_unavailable(self, part: str) -> None:
        self.unavailable.append(part)


def guard(
    client: Redis, seen: Seen, *, requests: int = 0, daily_usd: float = 0.0, with_budgets: bool = True
) -> RedisCallGuard:
    breaker = RedisCircuitBreaker(client, n_failures=2, window_s=30, cool_down_s=0.2, probe_s=30)
    budgets = RedisCallBudgets(
        client,
        CLOCK,
        models=("first", "second"),
        prices={"first": PRICE, "second": PRICE},
        requests_per_minute=requests,
        tokens_per_minute=0,
        daily_usd=daily_usd,
        requests_per_call=1,
        lease_s=100,
        time_zone="Asia/Seoul",
    )
    return RedisCallGuard(breaker, budgets if with_budgets else None, seen)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url, max_connections=20, timeout_s=5) as client:
        yield client


@pytest.fixture
def seen() -> Seen:
    return Seen()


Opener = Callable[..., AbstractAsyncContextManager[ModelLadder]]


@pytest.fixture
def open_ladder(llm_server: LLMServer, client: Redis, seen: Seen) -> Opener:
    llm_server.scripted = '{"so": 1}'

    @asynccontextmanager
    async def opener(
        *,
        timeout_s: float = 10.0,
        requests: int = 0,
        daily_usd: float = 0.0,
        models: Sequence[str] = ("first", "second"),
        max_retries: int = 0,
        streaming: bool = False,
        max_concurrency: int = 64,
    ) -> AsyncIterator[ModelLadder]:
        rungs = [
            OpenAILanguageModel(
                model=name,
                deep_model=name,
                api_key=SecretStr("sk-test"),
                base_url=llm_server.base_url,
                timeout_s=timeout_s,
                max_retries=max_retries,
                max_concurrency=max_concurrency,
                streaming=streaming,
                observer=RecordingObserver(),
                clock=CLOCK,
            )
            for name in models
        ]
        yield ModelLadder(
            rungs,
            guard(client, seen, requests=requests, daily_usd=daily_usd),
            CLOCK,
            timeout_s=timeout_s,
            patience_s=0.1,
            max_concurrency=max_concurrency,
        )
        for rung in rungs:
            await rung.aclose()

    return opener


def models_asked(server: LLMServer) -> list[object]:
    return [request["model"] for request in server.requests]


async def reason_of(ladder: ModelLadder) -> str:
    with pytest.raises(LanguageModelFailed) as caught:
        await ladder.complete(PROMPT)
    return caught.value.reason


FELL_BACK = {
    Fault.RATE_LIMITED: "rate_limited",
    Fault.SERVER_ERROR: "unavailable",
    Fault.CONNECTION_RESET: "unavailable",
    Fault.REFUSAL: "refused",
    Fault.CONTENT_FILTER: "filtered",
    Fault.EMPTY_CONTENT: "malformed",
}


@pytest.mark.parametrize("fault", FELL_BACK)
async def test_after_a_fault_the_fallback_model_answers(
    open_ladder: Opener, llm_server: LLMServer, fault: Fault
) -> None:
    llm_server.fail(fault, times=1)
    async with open_ladder() as ladder:
        completion = await ladder.complete(PROMPT)
    assert (completion.text, completion.model, completion.n_calls) == ('{"so": 1}', "second", 2)
    assert models_asked(llm_server) == ["first", "second"]


@pytest.mark.parametrize("fault", FELL_BACK)
async def test_where_the_fallback_fails_too_its_reason_is_raised(
    open_ladder: Opener, llm_server: LLMServer, fault: Fault
) -> None:
    llm_server.fail(fault)
    async with open_ladder() as ladder:
        assert await reason_of(ladder) == FELL_BACK[fault]
    assert models_asked(llm_server) == ["first", "second"]


@pytest.mark.parametrize("fault", [Fault.QUOTA_EXHAUSTED, Fault.TRUNCATED])
async def test_what_another_model_does_not_mend_is_not_asked_again(
    open_ladder: Opener, llm_server: LLMServer, fault: Fault
) -> None:
    llm_server.fail(fault)
    async with open_ladder() as ladder:
        assert await reason_of(ladder) == fault
    assert models_asked(llm_server) == ["first"]


async def test_a_model_that_hangs_leaves_time_for_the_fallback(open_ladder: Opener, llm_server: LLMServer) -> None:
    llm_server.fail(Fault.HANG, times=1)
    async with open_ladder(timeout_s=1.0) as ladder:
        assert (await ladder.complete(PROMPT)).model == "second"


async def test_the_price_of_an_answer_is_told_and_spent(open_ladder: Opener, llm_server: LLMServer, seen: Seen) -> None:
    llm_server.endpoint.cached_tokens = 4
    async with open_ladder() as ladder:
        completion = await ladder.complete(PROMPT)
    prompt, out = llm_server.stats.prompt_tokens, llm_server.stats.completion_tokens
    assert completion.cost_usd == pytest.approx(((prompt - 4) * 1.0 + 4 * 0.1 + out * 10.0) / 1e6)
    assert seen.costs == [("first", completion.cost_usd)]
    assert seen.spend_usd == pytest.approx(completion.cost_usd)


async def test_what_a_call_without_a_price_cost_is_not_told_as_nothing(
    open_ladder: Opener, llm_server: LLMServer, client: Redis, seen: Seen
) -> None:
    async with open_ladder(models=("unpriced",)) as ladder:
        completion = await ladder.complete(PROMPT)
    assert completion.prompt_tokens == llm_server.stats.prompt_tokens > 0
    assert (completion.cost_usd, seen.costs) == (None, [])
    window = cast("dict[bytes, bytes]", await client.hgetall(WINDOW_PREFIX + "unpriced"))
    assert sum(int(amount) for field, amount in window.items() if field.startswith(b"t")) > 0


async def test_of_an_answer_that_two_models_were_paid_for_one_price_is_too_few(
    open_ladder: Opener, llm_server: LLMServer, seen: Seen
) -> None:
    llm_server.fail(Fault.GATEWAY_TIMEOUT, times=1)
    async with open_ladder(models=("unpriced", "second")) as ladder:
        completion = await ladder.complete(PROMPT)
    assert (completion.model, completion.cost_usd) == ("second", None)
    assert [model for model, _ in seen.costs] == ["second"]


async def test_what_was_turned_away_by_a_model_without_a_price_is_known_to_cost_nothing(
    open_ladder: Opener, llm_server: LLMServer
) -> None:
    llm_server.fail(Fault.QUOTA_EXHAUSTED)
    async with open_ladder(models=("unpriced",)) as ladder:
        with pytest.raises(LanguageModelFailed) as failed:
            await ladder.complete(PROMPT)
    assert failed.value.cost_usd == 0


@pytest.mark.parametrize(
    ("use", "cost_usd"),
    [
        (CallUse(n_requests=1), 0),
        (CallUse(n_requests=1, prompt_tokens=1), None),
        (CallUse(n_requests=1, n_untold=1), None),
    ],
)
async def test_without_budgets_no_price_is_known(
    client: Redis, seen: Seen, use: CallUse, cost_usd: float | None
) -> None:
    each = guard(client, seen, with_budgets=False)
    admission = await each.admit("first", max_prompt_tokens=1, max_completion_tokens=1, patience_s=0)
    assert await each.settle(admission, "ok", use) == cost_usd


async def test_a_call_that_hangs_costs_the_most_that_it_can(
    open_ladder: Opener, llm_server: LLMServer, seen: Seen
) -> None:
    llm_server.fail(Fault.HANG)
    async with open_ladder(timeout_s=0.2, models=("first",)) as ladder:
        assert await reason_of(ladder) == "timeout"
    assert seen.costs[0][1] > 40 * 10 / 1e6


async def test_beyond_the_days_ceiling_nobody_is_asked(open_ladder: Opener, llm_server: LLMServer) -> None:
    async with open_ladder(daily_usd=0.000001) as ladder:
        assert await reason_of(ladder) == "over_spend"
    assert llm_server.n_calls == 0


async def test_beyond_the_minutes_requests_of_a_model_the_fallback_is_asked_and_beyond_its_own_nobody(
    open_ladder: Opener, llm_server: LLMServer, seen: Seen
) -> None:
    async with open_ladder(requests=1) as ladder, open_ladder(requests=1) as elsewhere:
        await ladder.complete(PROMPT)
        assert (await elsewhere.complete(PROMPT)).model == "second"
        assert await reason_of(ladder) == "over_budget"
    assert models_asked(llm_server) == ["first", "second"]
    assert seen.waits == [True, False, True, False, False]


async def test_a_dead_provider_is_left_alone_by_all_workers_until_a_probe_finds_it_back(
    open_ladder: Opener, llm_server: LLMServer, seen: Seen
) -> None:
    llm_server.fail(Fault.SERVER_ERROR)
    async with open_ladder(models=("first",)) as here, open_ladder(models=("first",)) as there:
        assert [await reason_of(here), await reason_of(there)] == ["unavailable"] * 2
        assert [await reason_of(here), await reason_of(there)] == ["breaker_open"] * 2
        assert llm_server.n_calls == 2
        llm_server.heal()
        async with asyncio.timeout(5):
            while True:
                try:
                    await there.complete(PROMPT)
                    break
                except LanguageModelFailed:
                    await asyncio.sleep(0.02)
        await here.complete(PROMPT)
    assert llm_server.n_calls == 4
    assert {state for _, state in seen.states} == {"closed", "half_open", "open"}


async def test_an_open_breaker_of_one_model_leaves_the_other(open_ladder: Opener, llm_server: LLMServer) -> None:
    async with open_ladder() as ladder:
        for _ in range(2):
            llm_server.fail(Fault.SERVER_ERROR, times=1)
            await ladder.complete(PROMPT)
        assert (await ladder.complete(PROMPT)).n_calls == 1
    assert models_asked(llm_server) == ["first", "second", "first", "second", "second"]


# --- without Redis ---


@pytest.fixture
async def away() -> AsyncIterator[Redis]:
    async with open_redis(f"redis://127.0.0.1:{free_port()}/0", max_connections=2, timeout_s=1) as client:
        yield client


async def test_without_redis_the_breaker_lets_calls_pass_and_says_so(away: Redis, seen: Seen) -> None:
    open_guard = guard(away, seen, with_budgets=False)
    admission = await open_guard.admit("first", max_prompt_tokens=1, max_completion_tokens=1, patience_s=0)
    assert await open_guard.settle(admission, "ok", CallUse(n_requests=1)) == 0
    assert seen.unavailable == ["breaker", "breaker"]


async def test_without_redis_what_must_be_counted_is_not_spent(away: Redis, seen: Seen) -> None:
    with pytest.raises(LanguageModelFailed, match="over_budget"):
        await guard(away, seen).admit("first", max_prompt_tokens=1, max_completion_tokens=1, patience_s=0)
    assert "budgets" in seen.unavailable


async def test_a_call_that_ends_while_redis_is_away_has_its_cost_all_the_same(
    client: Redis, away: Redis, seen: Seen
) -> None:
    each = guard(client, seen)
    admission = await each.admit("first", max_prompt_tokens=100, max_completion_tokens=10, patience_s=0)
    # The same guard, whose Redis goes away between the two.
    gone = guard(away, seen)
    gone._reservations = each._reservations
    cost_usd = await gone.settle(admission, "ok", CallUse(prompt_tokens=50, completion_tokens=5, n_requests=1))
    assert cost_usd == pytest.approx(0.0001)
    assert seen.spend_usd is None
    assert seen.costs == [("first", cost_usd)]


# --- what may have to be paid ---


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("fault", [Fault.ANSWER_CUT, Fault.CUT_BODY, Fault.GATEWAY_TIMEOUT])
async def test_each_request_that_broke_off_costs_the_most_that_it_can(
    open_ladder: Opener,
    llm_server: LLMServer,
    client: Redis,
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    streaming: bool,
) -> None:
    monkeypatch.setattr("services.language_model._FIRST_WAIT_S", 0.01)
    llm_server.fail(fault)
    async with open_ladder(models=("first",), max_retries=2, streaming=streaming) as ladder:
        assert await reason_of(ladder) == "unavailable"
    most_usd = PRICE.cost_usd(prompt_tokens=max_prompt_tokens(PROMPT), completion_tokens=PROMPT.max_output_tokens)
    ((_, cost_usd),) = seen.costs
    assert cost_usd == pytest.approx(3 * most_usd)
    assert await settled(client) == (3, 3 * (max_prompt_tokens(PROMPT) + PROMPT.max_output_tokens))


async def settled(client: Redis) -> tuple[int, int]:
    """Requests and tokens of ``first`` that count as used."""
    window = cast("dict[bytes, bytes]", await client.hgetall(WINDOW_PREFIX + "first"))
    requests, tokens = (
        sum(int(amount) for field, amount in window.items() if field.startswith(kind)) for kind in (b"r", b"t")
    )
    return requests, tokens


@pytest.mark.parametrize("fault", [Fault.RATE_LIMITED, Fault.QUOTA_EXHAUSTED, Fault.BAD_REQUEST, None])
async def test_what_was_turned_away_costs_nothing(
    open_ladder: Opener, llm_server: LLMServer, client: Redis, seen: Seen, fault: Fault | None
) -> None:
    if fault is None:
        await llm_server.close()
    else:
        llm_server.fail(fault)
    async with open_ladder(models=("first",)) as ladder:
        await reason_of(ladder)
    assert seen.costs == [("first", 0.0)]
    assert (await settled(client))[1] == 0


async def test_a_senseless_number_of_tokens_does_not_close_the_purse(
    open_ladder: Opener, llm_server: LLMServer, seen: Seen
) -> None:
    llm_server.fail(Fault.HUGE_TOKENS, times=1)
    async with open_ladder(daily_usd=1, models=("first",)) as ladder:
        await ladder.complete(PROMPT)
        assert seen.costs[0][1] < 0.001
        await ladder.complete(PROMPT)


async def test_a_job_that_is_cut_off_after_a_retry_pays_for_both_requests(
    open_ladder: Opener, llm_server: LLMServer, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.language_model._FIRST_WAIT_S", 0.01)
    llm_server.fail(Fault.CUT_BODY, times=1)
    llm_server.fail(Fault.HANG)
    async with open_ladder(models=("first",), max_retries=2) as ladder:
        call = asyncio.create_task(ladder.complete(PROMPT))
        await llm_server.called(2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await settled(client) == (2, 2 * (max_prompt_tokens(PROMPT) + PROMPT.max_output_tokens))


# --- more questions than slots ---


async def test_all_questions_end_in_their_time_however_many_there_are(
    open_ladder: Opener, llm_server: LLMServer, seen: Seen
) -> None:
    llm_server.fail(Fault.HANG)
    began_s = CLOCK.monotonic_s()
    async with open_ladder(timeout_s=0.6, models=("first",), max_concurrency=2) as ladder:
        reasons = await asyncio.gather(*(reason_of(ladder) for _ in range(8)))
    assert CLOCK.monotonic_s() - began_s < 2 * 0.6
    assert sorted(reasons) == ["over_capacity"] * 6 + ["timeout"] * 2
    assert (llm_server.n_calls, len(seen.costs)) == (2, 2)


async def test_of_those_that_wait_for_a_slot_none_is_sent_to_a_provider_that_is_dead_by_then(
    open_ladder: Opener, llm_server: LLMServer
) -> None:
    llm_server.fail(Fault.SERVER_ERROR)
    async with open_ladder(models=("first",), max_concurrency=1) as ladder:
        reasons = await asyncio.gather(*(reason_of(ladder) for _ in range(20)))
    assert sorted(reasons) == ["breaker_open"] * 18 + ["unavailable"] * 2
    assert llm_server.n_calls == 2


async def may_probe(each: RedisCallGuard) -> bool:
    try:
        admission = await each.admit("first", max_prompt_tokens=1, max_completion_tokens=1, patience_s=0)
    except LanguageModelFailed:
        return False
    await each.settle(admission, "cancelled", CallUse())
    return True


async def test_a_probe_that_is_cancelled_while_it_asks_for_leave_keeps_no_other_one_waiting(
    client: Redis, seen: Seen
) -> None:
    each = guard(client, seen)
    for _ in range(2):
        admission = await each.admit("first", max_prompt_tokens=1, max_completion_tokens=1, patience_s=0)
        await each.settle(admission, "unavailable", CallUse(n_requests=1))
    await until(lambda: may_probe(each))
    for n_steps in range(30):
        task = asyncio.create_task(each.admit("first", max_prompt_tokens=1, max_completion_tokens=1, patience_s=0))
        for _ in range(n_steps):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await each.settle(await task, "cancelled", CallUse())
        except asyncio.CancelledError:
            assert not await client.hexists(BREAKER_PREFIX + "first", "probe")
