"""Traces as the settings have them: where no collector is named, nothing of OpenTelemetry is imported."""

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from config.settings import Settings
from core.errors import ConfigurationError
from core.ports.clock import Clock
from core.tracing import NO_TRACING, Tracing
from services.database import Database
from services.metrics import PrometheusMetrics
from services.traced_metrics import TracedMetrics

if TYPE_CHECKING:
    from services.traces import Traces


def worker_id() -> str:
    """What log lines, traces and the rows of scheduled runs call this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


@asynccontextmanager
async def open_tracing(settings: Settings, version: str) -> AsyncIterator["Traces | None"]:
    """What makes traces; None where none are asked for. Raises ``ConfigurationError``."""
    endpoint = settings.otel_exporter_otlp_endpoint
    if not endpoint:
        yield None
        return
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise ConfigurationError("OTEL_EXPORTER_OTLP_ENDPOINT must be such as http://collector:4318")
    try:
        from services.traces import open_traces  # noqa: PLC0415 - an extra, and seldom asked for
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but {error.name} is missing: pip install -r requirements-trace.txt"
        ) from None
    async with open_traces(
        endpoint,
        headers=_headers(settings.otel_exporter_otlp_headers.get_secret_value()),
        service=settings.otel_service_name,
        version=version,
        worker_id=worker_id(),
        share=settings.otel_traces_sampler_arg,
    ) as traces:
        yield traces


def metrics_of(traces: "Traces | None", clock: Clock, version: str) -> PrometheusMetrics:
    """The metrics, whose stages are spans where there are traces."""
    registry = CollectorRegistry()
    if traces is None:
        return PrometheusMetrics(registry, clock=clock, version=version)
    return TracedMetrics(registry, traces, clock=clock, version=version)


def watched(traces: "Traces | None", database: Database, redis: Redis) -> Tracing:
    """The traces as all other parts know them, with spans of what is asked of ``database`` and ``redis``."""
    if traces is None:
        return NO_TRACING
    database.watched_by(traces.watch_database)
    traces.watch_redis(redis)
    return traces


def _headers(text: str) -> Mapping[str, str]:
    """``name=value,name=value``, values quoted as in URLs (the exporter's specification)."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not (name.strip() and equals) for name, equals, _ in pairs):
        raise ConfigurationError("OTEL_EXPORTER_OTLP_HEADERS must be such as name=value,name=value")
    return {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs}
