"""Ten processes under one guard in a real Redis: never over a limit in any window, and one breaker for all of them."""

import multiprocessing
import queue
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.support.guarded_worker import Plan, Sent, work

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
    plan = Plan(redis_url=redis_url, seed=0, run_s=2.0, window_s=60, requests=0, tokens=0)
    logs = run(plan, fails_after_s=0.4)
    sent = sorted(call.at_s for log in logs for call in log)
    began_s, ended_s = sent[0], sent[-1]
    assert sum(map(bool, logs)) == N_WORKERS
    # What was under way when it opened has ended a call later; all ten had more than a second left to call in.
    assert ended_s - began_s < 1
