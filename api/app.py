"""The HTTP application: health, metrics, and the contract's POST routes."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.health import HealthReporter, health_router
from api.recommendations import JobDesk, recommendation_router
from api.responses import install_problem_handlers, problem
from core.ports import ActiveMembers, Clock, JobPublisher, ResultCache
from models.log_event import LogEvent

MAX_BODY_BYTES = 1_048_576
Expose = Callable[[str], tuple[bytes, str]]
"""An ``Accept`` header in, the exposition of all metrics and its content type out."""

log = structlog.get_logger()


class RequestObserver(Protocol):
    """Sees every request."""

    def http_request(self, *, route: str, status: int, seconds: float) -> None:
        """A request was answered; ``route`` is the template of its path, empty where none matched."""


def create_app(
    *,
    health: HealthReporter,
    expose_metrics: Expose,
    observer: RequestObserver,
    results: ResultCache,
    publisher: JobPublisher,
    members: ActiveMembers,
    clock: Clock,
) -> FastAPI:
    """The application; it opens nothing and owns nothing of what it is given."""
    app = FastAPI(
        title="Songs AI",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        strict_content_type=False,  # older clients send none
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.include_router(health_router(health))
    app.include_router(_metrics_router(health, expose_metrics))
    app.include_router(
        recommendation_router(JobDesk(results=results, publisher=publisher, members=members, clock=clock))
    )
    install_problem_handlers(app)
    # Not FastAPI's own limit: that stands outside of the boundary, which would take its signal for a bug.
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY_BYTES)
    app.add_middleware(RequestBoundary, observer=observer, clock=clock)
    return app


def _metrics_router(health: HealthReporter, expose: Expose) -> APIRouter:
    router = APIRouter(tags=["metrics"])

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Every metric, in the format that the ``Accept`` header asks for."""
        await health.report()  # so that the gauges of the dependencies are of now, whoever else probes
        body, content_type = expose(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return router


class RequestBoundary:
    """Counts every request, and turns what nobody expected into a 500 that tells nothing of the inside."""

    def __init__(self, app: ASGIApp, *, observer: RequestObserver, clock: Clock) -> None:
        self._app = app
        self._observer = observer
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = self._clock.monotonic_s()
        status = await self._answer(scope, receive, send)
        seconds = self._clock.monotonic_s() - started_s
        self._observer.http_request(route=_route_of(scope), status=status, seconds=seconds)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> int:
        status: int | None = None

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:
            log.exception(LogEvent.HTTP_REQUEST_FAILED, route=_route_of(scope))
            if status is not None:
                raise  # too late for another answer: the server cuts the connection
            response = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong here; it has been logged.")
            await response(scope, receive, watch)
        return status or HTTPStatus.INTERNAL_SERVER_ERROR


def _route_of(scope: Scope) -> str:
    route = scope.get("route")
    return str(getattr(route, "path", ""))
