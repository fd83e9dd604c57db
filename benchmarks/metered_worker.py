"""``main.py`` with other metrics, for ``benchmarks.metrics_cost``: ``metered_worker.py METRICS COMMAND...``."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import ParamSpec, TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))

from prometheus_client import CollectorRegistry, Gauge

import main
from core.ports.clock import Clock
from services.metrics import PrometheusMetrics
from workers.runtime import tracing

P = ParamSpec("P")
T = TypeVar("T")
SPENT = "bench_metrics_cpu_seconds"
N_CALLS = "bench_metrics_calls"
Stage = Callable[[str], AbstractContextManager[None]]
# What is asked for the whole process, and not for a job.
_NOT_OF_JOBS = {"expose", "collect"}


class SilentMetrics(PrometheusMetrics):
    """Everything is exposed, and nothing is counted."""

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if name.startswith("_") or name in _NOT_OF_JOBS or not callable(found):
            return found
        return _no_stage if name == "stage" else _nothing


class TimedMetrics(PrometheusMetrics):
    """Counts as it is shipped, and tells the CPU time that this took, and how many calls."""

    def __init__(self, registry: CollectorRegistry, *, clock: Clock, version: str = "unknown") -> None:
        super().__init__(registry, clock=clock, version=version)
        self._spent_ns = self._n_calls = 0
        Gauge(SPENT, "CPU time of all calls.", registry=registry).set_function(lambda: self._spent_ns / 1e9)
        Gauge(N_CALLS, "Calls.", registry=registry).set_function(lambda: self._n_calls)
        for name in dir(PrometheusMetrics):
            if not name.startswith("_") and name not in _NOT_OF_JOBS:
                shipped = getattr(self, name)
                setattr(self, name, self._timed_stage(shipped) if name == "stage" else self._timed(shipped))

    def _timed(self, shipped: Callable[P, T]) -> Callable[P, T]:
        def timed(*positional: P.args, **named: P.kwargs) -> T:
            time.thread_time_ns()  # the clock itself is slow where nobody has just asked it
            asked_ns = time.thread_time_ns()
            began_ns = time.thread_time_ns()
            try:
                return shipped(*positional, **named)
            finally:
                of_clock_ns = began_ns - asked_ns
                self._spent_ns += time.thread_time_ns() - began_ns - of_clock_ns
                self._n_calls += 1

        return timed

    def _timed_stage(self, shipped: Stage) -> Stage:
        enter, leave = self._timed(_enter), self._timed(_leave)

        @contextmanager
        def stage(name: str) -> Iterator[None]:
            context = shipped(name)
            enter(context)
            try:
                yield
            finally:
                leave(context)

        return stage


def _enter(stage: AbstractContextManager[None]) -> None:
    stage.__enter__()


def _leave(stage: AbstractContextManager[None]) -> None:
    stage.__exit__(None, None, None)


def _nothing(*_: object, **__: object) -> None:
    """Counts nothing."""


def _no_stage(_: str) -> AbstractContextManager[None]:
    return nullcontext()


if __name__ == "__main__":
    kinds = {"shipped": PrometheusMetrics, "silent": SilentMetrics, "timed": TimedMetrics}
    vars(tracing)["PrometheusMetrics"] = kinds[sys.argv.pop(1)]
    main.app()
