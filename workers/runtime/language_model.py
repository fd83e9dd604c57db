"""The language model as the settings have it: one model or a ladder of two, guarded by breaker and budgets."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from redis.asyncio import Redis

from config.catalogue_profile import CatalogueProfile
from config.prompt_texts import PromptTexts
from config.settings import Settings
from core.explanation import Explainer
from core.model_ladder import ModelLadder
from core.ports.clock import Clock
from core.ports.language_model import CallGuard, LanguageModel
from core.ports.observing import Notices
from core.reranking import Reranker
from core.tracing import NO_TRACING, Tracing
from models.log_event import LogEvent
from services.budget_notice import TellingGuard
from services.call_budgets import RedisCallBudgets
from services.call_guard import RedisCallGuard
from services.circuit_breaker import RedisCircuitBreaker
from services.metrics import PrometheusMetrics
from services.traced_language_model import TracedLanguageModel

if TYPE_CHECKING:
    from services.language_model import OpenAILanguageModel

log = structlog.get_logger()


@asynccontextmanager
async def open_language_model(
    settings: Settings,
    metrics: PrometheusMetrics,
    clock: Clock,
    redis: Redis,
    notices: Notices | None = None,
    tracing: Tracing = NO_TRACING,
) -> AsyncIterator[LanguageModel | None]:
    """The model to ask; None where there is no key."""
    if not settings.llm_enabled:
        yield None
        return
    guard: CallGuard = _call_guard(settings, redis, clock, metrics)
    if notices:
        guard = TellingGuard(guard, notices, daily_usd=settings.llm_daily_usd)
    async with AsyncExitStack() as stack:
        default, deep = settings.llm_strategies.default, settings.llm_strategies.deep
        headers = tracing.carried if settings.llm_traceparent else dict
        names = default.model or deep.model, deep.model or default.model
        rungs = [_client(settings, metrics, clock, *names, headers)]
        if default.fallback_model or deep.fallback_model:
            # A strategy without one has its model here again, which the ladder does not ask twice.
            names = default.fallback_model or default.model, deep.fallback_model or deep.model
            rungs.append(_client(settings, metrics, clock, *names, headers))
        for rung in rungs:
            stack.push_async_callback(rung.aclose)
        timeout_s, patience_s = settings.llm_timeout_s, settings.llm_budget_wait_s
        yield ModelLadder(
            rungs if tracing is NO_TRACING else [TracedLanguageModel(rung, tracing) for rung in rungs],
            guard,
            clock,
            timeout_s=timeout_s,
            patience_s=patience_s,
            max_concurrency=settings.llm_max_concurrency,
        )


def warn_of_unpriced_models(settings: Settings) -> None:
    """Say once of which models ``LLM_PRICES`` has no price, so that nobody knows what their calls cost."""
    unpriced = [model for model in settings.llm_strategies.models if model not in settings.llm_prices]
    if settings.llm_enabled and unpriced:
        log.warning(LogEvent.LLM_PRICE_UNKNOWN, models=unpriced)


def reranker_of(
    settings: Settings,
    profile: CatalogueProfile,
    texts: PromptTexts,
    explainer: Explainer,
    model: LanguageModel | None,
    metrics: PrometheusMetrics,
) -> Reranker:
    """The stage that asks ``model``, where there is one."""
    return Reranker(
        model,
        explainer,
        metrics,
        profile=profile,
        texts=texts,
        strategies=settings.llm_strategies,
        order_weight=settings.llm_order_weight,
    )


def _client(
    settings: Settings,
    metrics: PrometheusMetrics,
    clock: Clock,
    model: str,
    deep_model: str,
    headers: Callable[[], Mapping[str, str]],
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
        headers=headers,
    )


def _call_guard(settings: Settings, redis: Redis, clock: Clock, metrics: PrometheusMetrics) -> RedisCallGuard:
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
