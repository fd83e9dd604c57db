"""The HTTP application: all routes, and what every request passes on its way to them."""

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from pydantic import SecretStr

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
from api.metrics import Expose, metrics_router
from api.model_view import model_view_router
from api.openapi_document import DESCRIPTION, TAGS, complete_document
from api.rate_limit import RateLimit
from api.recommendations import JobDesk, recommendation_router
from api.request_boundary import RequestBoundary, RequestObserver
from api.responses import install_problem_handlers
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

MAX_BODY_BYTES = 1_048_576
ANSWER_TIMEOUT_S = 30.0


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
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        strict_content_type=False,  # older clients send none
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    desk = JobDesk(
        results=results,
        publisher=publisher,
        members=members,
        clock=clock,
        refreshes=refreshes,
        observer=observer,
        favorites_field=favorites_field,
    )
    key = api_key or SecretStr("")
    for router in (
        health_router(health),
        metrics_router(health, expose_metrics),
        recommendation_router(desk),
        seeds_router(seeds, desk),
        catalogue_router(browser),
        jobs_router(results),
        members_router(results),
        events_router(events, may_forget=bool(key.get_secret_value())),
        catalogue_view_router(catalogue_viewer),
        member_view_router(member_viewer, members),
        model_view_router(models, (MODEL_KIND,)),
        dead_letters_router(dead_letters),
    ):
        app.include_router(router)
    install_problem_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(AccessRule, key=key, keyed_reads=keyed_reads, origins=cors_origins)
    if rate_limit:
        app.add_middleware(RateLimit, limits=rate_limit)
    if cors_origins:
        _let_in(app, cors_origins)
    document = complete_document(app, keyed=bool(key.get_secret_value()), keyed_reads=keyed_reads)
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


def _let_in(app: FastAPI, origins: Sequence[str]) -> None:
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "Last-Event-ID", "X-API-Key"],
        expose_headers=["Location", "RateLimit", "RateLimit-Policy", "Retry-After"],
    )
