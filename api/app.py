"""The HTTP application: health, metrics, and the contract's POST routes."""

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Protocol

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access import AccessRule
from api.body_limit import BodyLimit
from api.catalogue import catalogue_router
from api.catalogue_view import catalogue_view_router
from api.dead_letters import dead_letters_router
from api.events import events_router
from api.health import HealthReporter
from api.health_routes import health_router
from api.jobs import jobs_router
from api.member_view import member_view_router
from api.members import members_router
from api.model_view import model_view_router
from api.rate_limit import RateLimit
from api.recommendations import JobDesk, RefreshObserver, recommendation_router
from api.refusals import add_problem_schema, documented
from api.responses import RETRY_AFTER_S, install_problem_handlers, problem
from api.route_templates import RouteTemplates
from api.seeds import seeds_router
from api.tracing import TracedRequests
from core.browsing import ItemBrowser
from core.catalogue_view import CatalogueViewer
from core.dead_letter_desk import DeadLetterDesk
from core.feedback import RefreshRequests
from core.fitted_collaborative import MODEL_KIND
from core.member_view import MemberViewer
from core.ports.catalogue import ActiveMembers
from core.ports.clock import Clock
from core.ports.messages import EventPublisher, JobPublisher
from core.ports.model_store import ModelRegistry
from core.ports.results import ResultCache
from core.seeds import SeedRecommender
from core.tracing import NO_TRACING, Tracing
from models.log_event import LogEvent

MAX_BODY_BYTES = 1_048_576
ANSWER_TIMEOUT_S = 30.0
EVENT_STREAM = b"text/event-stream; charset=utf-8"
Expose = Callable[[str], tuple[bytes, str]]
"""An ``Accept`` header in, the exposition of all metrics and its content type out."""

log = structlog.get_logger()


class RequestObserver(RefreshObserver, Protocol):
    """Sees every request, and what it asks for."""

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
    refreshes: RefreshRequests,
    browser: ItemBrowser,
    seeds: SeedRecommender,
    events: EventPublisher,
    catalogue_viewer: CatalogueViewer,
    member_viewer: MemberViewer,
    models: ModelRegistry,
    dead_letters: DeadLetterDesk,
    favorites_field: str = "favorite_song_ids",
    api_key: SecretStr | None = None,
    keyed_reads: bool = False,
    rate_limit: str = "",
    cors_origins: Sequence[str] = (),
    answer_timeout_s: float = ANSWER_TIMEOUT_S,
    tracing: Tracing = NO_TRACING,
) -> FastAPI:
    """The application; it opens nothing and owns nothing of what it is given.

    ``favorites_field`` is what cached views call the likes that they were made from; ``api_key`` and ``keyed_reads``
    are those of ``AccessRule``; ``rate_limit`` is that of ``RateLimit``, empty: none; pages of ``cors_origins`` may ask
    from a browser; an answer may take ``answer_timeout_s`` until it begins.
    """
    app = FastAPI(
        title="Songs AI",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        strict_content_type=False,  # older clients send none
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.include_router(health_router(health))
    app.include_router(_metrics_router(health, expose_metrics))
    desk = JobDesk(
        results=results,
        publisher=publisher,
        members=members,
        clock=clock,
        refreshes=refreshes,
        observer=observer,
        favorites_field=favorites_field,
    )
    app.include_router(recommendation_router(desk))
    app.include_router(seeds_router(seeds, desk))
    app.include_router(catalogue_router(browser))
    app.include_router(jobs_router(results))
    app.include_router(members_router(results))
    app.include_router(events_router(events, may_forget=bool(api_key and api_key.get_secret_value())))
    app.include_router(catalogue_view_router(catalogue_viewer))
    app.include_router(member_view_router(member_viewer, members))
    app.include_router(model_view_router(models, (MODEL_KIND,)))
    app.include_router(dead_letters_router(dead_letters))
    install_problem_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(AccessRule, key=api_key or SecretStr(""), keyed_reads=keyed_reads, origins=cors_origins)
    if rate_limit:
        app.add_middleware(RateLimit, limits=rate_limit)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID", "X-API-Key"],
            expose_headers=["Location", "RateLimit", "RateLimit-Policy", "Retry-After"],
        )
    document = app.openapi()  # once: from now on it answers the same
    add_problem_schema(document)
    paths = frozenset(document["paths"])
    if tracing is not NO_TRACING:
        app.add_middleware(TracedRequests, tracing=tracing, paths=paths)
    app.add_middleware(
        RequestBoundary,
        observer=observer,
        clock=clock,
        routes=RouteTemplates(paths),
        timeout_s=answer_timeout_s,
    )
    return app


def _metrics_router(health: HealthReporter, expose: Expose) -> APIRouter:
    router = APIRouter(tags=["metrics"], responses=documented([HTTPStatus.UNAUTHORIZED]))

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Every metric, in the format that the ``Accept`` header asks for."""
        await health.report()  # so that the gauges of the dependencies are of now, whoever else probes
        body, content_type = expose(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return router


class RequestBoundary:
    """Counts every request, and turns what nobody expected into a 500 that tells nothing of the inside.

    What takes longer than ``timeout_s`` is cancelled and answered with 503; a stream of events has to begin by then.
    """

    def __init__(
        self, app: ASGIApp, *, observer: RequestObserver, clock: Clock, routes: RouteTemplates, timeout_s: float
    ) -> None:
        self._app = app
        self._observer = observer
        self._clock = clock
        self._routes = routes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # By its path, since what is refused at the door meets no route.
        route = self._routes.of(scope["path"])
        started_s = self._clock.monotonic_s()
        status = await self._answer(route, scope, receive, send)
        seconds = self._clock.monotonic_s() - started_s
        self._observer.http_request(route=route, status=status, seconds=seconds)

    async def _answer(self, route: str, scope: Scope, receive: Receive, send: Send) -> int:
        status: int | None = None

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if (b"content-type", EVENT_STREAM) in message["headers"]:
                    limit.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                await self._app(scope, receive, watch)
        except Exception:
            if limit.expired():
                log.warning(LogEvent.HTTP_REQUEST_FAILED, route=route, error=f"no answer within {self._timeout_s:g} s")
            else:
                log.exception(LogEvent.HTTP_REQUEST_FAILED, route=route)
            if status is not None:
                raise  # too late for another answer: the server cuts the connection
            await self._apology(took_too_long=limit.expired())(scope, receive, watch)
        return status or HTTPStatus.INTERNAL_SERVER_ERROR

    def _apology(self, *, took_too_long: bool) -> Response:
        if not took_too_long:
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong here; it has been logged.")
        detail = f"this took longer than {self._timeout_s:g} seconds; try again in {RETRY_AFTER_S} seconds"
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(RETRY_AFTER_S)})
