"""The process, its models in force and what it depends on."""

import platform
from collections.abc import Callable
from math import nan

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

from core.ports.clock import Clock
from services.metric_parts.buckets import SHORT_BUCKETS_S
from services.metric_parts.memory import MemoryMetrics


class ProcessMetrics:
    """The process and what it depends on."""

    def __init__(self, registry: CollectorRegistry, clock: Clock, version: str) -> None:
        self._process_clock = clock
        Info("songs_ai_build", "What runs here.", registry=registry).info(
            {"version": version, "python_version": platform.python_version()}
        )
        self._dependency_up = Gauge(
            "songs_ai_dependency_up",
            "Whether the last check of a dependency found it in order.",
            ["dependency"],
            registry=registry,
        )
        self._dependency_latency = Gauge(
            "songs_ai_dependency_check_duration_seconds",
            "Time the last check of a dependency took.",
            ["dependency"],
            registry=registry,
        )
        self._redis_memory_used = Gauge(
            "songs_ai_redis_memory_used_bytes",
            "What counts against the limit of Redis, as last seen.",
            registry=registry,
        )
        self._redis_memory_limit = Gauge(
            "songs_ai_redis_memory_limit_bytes",
            "The maxmemory of Redis, as last seen; 0 where none is set, NaN before the first look.",
            registry=registry,
        )
        self._redis_memory_limit.set(nan)
        self._redis_memory_used.set(nan)
        self._loop_lag = Histogram(
            "songs_ai_event_loop_lag_seconds",
            "How much later than asked a sleep ended.",
            buckets=SHORT_BUCKETS_S,
            registry=registry,
        )
        self._loop_tasks = Gauge(
            "songs_ai_event_loop_tasks", "Tasks of the event loop that have not ended, as last seen.", registry=registry
        )
        self._index_items = Gauge("songs_ai_index_items", "Items in the index in force.", registry=registry)
        self._index_recall = Gauge(
            "songs_ai_index_recall_ratio",
            "Recall@200 of the index in force against an exact scan, on a sample of queries.",
            registry=registry,
        )
        self._index_loaded = Gauge(
            "songs_ai_index_loaded_timestamp_seconds",
            "When the index in force was loaded, seconds since the epoch; 0 before the first.",
            registry=registry,
        )
        self._index_behind = Gauge(
            "songs_ai_index_behind_seconds",
            "How old a change of the catalogue can be that the index in force does not hold.",
            registry=registry,
        )
        self._index_behind.set(nan)
        self._index = Info("songs_ai_index", "The index in force.", registry=registry)
        self._collaborative_items = Gauge(
            "songs_ai_collaborative_items", "Items in the collaborative model in force.", registry=registry
        )
        self._collaborative_recall = Gauge(
            "songs_ai_collaborative_recall_ratio",
            "Recall@200 of the search by the collaborative model in force, on a sample of listeners.",
            registry=registry,
        )
        self._collaborative_loaded = Gauge(
            "songs_ai_collaborative_loaded_timestamp_seconds",
            "When the collaborative model in force was loaded, seconds since the epoch; 0 before the first.",
            registry=registry,
        )
        self._collaborative = Info("songs_ai_collaborative", "The collaborative model in force.", registry=registry)
        MemoryMetrics(registry)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def dependency_checked(self, name: str, *, up: bool, seconds: float) -> None:
        """A health check ended; ``name`` is one of the few that the composition root gave."""
        self._dependency_up.labels(name).set(up)
        self._dependency_latency.labels(name).set(seconds)

    def redis_memory(self, *, used_bytes: int, limit_bytes: int) -> None:
        """Redis said how full it is; ``limit_bytes`` 0: without a limit."""
        self._redis_memory_used.set(used_bytes)
        self._redis_memory_limit.set(limit_bytes)

    def loop_lag(self, seconds: float) -> None:
        """A sleep ended so much too late."""
        self._loop_lag.observe(seconds)

    def loop_tasks(self, n: int) -> None:
        """So many tasks have not ended."""
        self._loop_tasks.set(n)

    def index_watched(self, age_s: Callable[[], float | None]) -> None:
        """``age_s`` says how long ago the index held all that the store did; None: never yet."""
        began_s = self._process_clock.monotonic_s()

        def behind_s() -> float:
            # What was never loaded is behind since the beginning, so that it grows and somebody is told.
            return self._process_clock.monotonic_s() - began_s if (known := age_s()) is None else known

        self._index_behind.set_function(behind_s)

    def index_loaded(self, *, version: str, embedder_name: str, n_items: int, recall: float) -> None:
        """Another index is in force from now on; ``recall`` is its own, at 200, on a sample."""
        self._index_items.set(n_items)
        self._index_recall.set(recall)
        self._index_loaded.set(self._process_clock.now().timestamp())
        self._index.info({"version": version, "embedder": embedder_name})

    def collaborative_loaded(self, *, version: str, n_items: int, recall: float) -> None:
        """Another collaborative model is in force from now on; ``recall`` is that of its search, at 200."""
        self._collaborative_items.set(n_items)
        self._collaborative_recall.set(recall)
        self._collaborative_loaded.set(self._process_clock.now().timestamp())
        self._collaborative.info({"version": version})
