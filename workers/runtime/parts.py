"""The composition root: settings in, connected parts out. In this package, and in ``commands/``, the concrete is known.

What is opened is closed in the reverse order, whatever happens.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr
from redis.asyncio import Redis
from threadpoolctl import threadpool_limits

from config.catalogue_profile import CatalogueProfile, load_profile
from config.prompt_texts import load_prompt_texts
from config.settings import MEMORY_URL, Settings
from core.catalogue_statistics import CatalogueStatistics
from core.errors import ConfigurationError
from core.explanation import Explainer
from core.llm_share import Arm, arm_of
from core.pipeline import RecommendationPipeline
from core.ports.clock import Clock
from core.tracing import Tracing
from core.turns import Turns
from core.wish import WishConfig
from core.wish_stage import WishStage
from core.withdrawal import without_items
from services.active_members import SqlActiveMembers
from services.answer_cache import RedisAnswerCache
from services.catalogue import SqlCatalogue
from services.clock import SystemClock
from services.collaborative_source import RefreshingCollaborative
from services.database import Database, open_database
from services.database_index import RefreshingDatabaseIndex
from services.embedding_store import SqlEmbeddingStore
from services.fitted_embedder import FittedEmbedder, WishesByIndex
from services.forgetting import MemberForgetting
from services.impressions import RedisImpressions
from services.listener_store import SqlListenerStore
from services.metrics import PrometheusMetrics
from services.model_store import SqlModelStore
from services.notices import OutboundNotices
from services.redis_client import open_redis
from services.refresh_requests import RedisRefreshRequests
from services.refreshing_index import RefreshingIndex
from services.result_cache import Clean, RedisResultCache
from services.shelves import RedisShelves
from training.embed import CatalogueFollower
from workers.amqp_broker import AmqpBroker
from workers.broker import Broker
from workers.gone_items import GoneItems
from workers.job_publisher import BrokerJobPublisher
from workers.memory_broker import MemoryBroker
from workers.runtime.language_model import open_language_model, reranker_of
from workers.runtime.pipeline_config import pipeline_config
from workers.runtime.tracing import metrics_of, open_tracing, watched
from workers.topology import build_topology

if TYPE_CHECKING:
    from services.openai_embedder import OpenAIEmbedder

VERSION = "0.1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that a worker is made of, connected; ``index`` and ``collaborative`` are not loaded yet."""

    settings: Settings
    profile: CatalogueProfile
    clock: Clock
    metrics: PrometheusMetrics
    tracing: Tracing
    redis: Redis
    results: RedisResultCache
    database: Database
    catalogue: SqlCatalogue
    embedder: "FittedEmbedder | OpenAIEmbedder"
    models: SqlModelStore
    notices: OutboundNotices
    embeddings: SqlEmbeddingStore
    index: RefreshingIndex | RefreshingDatabaseIndex
    collaborative: RefreshingCollaborative
    members: SqlActiveMembers
    turns: Turns
    wishes: WishStage
    explainer: Explainer
    pipeline: RecommendationPipeline
    broker: Broker
    publisher: BrokerJobPublisher
    refreshes: RedisRefreshRequests
    forgetting: MemberForgetting
    clean: Clean
    shelves: RedisShelves
    gone: GoneItems
    arm_of: Callable[[int], Arm]


@asynccontextmanager
async def open_parts(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Parts]:
    """Open all services, and the broker last; close them in reverse. ``clock``: in place of the machine's.

    Raises ``ConfigurationError`` naming what to mend, ``DependencyUnavailable`` where a server does not answer.
    """
    async with AsyncExitStack() as stack:
        # Its products are small: a second thread only spins, at more than three times the CPU time per job.
        stack.enter_context(threadpool_limits(1, user_api="blas"))
        profile = profile_of(settings)
        clock = clock or SystemClock()
        traces = await stack.enter_async_context(open_tracing(settings, VERSION))
        metrics = metrics_of(traces, clock, VERSION)
        redis = await stack.enter_async_context(redis_of(settings))
        database = await stack.enter_async_context(
            open_database(
                settings.database_url.get_secret_value(),
                pool_size=settings.database_pool,
                timeout_s=settings.dependency_timeout_s,
                ca_file=settings.database_ca_file,
            )
        )
        tracing = watched(traces, database, redis)
        notices = await stack.enter_async_context(_open_notices(settings, redis, clock))
        catalogue = SqlCatalogue(database, profile)
        models = SqlModelStore(database, clock)
        embedder = await stack.enter_async_context(_open_embedder(settings, profile, models))
        embeddings = SqlEmbeddingStore(database, profile)
        clean, arm_of_member = partial(without_items, profile=profile), _arms(settings)
        shelves = RedisShelves(redis, clean)
        gone = GoneItems(shelves)
        index = _index(settings, profile, database, embedder, catalogue, embeddings, metrics, clock, gone)
        collaborative = RefreshingCollaborative(
            models, refresh_s=settings.index_refresh_s, clock=clock, observer=metrics
        )
        model = await stack.enter_async_context(open_language_model(settings, metrics, clock, redis, notices, tracing))
        results = RedisResultCache(
            redis,
            clock,
            time_zone=settings.time_zone,
            clean=clean,
            on_shown=lambda member_id, n: metrics.impressions(arm=arm_of_member(member_id).value, n=n),
            job_ttl_s=settings.job_ttl_s,
            cache_ttl_s=settings.cache_ttl_s,
            degraded_ttl_s=settings.degraded_ttl_s,
            provisional_ttl_s=settings.provisional_ttl_s,
            lease_s=settings.job_lease_s,
            max_returns=settings.delivery_limit,
        )
        texts = load_prompt_texts()
        explainer = Explainer(profile, texts)
        turns = Turns()
        wishes = WishStage(
            profile.wishes,
            WishesByIndex(embedder, index) if isinstance(embedder, FittedEmbedder) else embedder,
            catalogue,
            WishConfig(weight=settings.wish_weight, share=settings.wish_share),
            timeout_s=settings.wish_timeout_s,
        )
        pipeline = RecommendationPipeline(
            listeners=SqlListenerStore(database, profile),
            index=index,
            collaborative=collaborative,
            wishes=wishes,
            catalogue=catalogue,
            reranker=reranker_of(settings, profile, texts, explainer, model, metrics),
            explainer=explainer,
            answers=RedisAnswerCache(redis, ttl_s=settings.cache_ttl_s, degraded_ttl_s=settings.degraded_ttl_s),
            observer=metrics,
            clock=clock,
            profile=profile,
            config=pipeline_config(settings, profile),
            turns=turns,
            impressions=RedisImpressions(redis, clock, time_zone=settings.time_zone),
        )
        broker = _broker(settings)
        stack.push_async_callback(broker.close)
        yield Parts(
            settings=settings,
            profile=profile,
            clock=clock,
            metrics=metrics,
            tracing=tracing,
            redis=redis,
            results=results,
            database=database,
            catalogue=catalogue,
            embedder=embedder,
            models=models,
            notices=notices,
            embeddings=embeddings,
            index=index,
            collaborative=collaborative,
            members=SqlActiveMembers(database, profile),
            turns=turns,
            wishes=wishes,
            explainer=explainer,
            pipeline=pipeline,
            broker=broker,
            publisher=BrokerJobPublisher(broker, tracing),
            refreshes=RedisRefreshRequests(redis, quiet_s=settings.refresh_quiet_s, drift_s=settings.drift_check_s),
            forgetting=MemberForgetting(database, redis, max_age_s=settings.job_max_age_s),
            clean=clean,
            shelves=shelves,
            gone=gone,
            arm_of=arm_of_member,
        )


def embedded(settings: Settings, directory: Path) -> Settings:
    """The same settings on a database file in ``directory`` and on a broker and a cache in this process."""
    return settings.model_copy(
        update={
            "broker_url": SecretStr(MEMORY_URL),
            "redis_url": SecretStr(MEMORY_URL),
            "database_url": SecretStr(f"sqlite:///{directory / 'songs-ai.db'}"),
        }
    )


def _arms(settings: Settings) -> Callable[[int], Arm]:
    """Which arm of ``LLM_SHARE`` a member is in."""
    if not settings.llm_enabled:
        return lambda _: Arm.NONE
    return partial(arm_of, share=settings.llm_share, experiment=settings.llm_experiment)


def redis_of(settings: Settings) -> AbstractAsyncContextManager[Redis]:
    """The Redis that the settings name, opened and closed."""
    return open_redis(
        settings.redis_url.get_secret_value(),
        max_connections=settings.redis_pool,
        timeout_s=settings.dependency_timeout_s,
        ca_file=settings.redis_ca_file,
    )


def profile_of(settings: Settings) -> CatalogueProfile:
    """The catalogue profile that the settings name. Raises ``ConfigurationError``."""
    try:
        return load_profile(settings.catalogue_profile)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


@asynccontextmanager
async def _open_embedder(
    settings: Settings, profile: CatalogueProfile, models: SqlModelStore
) -> "AsyncIterator[FittedEmbedder | OpenAIEmbedder]":
    if settings.embedder == "hashing":
        item = profile.item
        plain = CatalogueStatistics.plain(item.feature_scales, item.frequent_words)
        yield FittedEmbedder(models, settings.embedding_dim, text_columns=item.text, plain=plain)
        return
    from services.openai_embedder import OpenAIEmbedder  # noqa: PLC0415 - slow to import, and seldom asked for

    embedder = OpenAIEmbedder(
        api_key=settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url or None,
        model=settings.embedding_model,
        dim=settings.embedding_dim,
        text_columns=profile.item.text,
    )
    try:
        yield embedder
    finally:
        await embedder.aclose()


def _index(
    settings: Settings,
    profile: CatalogueProfile,
    database: Database,
    embedder: "FittedEmbedder | OpenAIEmbedder",
    catalogue: SqlCatalogue,
    embeddings: SqlEmbeddingStore,
    metrics: PrometheusMetrics,
    clock: Clock,
    gone: GoneItems,
) -> RefreshingIndex | RefreshingDatabaseIndex:
    follower = CatalogueFollower(catalogue, embedder, embeddings, text_columns=profile.item.text, on_gone=gone.note)
    before_look = embedder.refresh if isinstance(embedder, FittedEmbedder) else None
    if settings.retrieval == "database":
        return RefreshingDatabaseIndex(
            database,
            profile,
            embeddings,
            embedder,
            refresh_s=settings.index_refresh_s,
            observer=metrics,
            clock=clock,
            before_load=follower.follow,
            before_look=before_look,
        )
    return RefreshingIndex(
        embeddings,
        embedder,
        refresh_s=settings.index_refresh_s,
        observer=metrics,
        clock=clock,
        snapshot_directory=Path(settings.index_dir) if settings.index_dir else None,
        before_load=follower.follow,
        before_look=before_look,
    )


def _broker(settings: Settings) -> Broker:
    topology = build_topology(
        settings.name_prefix,
        settings.retry_delays_s,
        settings.queue_type,
        delivery_limit=settings.delivery_limit,
        # These are ours alone: where we may not declare, there is no need to insist on them.
        batch=settings.topology_mode == "declare",
        events=settings.topology_mode == "declare",
    )
    url = settings.broker_url.get_secret_value()
    if url == MEMORY_URL:
        return MemoryBroker(topology)
    return AmqpBroker(url, topology, topology_mode=settings.topology_mode, ca_file=settings.broker_ca_file)


@asynccontextmanager
async def _open_notices(settings: Settings, redis: Redis, clock: Clock) -> AsyncIterator[OutboundNotices]:
    secrets = (settings.notice_slack, settings.notice_webhook, settings.notice_smtp_url)
    if not any(secret.get_secret_value() for secret in secrets):
        yield OutboundNotices((), redis, clock, interval_s=settings.notice_interval_s)
        return
    from services.notice_channels import NoticeAddresses, open_notices  # noqa: PLC0415 - slow to import

    slack, webhook, smtp_url = secrets
    addresses = NoticeAddresses(
        slack=slack,
        webhook=webhook,
        smtp_url=smtp_url,
        mail_from=settings.notice_mail_from,
        mail_to=settings.notice_mail_to,
    )
    async with open_notices(addresses, redis, clock, interval_s=settings.notice_interval_s) as notices:
        yield notices
