"""Ten workers under one guard in a real Redis: never over a limit in any window, and one breaker for all of them."""

import asyncio
import multiprocessing
import queue
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

import pytest
from pydantic import SecretStr

from core.errors import LanguageModelFailed
from core.model_ladder import ModelLadder, max_prompt_tokens
from core.ports.language_model import Prompt
from services.call_budgets import RedisCallBudgets
from services.call_guard import RedisCallGuard
from services.clock import SystemClock
from services.language_model import OpenAILanguageModel
from services.redis_client import open_redis
from tests.support.guarded_worker import Plan, Sent, Unseen, work
from tests.support.llm_faults import Fault
from tests.support.llm_server import LLMServer
from tests.support.scripted_language_model import RecordingObserver

N_WORKERS = 10
WINDOW_S, MAX_REQUESTS, MAX_TOKENS = 1.5, 40, 2000


def run(plan: Plan, *, fails_after_s: float | None = None) -> list[list[Sent]]:
    """What each of ten processes sent, who begin at the same moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.guarded_worker"])
    barrier, results = context.Barrier(N_WORKERS), context.Queue()
    plans = [replace(plan, seed=number) for number in range(N_WORKERS)]
    workers = [context.Process(target=work, args=(each, barrier, fails_after_s, results)) for each in plans]
    for worker in workers:
        worker.start()
    try:
        sent = [results.get(timeout=50) for _ in workers]
    except queue.Empty:
        pytest.fail(f"exit codes {[worker.exitcode for worker in workers]}")
    finally:
        for worker in workers:
            worker.join(timeout=5)
            worker.kill()
    return sent


def most_in_any_window(events: Sequence[tuple[float, int]], window_s: float) -> int:
    """The largest sum of amounts of ``events`` (time, amount) in a window that begins at one of them."""
    rising, most, there, oldest = sorted(events), 0, 0, 0
    for at, amount in rising:
        there += amount
        while rising[oldest][0] <= at - window_s:
            there -= rising[oldest][1]
            oldest += 1
        most = max(most, there)
    return most


@pytest.mark.parametrize(("requests", "tokens"), [(MAX_REQUESTS, 0), (0, MAX_TOKENS)])
def test_ten_processes_are_never_over_the_limits_in_any_window(redis_url: str, requests: int, tokens: int) -> None:
    plan = Plan(redis_url=redis_url, seed=0, run_s=2 * WINDOW_S, window_s=WINDOW_S, requests=requests, tokens=tokens)
    logs = run(plan)
    sent = [call for log in logs for call in log]
    n_requests = most_in_any_window([(call.at_s, 1) for call in sent], WINDOW_S)
    n_tokens = most_in_any_window([(call.at_s, call.tokens) for call in sent], WINDOW_S)
    assert n_requests <= (requests or len(sent))
    assert n_tokens <= (tokens or sum(call.tokens for call in sent))
    # Many had their turn, and much of what is allowed was used: the limit is what held them.
    assert sum(map(bool, logs)) >= N_WORKERS // 2
    assert n_requests > 0.6 * MAX_REQUESTS if requests else n_tokens > 0.6 * MAX_TOKENS


def test_after_one_process_opens_the_breaker_no_other_calls(redis_url: str) -> None:
    plan = Plan(redis_url=redis_url, seed=0, run_s=4.0, window_s=60, requests=0, tokens=0)
    logs = run(plan, fails_after_s=1.5)  # by when even the last process of a busy machine has begun
    sent = sorted(call.at_s for log in logs for call in log)
    began_s, ended_s = sent[0], sent[-1]
    assert sum(map(bool, logs)) == N_WORKERS
    # What was under way when it opened has ended a call later; all ten had two seconds left to call in.
    assert ended_s - began_s < 2


# --- with the client that ships, whose requests break off and are sent again ---

PROMPT = Prompt(system="Say so.", user="so", schema_name="s", schema={"type": "object"}, max_output_tokens=40)
MOST_OF_A_REQUEST = max_prompt_tokens(PROMPT) + PROMPT.max_output_tokens
CALLS_WINDOW_S, CALLS_TOKENS = 1.0, 20 * MOST_OF_A_REQUEST


@asynccontextmanager
async def open_worker(redis_url: str, base_url: str) -> AsyncIterator[ModelLadder]:
    clock = SystemClock()
    async with open_redis(redis_url, max_connections=4, timeout_s=5) as client:
        budgets = RedisCallBudgets(
            client,
            clock,
            prices={},
            requests_per_minute=0,
            tokens_per_minute=CALLS_TOKENS,
            daily_usd=0,
            requests_per_call=3,
            lease_s=30,
            time_zone="UTC",
            window_s=CALLS_WINDOW_S,
        )
        model = OpenAILanguageModel(
            model="small",
            deep_model="small",
            api_key=SecretStr(""),
            base_url=base_url,
            timeout_s=5,
            max_retries=2,
            max_concurrency=4,
            observer=RecordingObserver(),
            clock=clock,
        )
        guard = RedisCallGuard(None, budgets, Unseen())
        yield ModelLadder([model], guard, clock, timeout_s=5, patience_s=0.5, max_concurrency=4)
        await model.aclose()


@pytest.mark.parametrize("fault", [Fault.GATEWAY_TIMEOUT, Fault.CUT_BODY])
async def test_retries_of_requests_that_broke_off_keep_ten_workers_within_the_limit_too(
    redis_url: str, llm_server: LLMServer, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr("services.language_model._FIRST_WAIT_S", 0.01)
    llm_server.scripted = '{"so": 1}'
    llm_server.fail(fault)
    until_s = time.monotonic() + 3 * CALLS_WINDOW_S

    async def call_on(worker: ModelLadder) -> None:
        while time.monotonic() < until_s:
            with suppress(LanguageModelFailed):
                await worker.complete(PROMPT)

    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(open_worker(redis_url, llm_server.base_url)) for _ in range(N_WORKERS)
        ]
        await asyncio.gather(*(call_on(worker) for worker in workers))
    # The provider may have written each of the answers to its end before the connection broke.
    came = [(at_s, MOST_OF_A_REQUEST) for at_s in llm_server.came_at_s]
    assert CALLS_TOKENS / 2 < most_in_any_window(came, CALLS_WINDOW_S) <= CALLS_TOKENS
