"""The composition root: settings in, running parts out. Here, and in ``main.py``, everything concrete is known.

What is opened is closed in the reverse order, whatever happens. Signals belong to ``run_worker`` and ``run_api`` alone.
"""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from redis.asyncio import Redis
from threadpoolctl import threadpool_limits

from api.app import create_app
from api.health import HealthReporter
from api.server import HttpServer
from config.catalogue_profile import CatalogueProfile, load_profile
from config.prompt_texts import PromptTexts, load_prompt_texts
from config.settings import MEMORY_URL, Settings
from core.errors import ConfigurationError, DependencyUnavailable
from core.explanation import Explainer
from core.item_versions import VersionFinder
from core.lanes import Lane
from core.model_ladder import ModelLadder
from core.pipeline import RecommendationPipeline
from core.ports import HealthCheck, LanguageModel
from core.profile import ProfileConfig
from core.question import PipelineConfig
from core.ranking import RankingConfig
from core.reranking import Reranker
from core.result_document import DOCUMENT_VERSION
from core.wish import WishConfig
from core.wish_stage import WishStage
from models.log_event import LogEvent
from models.recommendation import Discovery
from services.active_members import SqlActiveMembers
from services.answer_cache import RedisAnswerCache
from services.call_budgets import RedisCallBudgets
from services.call_guard import RedisCallGuard
from services.catalogue import SqlCatalogue
from services.circuit_breaker import RedisCircuitBreaker
from services.clock import SystemClock
from services.collaborative_source import RefreshingCollaborative
from services.database import Database, open_database
from services.database_index import RefreshingDatabaseIndex
from services.embedding_store import SqlEmbeddingStore
from services.fitted_embedder import FittedEmbedder, WishesByIndex
from services.listener_store import SqlListenerStore
from services.loop_lag import watch_loop
from services.metrics import PrometheusMetrics
from services.model_store import SqlModelStore
from services.redis_client import appendonly_enabled, open_redis, ping
from services.refreshing_index import RefreshingIndex
from services.result_cache import RedisResultCache
from training.embed import CatalogueFollower
from workers.amqp_broker import AmqpBroker
from workers.broker import Broker
from workers.consumer import Consumer
from workers.handler import JobHandler
from workers.job_publisher import BrokerJobPublisher
from workers.lease_keeper import LeaseKeeper
from workers.memory_broker import MemoryBroker
from workers.provisional import ProvisionalWriter
from workers.queue_watch import watch_queues
from workers.topology import build_topology

if TYPE_CHECKING:
    from services.language_model import OpenAILanguageModel
    from services.openai_embedder import OpenAIEmbedder

VERSION = "0.1.0"

log = structlog.get_logger()

# The settings that change what is recommended; the others only change how.
_ANSWER_SETTINGS = (
    "discovery_mix",
    "discovery_share",
    "diversity",
    "group_items",
    "llm_order_weight",
    "llm_strategies",
    "llm_temperature",
    "max_per_creator",
    "n_interests",
    "time_zone",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that a worker is made of, connected; ``index`` and ``collaborative`` are not loaded yet."""

    settings: Settings
    profile: CatalogueProfile
    clock: SystemClock
    metrics: PrometheusMetrics
    redis: Redis
    results: RedisResultCache
    database: Database
    catalogue: SqlCatalogue
    embedder: "FittedEmbedder | OpenAIEmbedder"
    models: SqlModelStore
    embeddings: SqlEmbeddingStore
    index: RefreshingIndex | RefreshingDatabaseIndex
    collaborative: RefreshingCollaborative
    members: SqlActiveMembers
    pipeline: RecommendationPipeline
    broker: Broker
    publisher: BrokerJobPublisher


@asynccontextmanager
async def open_parts(settings: Settings) -> AsyncIterator[Parts]:
    """Open all services, and the broker last; close them in reverse.

    Raises ``ConfigurationError`` naming what to mend, ``DependencyUnavailable`` where a server does not answer.
    """
    async with AsyncExitStack() as stack:
        # Its products are small: a second thread only spins, at more than three times the CPU time per job.
        stack.enter_context(threadpool_limits(1, user_api="blas"))
        profile = _profile(settings)
        clock = SystemClock()
        metrics = PrometheusMetrics(CollectorRegistry(), clock=clock, version=VERSION)
        redis = await stack.enter_async_context(
            open_redis(
                settings.redis_url.get_secret_value(),
                max_connections=settings.redis_pool,
                timeout_s=settings.dependency_timeout_s,
                ca_file=settings.redis_ca_file,
            )
        )
        database = await stack.enter_async_context(
            open_database(
                settings.database_url.get_secret_value(),
                pool_size=settings.database_pool,
                timeout_s=settings.dependency_timeout_s,
                ca_file=settings.database_ca_file,
            )
        )
        catalogue = SqlCatalogue(database, profile)
        models = SqlModelStore(database, clock)
        embedder = await stack.enter_async_context(_open_embedder(settings, profile, models))
        embeddings = SqlEmbeddingStore(database, profile)
        index = _index(settings, profile, database, embedder, catalogue, embeddings, metrics, clock)
        collaborative = RefreshingCollaborative(
            models, refresh_s=settings.index_refresh_s, clock=clock, observer=metrics
        )
        model = await stack.enter_async_context(_open_language_model(settings, metrics, clock, redis))
        results = RedisResultCache(
            redis,
            clock,
            job_ttl_s=settings.job_ttl_s,
            cache_ttl_s=settings.cache_ttl_s,
            degraded_ttl_s=settings.degraded_ttl_s,
            provisional_ttl_s=settings.provisional_ttl_s,
            lease_s=settings.job_lease_s,
        )
        texts = load_prompt_texts()
        explainer = Explainer(profile, texts)
        pipeline = RecommendationPipeline(
            listeners=SqlListenerStore(database, profile),
            index=index,
            collaborative=collaborative,
            wishes=WishStage(
                profile.wishes,
                WishesByIndex(embedder, index) if isinstance(embedder, FittedEmbedder) else embedder,
                catalogue,
                WishConfig(weight=settings.wish_weight, share=settings.wish_share),
                timeout_s=settings.wish_timeout_s,
            ),
            catalogue=catalogue,
            reranker=_reranker(settings, profile, texts, explainer, model, metrics),
            explainer=explainer,
            answers=RedisAnswerCache(redis, ttl_s=settings.cache_ttl_s, degraded_ttl_s=settings.degraded_ttl_s),
            observer=metrics,
            clock=clock,
            profile=profile,
            config=_pipeline_config(settings, profile),
        )
        broker = _broker(settings)
        stack.push_async_callback(broker.close)
        yield Parts(
            settings=settings,
            profile=profile,
            clock=clock,
            metrics=metrics,
            redis=redis,
            results=results,
            database=database,
            catalogue=catalogue,
            embedder=embedder,
            models=models,
            embeddings=embeddings,
            index=index,
            collaborative=collaborative,
            members=SqlActiveMembers(database, profile),
            pipeline=pipeline,
            broker=broker,
            publisher=BrokerJobPublisher(broker),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """What asks the LLM and reads its answers as a worker does, without a worker around it."""

    language_model: LanguageModel
    reranker: Reranker
    config: PipelineConfig
    versions: VersionFinder
    clock: SystemClock


@asynccontextmanager
async def open_judge(settings: Settings) -> AsyncIterator[Judge]:
    """Open what the strategy ``default`` needs, and nothing of the backend's; budgets are those of the workers.

    No fallback model is asked: what it said would count as the first one's. Raises ``ConfigurationError`` where there
    is no LLM to ask, ``DependencyUnavailable``.
    """
    alone = settings.llm_strategies.default.model_copy(update={"fallback_model": ""})
    strategies = settings.llm_strategies.model_copy(update={"default": alone, "deep": alone})
    settings = settings.model_copy(update={"llm_strategies": strategies})
    profile, texts, clock = _profile(settings), load_prompt_texts(), SystemClock()
    metrics = PrometheusMetrics(CollectorRegistry(), clock=clock, version=VERSION)
    redis_url = settings.redis_url.get_secret_value()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(
            open_redis(
                redis_url,
                max_connections=settings.redis_pool,
                timeout_s=settings.dependency_timeout_s,
                ca_file=settings.redis_ca_file,
            )
        )
        model = await stack.enter_async_context(_open_language_model(settings, metrics, clock, redis))
        if model is None or not alone.max_calls:
            raise ConfigurationError("OPENAI_API_KEY is empty: there is no LLM to ask")
        yield Judge(
            language_model=model,
            reranker=_reranker(settings, profile, texts, Explainer(profile, texts), model, metrics),
            config=_pipeline_config(settings, profile),
            versions=VersionFinder(profile.versions),
            clock=clock,
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


# --- running ---


async def prepare(parts: Parts) -> None:
    """Check the catalogue, load index and model, and connect to the broker, waiting for whatever is away.

    Raises ``ConfigurationError``: no waiting mends that.
    """
    await _patiently(parts.catalogue.check)
    await _patiently(parts.index.load)
    await _patiently(parts.collaborative.load)
    await _patiently(parts.broker.start)
    await _patiently(partial(_warn_of_forgetfulness, parts.redis))


async def _warn_of_forgetfulness(redis: Redis) -> None:
    if await appendonly_enabled(redis) is False:
        log.warning(LogEvent.REDIS_NOT_DURABLE)


@asynccontextmanager
async def running_consumers(parts: Parts) -> AsyncIterator[list[Consumer]]:
    """Jobs consumed, index and model refreshed, once ``prepare`` is done. At the end jobs under way are drained."""
    settings, topology = parts.settings, parts.broker.topology
    parts.metrics.retries_watched([step.label for step in topology.main.retries])
    leases = LeaseKeeper(parts.results, lease_s=settings.job_lease_s)
    handler = _handler(parts, leases)
    consumers = [
        Consumer(
            parts.broker,
            route,
            handler,
            concurrency=concurrency,
            lane=lane,
            observer=parts.metrics,
            on_dead_lettered=handler.dead_lettered,
        )
        for route, concurrency, lane in (
            (topology.main, settings.concurrency, Lane.INTERACTIVE),
            (topology.batch, settings.batch_concurrency, Lane.BATCH),
        )
        if concurrency
    ]
    background = _background(
        leases.run,
        parts.index.run,
        parts.collaborative.run,
        lambda: watch_loop(parts.metrics, clock=parts.clock),
        lambda: watch_queues(parts.broker, parts.metrics),
    )
    with _short_collections():
        async with background:
            try:
                await consumers[0].start()
                for consumer in consumers[1:]:
                    await _start_where_there(consumer, settings)
                yield consumers
            finally:
                await _stop(consumers, settings.shutdown_grace_s)


@contextmanager
def _short_collections() -> Iterator[None]:
    """What there is by now stays: looking through all of it for garbage holds the event loop up for 30 ms."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _handler(parts: Parts, leases: LeaseKeeper) -> JobHandler:
    settings = parts.settings
    return JobHandler(
        parts.pipeline,
        parts.results,
        leases,
        max_attempts=settings.max_attempts,
        delays_s=settings.retry_delays_s,
        job_timeout_s=settings.job_timeout_s,
        clock=parts.clock,
        observer=parts.metrics,
        provisional=_provisional_writer(parts),
        delivery_limit=settings.delivery_limit,
        max_age_s=settings.job_max_age_s,
    )


def _provisional_writer(parts: Parts) -> ProvisionalWriter | None:
    if not parts.settings.provisional_ttl_s:
        return None
    return ProvisionalWriter(parts.results, clock=parts.clock, observer=parts.metrics)


async def _start_where_there(consumer: Consumer, settings: Settings) -> None:
    """Consume a queue that is ours alone: where we may not declare it, it need not be there."""
    try:
        await consumer.start()
    except ConfigurationError as error:
        if settings.topology_mode == "declare":
            raise
        log.warning(LogEvent.CONSUMER_LOST, error=str(error))


async def run_worker(settings: Settings) -> None:
    """Consume until SIGTERM or SIGINT, then drain; a second signal cuts the grace short.

    HTTP is served from the first moment, so that ``/health`` can say what a worker that is not ready waits for.
    """
    signals = _Signals()
    async with open_parts(settings) as parts, AsyncExitStack() as stack:
        if settings.http_enabled:
            await stack.enter_async_context(_serving_http(parts, consuming=True))
        if await signals.sooner_than(prepare(parts)):
            return
        async with running_consumers(parts) as consumers:
            log.info(LogEvent.WORKER_STARTED, version=VERSION, n_items=len(parts.index.current()))
            await signals.next()
            await _drain(consumers, settings.shutdown_grace_s, signals)
    log.info(LogEvent.WORKER_STOPPED)


async def run_api(settings: Settings) -> None:
    """Serve HTTP alone until SIGTERM or SIGINT."""
    signals = _Signals()
    async with open_parts(settings) as parts, _serving_http(parts, consuming=False):
        if not await signals.sooner_than(_patiently(parts.broker.start)):
            await signals.next()


class _Signals:
    """SIGTERM and SIGINT, from the first moment of the process to its last, taken one at a time."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[signal.Signals] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._arrived.put_nowait, number)

    async def next(self) -> None:
        """Return when a signal that was not taken before is there."""
        number = await self._arrived.get()
        log.info(LogEvent.SHUTDOWN_REQUESTED, signal=number.name)

    async def sooner_than(self, step: Coroutine[Any, Any, None]) -> bool:
        """Run ``step``; True where a signal came before its end and cancelled it. Raises what ``step`` raises."""
        running, signalled = asyncio.create_task(step), asyncio.create_task(self.next())
        await asyncio.wait({running, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            running.cancel()
            await asyncio.wait({running})
            return True
        signalled.cancel()
        await running
        return False


async def _patiently(step: Callable[[], Awaitable[None]]) -> None:
    """Repeat ``step`` until the dependency that it needs is there."""
    while True:
        try:
            return await step()
        except DependencyUnavailable as error:
            log.warning(LogEvent.DEPENDENCY_CHECK_FAILED, error=str(error))
            await asyncio.sleep(1)


async def _drain(consumers: Sequence[Consumer], grace_s: float, signals: _Signals) -> None:
    """Drain all consumers side by side; a further signal meanwhile ends the grace at once."""
    if await signals.sooner_than(_stop(consumers, grace_s)):
        await _stop(consumers, 0)


async def _stop(consumers: Sequence[Consumer], grace_s: float) -> None:
    await asyncio.gather(*(consumer.stop(grace_s) for consumer in consumers))


@asynccontextmanager
async def _background(*loops: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run endless ``loops`` beside the block; one that fails ends the block too, for it would be missed."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_as_coroutine(each)) for each in loops]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from None
        raise


async def _as_coroutine(step: Callable[[], Awaitable[None]]) -> None:
    await step()


# --- HTTP ---


@asynccontextmanager
async def _serving_http(parts: Parts, *, consuming: bool) -> AsyncIterator[None]:
    server = _http_server(parts, consuming=consuming)
    try:
        await server.start()
    except OSError as error:
        raise ConfigurationError(f"HTTP_HOST and HTTP_PORT: the address cannot be served: {error}") from error
    if not (server.is_on_loopback or parts.settings.api_key.get_secret_value()):
        log.warning(LogEvent.HTTP_EXPOSED, host=parts.settings.http_host, hint="anybody may post jobs: set API_KEY")
    try:
        yield
    finally:
        await server.stop()


def _http_server(parts: Parts, *, consuming: bool) -> HttpServer:
    reporter = HealthReporter(health_checks(parts, consuming=consuming), clock=parts.clock, observer=parts.metrics)
    app = create_app(
        health=reporter,
        expose_metrics=parts.metrics.expose,
        observer=parts.metrics,
        results=parts.results,
        publisher=parts.publisher,
        members=parts.members,
        clock=parts.clock,
        api_key=parts.settings.api_key,
        keyed_reads=parts.settings.api_key_for_reads,
    )
    return HttpServer(app, parts.settings.http_host, parts.settings.http_port)


def health_checks(parts: Parts, *, consuming: bool) -> Mapping[str, HealthCheck]:
    """What readiness depends on; a process that does not consume needs neither consumer nor index."""
    checks: dict[str, HealthCheck] = {
        "database": partial(_check_database, parts),
        "redis": partial(_check_redis, parts),
        "broker": partial(_check_broker, parts, consuming=consuming),
    }
    return {**checks, "index": partial(_check_index, parts)} if consuming else checks


async def _check_database(parts: Parts) -> None:
    await parts.database.ping()


async def _check_redis(parts: Parts) -> str | None:
    if parts.settings.redis_url.get_secret_value() == MEMORY_URL:
        return "results live in this process alone (REDIS_URL is memory://)"
    await ping(parts.redis)
    if await appendonly_enabled(parts.redis) is False:
        return "appendonly is off: a crash of Redis may lose results that were acknowledged"
    return None


async def _check_broker(parts: Parts, *, consuming: bool) -> None:
    health = parts.broker.health()
    if not health.connected or (consuming and not health.consuming):
        raise DependencyUnavailable("broker", health.reason or "not consuming")


async def _check_index(parts: Parts) -> None:
    if not len(parts.index.current()):
        raise DependencyUnavailable("index", "holds no item: run `python main.py embed`")


# --- parts ---


def _profile(settings: Settings) -> CatalogueProfile:
    try:
        return load_profile(settings.catalogue_profile)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


@asynccontextmanager
async def _open_embedder(
    settings: Settings, profile: CatalogueProfile, models: SqlModelStore
) -> "AsyncIterator[FittedEmbedder | OpenAIEmbedder]":
    if settings.embedder == "hashing":
        yield FittedEmbedder(models, settings.embedding_dim, text_columns=profile.item.text)
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
    clock: SystemClock,
) -> RefreshingIndex | RefreshingDatabaseIndex:
    follower = CatalogueFollower(catalogue, embedder, embeddings, text_columns=profile.item.text)
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


@asynccontextmanager
async def _open_language_model(
    settings: Settings, metrics: PrometheusMetrics, clock: SystemClock, redis: Redis
) -> AsyncIterator[LanguageModel | None]:
    if not settings.llm_enabled:
        yield None
        return
    guard = _call_guard(settings, redis, clock, metrics)
    async with AsyncExitStack() as stack:
        default, deep = settings.llm_strategies.default, settings.llm_strategies.deep
        rungs = [_client(settings, metrics, clock, default.model or deep.model, deep.model or default.model)]
        if default.fallback_model or deep.fallback_model:
            # A strategy without one has its model here again, which the ladder does not ask twice.
            names = [row.fallback_model or row.model for row in (default, deep)]
            rungs.append(_client(settings, metrics, clock, *names))
        for rung in rungs:
            stack.push_async_callback(rung.aclose)
        timeout_s, patience_s = settings.llm_timeout_s, settings.llm_budget_wait_s
        yield ModelLadder(
            rungs,
            guard,
            clock,
            timeout_s=timeout_s,
            patience_s=patience_s,
            max_concurrency=settings.llm_max_concurrency,
        )


def _client(
    settings: Settings, metrics: PrometheusMetrics, clock: SystemClock, model: str, deep_model: str
) -> "OpenAILanguageModel":
    from services.language_model import OpenAILanguageModel  # noqa: PLC0415 - half of the time that a start takes

    return OpenAILanguageModel(
        model=model,
        deep_model=deep_model,
        api_key=settings.openai_api_key,
        base_url=settings.openai_base_url,
        timeout_s=settings.llm_timeout_s,
        max_retries=settings.llm_max_retries,
        max_concurrency=settings.llm_max_concurrency,
        structured_output=settings.llm_structured_output,
        streaming=settings.llm_streaming,
        temperature=settings.llm_temperature if settings.llm_temperature >= 0 else None,
        api_version=settings.llm_api_version,
        observer=metrics,
        clock=clock,
    )


def _reranker(
    settings: Settings,
    profile: CatalogueProfile,
    texts: PromptTexts,
    explainer: Explainer,
    model: LanguageModel | None,
    metrics: PrometheusMetrics,
) -> Reranker:
    return Reranker(
        model,
        explainer,
        metrics,
        profile=profile,
        texts=texts,
        strategies=settings.llm_strategies,
        order_weight=settings.llm_order_weight,
    )


def _call_guard(settings: Settings, redis: Redis, clock: SystemClock, metrics: PrometheusMetrics) -> RedisCallGuard:
    asked = settings.llm_strategies.models
    metrics.llm_models(asked)
    metrics.llm_guarded(asked, ceiling_usd=settings.llm_daily_usd)
    # Longer than a call takes, its wait for a connection included: a reservation given up too soon is a limit passed.
    longest_s = 60 + 2 * settings.llm_timeout_s
    breaker = RedisCircuitBreaker(
        redis,
        n_failures=settings.llm_breaker_failures,
        window_s=settings.llm_breaker_window_s,
        cool_down_s=settings.llm_breaker_cool_down_s,
        probe_s=settings.llm_timeout_s,
    )
    budgets = RedisCallBudgets(
        redis,
        clock,
        models=asked,
        prices=settings.llm_prices,
        requests_per_minute=settings.llm_requests_per_minute,
        tokens_per_minute=settings.llm_tokens_per_minute,
        rate_limits=settings.llm_rate_limits,
        daily_usd=settings.llm_daily_usd,
        requests_per_call=1 + settings.llm_max_retries,
        lease_s=longest_s,
        time_zone=settings.time_zone,
        batch_share=settings.llm_batch_share,
    )
    is_counted = (
        settings.llm_requests_per_minute
        or settings.llm_tokens_per_minute
        or settings.llm_rate_limits
        or settings.llm_daily_usd
        or settings.llm_prices
    )
    return RedisCallGuard(breaker if settings.llm_breaker_failures else None, budgets if is_counted else None, metrics)


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


def _pipeline_config(settings: Settings, profile: CatalogueProfile) -> PipelineConfig:
    told = [f"{name}={getattr(settings, name)}" for name in _ANSWER_SETTINGS]
    digest = blake2b("\n".join([*told, profile.model_dump_json(), str(DOCUMENT_VERSION)]).encode(), digest_size=6)
    return PipelineConfig(
        version=digest.hexdigest(),
        default_locale=settings.default_locale,
        time_zone=settings.time_zone,
        default_top_k=settings.default_top_k,
        max_top_k=settings.max_top_k,
        group_items=settings.group_items,
        llm_share=settings.llm_share,
        llm_experiment=settings.llm_experiment,
        profile=ProfileConfig(n_interests=settings.n_interests),
        ranking=RankingConfig(
            diversity=settings.diversity,
            max_per_creator=settings.max_per_creator,
            discovery_share=settings.discovery_share,
            discovery_mix={Discovery(name): weight for name, weight in settings.discovery_mix.items()},
        ),
    )
