"""What asks the LLM and reads its answers as a worker does, without a worker around it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from config.prompt_texts import load_prompt_texts
from config.settings import Settings
from core.errors import ConfigurationError
from core.explanation import Explainer
from core.item_versions import VersionFinder
from services.clock import SystemClock
from services.metrics import PrometheusMetrics
from training.judge import Judge
from workers.runtime.language_model import open_language_model, reranker_of
from workers.runtime.parts import VERSION, profile_of, redis_of
from workers.runtime.pipeline_config import pipeline_config


@asynccontextmanager
async def open_judge(settings: Settings) -> AsyncIterator[Judge]:
    """Open what the strategy ``default`` needs, and nothing of the backend's; budgets are those of the workers.

    No fallback model is asked: what it said would count as the first one's. Raises ``ConfigurationError`` where there
    is no LLM to ask, ``DependencyUnavailable``.
    """
    alone = settings.llm_strategies.default.model_copy(update={"fallback_model": ""})
    strategies = settings.llm_strategies.model_copy(update={"default": alone, "deep": alone})
    settings = settings.model_copy(update={"llm_strategies": strategies})
    profile, texts, clock = profile_of(settings), load_prompt_texts(), SystemClock()
    metrics = PrometheusMetrics(CollectorRegistry(), clock=clock, version=VERSION)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_of(settings))
        model = await stack.enter_async_context(open_language_model(settings, metrics, clock, redis))
        if model is None or not alone.max_calls:
            raise ConfigurationError("OPENAI_API_KEY is empty: there is no LLM to ask")
        yield Judge(
            language_model=model,
            reranker=reranker_of(settings, profile, texts, Explainer(profile, texts), model, metrics),
            config=pipeline_config(settings, profile),
            versions=VersionFinder(profile.versions),
            clock=clock,
            order_weight=settings.llm_order_weight,
            locale=settings.default_locale,
            endpoint=settings.openai_base_url,
            price=settings.llm_prices.get(model.name(deep=False)),
        )
