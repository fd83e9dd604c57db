"""HTTP served beside whatever else the process does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from api.app import create_app
from api.health import HealthReporter
from api.server import HttpServer
from core.errors import ConfigurationError
from models.log_event import LogEvent
from workers.runtime.health import OPTIONAL, health_checks
from workers.runtime.parts import Parts

log = structlog.get_logger()


@asynccontextmanager
async def serving_http(parts: Parts, *, consuming: bool) -> AsyncIterator[None]:
    """Serve while the block runs. Raises ``ConfigurationError`` where the address is not to be had."""
    health = HealthReporter(
        health_checks(parts, consuming=consuming), clock=parts.clock, observer=parts.metrics, optional=OPTIONAL
    )
    server = _http_server(parts, health)
    try:
        await server.start()
    except OSError as error:
        raise ConfigurationError(f"HTTP_HOST and HTTP_PORT: the address cannot be served: {error}") from error
    if not (server.is_on_loopback or parts.settings.api_key.get_secret_value()):
        log.warning(LogEvent.HTTP_EXPOSED, host=parts.settings.http_host, hint="anybody may post jobs: set API_KEY")
    looking = asyncio.create_task(health.run(), name="health")
    try:
        yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        await server.stop()


def _http_server(parts: Parts, health: HealthReporter) -> HttpServer:
    app = create_app(
        health=health,
        expose_metrics=parts.metrics.expose,
        observer=parts.metrics,
        results=parts.results,
        publisher=parts.publisher,
        members=parts.members,
        clock=parts.clock,
        refreshes=parts.refreshes,
        favorites_field=parts.profile.result.favorites,
        api_key=parts.settings.api_key,
        keyed_reads=parts.settings.api_key_for_reads,
        tracing=parts.tracing,
    )
    return HttpServer(app, parts.settings.http_host, parts.settings.http_port)
