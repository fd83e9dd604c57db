"""HTTP served beside whatever else the process does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from api.app import create_app
from api.health import HealthReporter
from api.server import HttpServer
from core.browsing import ItemBrowser
from core.catalogue_view import CatalogueViewer
from core.errors import ConfigurationError
from core.first_stage import FirstStage
from core.item_versions import VersionFinder
from core.member_view import MemberViewer
from core.seeds import SeedRecommender
from models.log_event import LogEvent
from services.item_search import FollowingItemSearch
from services.listener_store import SqlListenerStore
from services.logs import mask_secrets
from workers.dead_letter_desk import BrokerDeadLetterDesk
from workers.event_publisher import BrokerEventPublisher
from workers.runtime.consuming import patiently
from workers.runtime.health import OPTIONAL, health_checks
from workers.runtime.parts import Parts
from workers.runtime.pipeline_config import pipeline_config

log = structlog.get_logger()


@asynccontextmanager
async def serving_http(parts: Parts, *, consuming: bool) -> AsyncIterator[HealthReporter]:
    """Serve while the block runs, which is given what tells the health of it.

    Raises ``ConfigurationError`` where the address is not to be had.
    A process that does not consume loads the index, the model and the names here, in the background.
    """
    health = HealthReporter(
        health_checks(parts, consuming=consuming), clock=parts.clock, observer=parts.metrics, optional=OPTIONAL
    )
    search = FollowingItemSearch(
        parts.catalogue, refresh_s=parts.settings.index_refresh_s, spellings=parts.profile.item.spellings
    )
    server = _http_server(parts, health, search)
    try:
        await server.start()
    except OSError as error:
        raise ConfigurationError(f"HTTP_HOST and HTTP_PORT: the address cannot be served: {error}") from error
    if not (server.is_on_loopback or parts.settings.api_key.get_secret_value()):
        log.warning(LogEvent.HTTP_EXPOSED, host=parts.settings.http_host, hint="anybody may post jobs: set API_KEY")
    looking = [asyncio.create_task(health.run(), name="health")]
    if not consuming:
        search.begin()
        looking.append(asyncio.create_task(_load_and_follow(parts), name="follow"))
    try:
        async with search.following():
            yield health
    finally:
        health.end()
        for task in looking:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await server.stop()


async def _load_and_follow(parts: Parts) -> None:
    """Keep index and model up to date, for those who ask by HTTP."""
    parts.metrics.index_watched(lambda: parts.index.age_s)
    try:
        await patiently(parts.index.load)
        await patiently(parts.collaborative.load)
    except ConfigurationError as error:
        log.warning(LogEvent.INDEX_REFRESH_FAILED, error=str(error))
    await asyncio.gather(parts.index.run(), parts.collaborative.run())


def _http_server(parts: Parts, health: HealthReporter, search: FollowingItemSearch) -> HttpServer:
    versions, config = VersionFinder(parts.profile.versions), pipeline_config(parts.settings, parts.profile)
    first_stage = FirstStage(
        catalogue=parts.catalogue,
        observer=parts.metrics,
        clock=parts.clock,
        turns=parts.turns,
        versions=versions,
        config=config,
        wishes=parts.wishes,
    )
    seeds = SeedRecommender(
        first_stage=first_stage,
        index=parts.index,
        collaborative=parts.collaborative,
        catalogue=parts.catalogue,
        wishes=parts.wishes,
        explainer=parts.explainer,
        default_locale=config.default_locale,
    )
    app = create_app(
        health=health,
        expose_metrics=parts.metrics.expose,
        observer=parts.metrics,
        results=parts.results,
        publisher=parts.publisher,
        members=parts.members,
        clock=parts.clock,
        refreshes=parts.refreshes,
        browser=ItemBrowser(catalogue=parts.catalogue, search=search, index=parts.index, versions=versions),
        seeds=seeds,
        events=BrokerEventPublisher(parts.broker),
        catalogue_viewer=CatalogueViewer(parts.catalogue, parts.index),
        member_viewer=MemberViewer(
            listeners=SqlListenerStore(parts.database, parts.profile),
            catalogue=parts.catalogue,
            results=parts.results,
            id_field=parts.profile.id_field,
        ),
        models=parts.models,
        dead_letters=BrokerDeadLetterDesk(parts.broker, parts.results, parts.clock, mask=mask_secrets),
        favorites_field=parts.profile.result.favorites,
        api_key=parts.settings.api_key,
        keyed_reads=parts.settings.api_key_for_reads,
        rate_limit=parts.settings.http_rate_limit,
        cors_origins=parts.settings.http_cors_origins,
        tracing=parts.tracing,
    )
    return HttpServer(app, parts.settings.http_host, parts.settings.http_port)
