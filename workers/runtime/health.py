"""What readiness depends on."""

from collections.abc import Mapping
from functools import partial

from config.settings import MEMORY_URL
from core.errors import DependencyUnavailable
from core.ports.observing import HealthCheck
from services.call_budgets import spend_today_usd
from services.circuit_breaker import BreakerState, breaker_states
from services.redis_client import appendonly_enabled, ping
from services.redis_memory import redis_memory
from workers.runtime.parts import Parts

OPTIONAL = frozenset({"llm"})
"""Without it answers are worse, but jobs are taken."""


def health_checks(parts: Parts, *, consuming: bool) -> Mapping[str, HealthCheck]:
    """What readiness depends on; a process that does not consume needs neither consumer nor index."""
    checks: dict[str, HealthCheck] = {
        "database": partial(_check_database, parts),
        "redis": partial(_check_redis, parts),
        "broker": partial(_check_broker, parts),
    }
    if consuming:
        checks["consumer"] = partial(_check_consumer, parts)
        checks["index"] = partial(_check_index, parts)
    if consuming and parts.settings.llm_enabled:
        checks["llm"] = partial(_check_llm, parts)
    return checks


async def _check_database(parts: Parts) -> None:
    await parts.database.ping()


async def _check_redis(parts: Parts) -> str | None:
    if parts.settings.redis_url.get_secret_value() == MEMORY_URL:
        return "results live in this process alone (REDIS_URL is memory://)"
    await ping(parts.redis)
    if memory := await redis_memory(parts.redis):
        parts.metrics.redis_memory(used_bytes=memory.used, limit_bytes=memory.limit)
        if warning := memory.verdict():
            return warning
    if await appendonly_enabled(parts.redis) is False:
        return "appendonly is off: a crash of Redis may lose results that were acknowledged"
    return None


async def _check_broker(parts: Parts) -> None:
    health = parts.broker.health()
    if not health.connected:
        raise DependencyUnavailable("broker", health.reason or "not connected")


async def _check_consumer(parts: Parts) -> None:
    """Apart from the broker's: a worker that still loads its index takes no jobs, and RabbitMQ is well."""
    health = parts.broker.health()
    if not health.consuming:
        raise DependencyUnavailable("consumer", health.reason or "takes no jobs yet")


async def _check_index(parts: Parts) -> None:
    if not len(parts.index.current()):
        raise DependencyUnavailable("index", "holds no item: run `python main.py embed`")


async def _check_llm(parts: Parts) -> None:
    """By what the calls of all workers came to: a call of its own would cost money at every look.

    What is charted of it is told at every look too: a worker that asks nobody would go on with what it last heard.
    """
    settings = parts.settings
    models = settings.llm_strategies.models if settings.llm_breaker_failures else ()
    try:
        states = await breaker_states(parts.redis, models)
        spend_usd = await spend_today_usd(parts.redis, parts.clock, settings.time_zone)
    except DependencyUnavailable:
        return  # nobody can say, and calls pass: that Redis is away is told by its own check
    parts.metrics.llm_spent_today(spend_usd)
    for model, state in states.items():
        parts.metrics.llm_breaker(model, state)
    if given_up := [model for model, state in states.items() if state is not BreakerState.CLOSED]:
        raise DependencyUnavailable("llm", f"the breaker keeps calls from {', '.join(given_up)}")
