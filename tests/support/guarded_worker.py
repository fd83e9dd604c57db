"""A worker's process as its provider sees it: one that asks for leave before each call, by the guard that ships."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from random import Random

from config.token_price import TokenPrice
from core.errors import LanguageModelFailed
from core.ports.language_model import CallUse
from services.call_budgets import RedisCallBudgets
from services.call_guard import RedisCallGuard
from services.circuit_breaker import RedisCircuitBreaker
from services.clock import SystemClock
from services.redis_client import open_redis

MODEL = "small"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a worker does: calls for ``run_s``, of which each takes up to ``call_s`` and ``max_tokens``."""

    redis_url: str
    seed: int
    run_s: float
    window_s: float
    requests: int
    tokens: int
    call_s: float = 0.02
    max_tokens: int = 100
    n_tasks: int = 4


@dataclass(frozen=True, slots=True)
class Sent:
    """A call by the clock that all processes of the machine share: when it was sent, and what it used."""

    at_s: float
    tokens: int


class Unseen:
    """A ``GuardObserver`` that looks away."""

    def llm_guarded(self, models: Sequence[str], *, ceiling_usd: float) -> None: ...

    def llm_cost(self, model: str, usd: float, *, spend_usd: float | None) -> None: ...

    def llm_breaker(self, model: str, state: str) -> None: ...

    def llm_budget_wait(self, seconds: float, *, admitted: bool) -> None: ...

    def llm_guard_unavailable(self, part: str) -> None: ...


async def _calls(plan: Plan, fails_at_s: float | None) -> list[Sent]:
    """Calls until the time is over; those after ``fails_at_s`` fail as a dead provider's do."""
    sent: list[Sent] = []
    async with open_redis(plan.redis_url, max_connections=plan.n_tasks, timeout_s=5) as client:
        breaker = RedisCircuitBreaker(client, n_failures=3, window_s=30, cool_down_s=60, probe_s=30)
        budgets = RedisCallBudgets(
            client,
            SystemClock(),
            prices={MODEL: TokenPrice(input=1, output=1)},
            requests_per_minute=plan.requests,
            tokens_per_minute=plan.tokens,
            daily_usd=0,
            requests_per_call=1,
            lease_s=30,
            time_zone="UTC",
            window_s=plan.window_s,
        )
        guard, until_s = RedisCallGuard(breaker, budgets, Unseen()), time.monotonic() + plan.run_s
        async with asyncio.TaskGroup() as group:
            for number in range(plan.n_tasks):
                random = Random(f"{plan.seed} {number}")
                group.create_task(_call_on(guard, plan, random, until_s, fails_at_s, sent))
    return sent


async def _call_on(
    guard: RedisCallGuard, plan: Plan, random: Random, until_s: float, fails_at_s: float | None, sent: list[Sent]
) -> None:
    while time.monotonic() < until_s:
        try:
            admission = await guard.admit(
                MODEL, max_prompt_tokens=plan.max_tokens - 10, max_completion_tokens=10, patience_s=0.2
            )
        except LanguageModelFailed as failure:
            await asyncio.sleep(0.02 if failure.reason == "breaker_open" else 0)
            continue
        tokens = random.randint(1, plan.max_tokens)
        sent.append(Sent(time.monotonic(), tokens))
        await asyncio.sleep(random.uniform(0, plan.call_s))
        failed = fails_at_s is not None and time.monotonic() >= fails_at_s
        use = CallUse(prompt_tokens=tokens, n_requests=1)
        await guard.settle(admission, "unavailable" if failed else "ok", use)


def work(plan: Plan, barrier: Barrier, fails_after_s: float | None, results: "Queue[list[Sent]]") -> None:
    """The process: begin when all are there, call, and hand in what was sent."""
    barrier.wait(timeout=50)
    fails_at_s = None if fails_after_s is None else time.monotonic() + fails_after_s
    results.put(asyncio.run(_calls(plan, fails_at_s)))
