"""Metrics whose stages are spans too."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from core.ports.clock import Clock
from core.tracing import Tracing
from services.metrics import PrometheusMetrics


class TracedMetrics(PrometheusMetrics):
    """``PrometheusMetrics``, and for each stage a span of ``tracing``."""

    def __init__(self, registry: CollectorRegistry, tracing: Tracing, *, clock: Clock, version: str) -> None:
        super().__init__(registry, clock=clock, version=version)
        self._tracing = tracing

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage, also where it fails, and make it a span."""
        with self._tracing.stage(name), super().stage(name):
            yield
