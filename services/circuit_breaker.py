"""Stops asking a model whose provider is down, for all workers at once, and finds out when it is back.

Closed, open, half-open after Nygard, "Release It!" (2007). The state is in Redis; its clock is the one that counts.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import cast

from redis.asyncio import Redis

from services.redis_client import RedisScript, redis_errors

BREAKER_PREFIX = "songs_ai:breaker:"
FAILURES_PREFIX = "songs_ai:breaker_failures:"

PROVIDER_FAILURES = frozenset({"timeout", "rate_limited", "quota_exhausted", "unavailable"})
"""What says that the provider is in trouble; whoever refuses, filters or talks nonsense is there to do so."""


class BreakerState(StrEnum):
    """What becomes of the next call: it goes, it goes for one caller alone, or it does not."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Passage(StrEnum):
    """What a caller is told: go, go and tell whether it is back, or do not."""

    CLOSED = "closed"
    PROBE = "probe"
    OPEN = "open"


class RedisCircuitBreaker:
    """One breaker for each model.

    It opens when ``n_failures`` failures within ``window_s``, less one for each success, have come; after
    ``cool_down_s`` one caller among all workers may try, for ``probe_s`` at the most, and what comes of that closes the
    breaker or opens it again. Every method raises ``DependencyUnavailable``. ``now_ms`` stands in for Redis' clock.
    """

    def __init__(
        self,
        client: Redis,
        *,
        n_failures: int,
        window_s: float,
        cool_down_s: float,
        probe_s: float,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._n_failures = n_failures
        self._window_ms, self._cool_down_ms = _ms(window_s), _ms(cool_down_s)
        self._probe_ms = _ms(probe_s)
        self._now_ms = now_ms
        self._admit = RedisScript(client, "breaker_admit")
        self._settle = RedisScript(client, "breaker_settle")

    async def admit(self, model: str, token: str) -> Passage:
        """Whether the call ``token`` may be made; asked again, the same call gets the same answer."""
        passage = await self._admit([BREAKER_PREFIX + model], [token, self._probe_ms, self._now()])
        return Passage(cast("bytes", passage).decode())

    async def settle(self, model: str, token: str, outcome: str) -> BreakerState:
        """Learn how the call ended; ``outcome`` is ``ok``, ``cancelled`` or a reason of ``LanguageModelFailed``."""
        state = await self._settle(
            [BREAKER_PREFIX + model, FAILURES_PREFIX + model],
            [token, _meaning(outcome), self._n_failures, self._window_ms, self._cool_down_ms, self._now()],
        )
        return BreakerState(cast("bytes", state).decode())

    def _now(self) -> str:
        return "" if self._now_ms is None else str(self._now_ms())


async def breaker_states(
    client: Redis, models: Sequence[str], now_ms: Callable[[], int] | None = None
) -> dict[str, BreakerState]:
    """The state of each of ``models`` now, without a call of it. Raises ``DependencyUnavailable``.

    From the end of the cool-down on it is half open until a probe has told, whether or not one is under way.
    """
    with redis_errors():
        async with client.pipeline(transaction=False) as pipe:
            pipe.time()
            for model in models:
                pipe.hget(BREAKER_PREFIX + model, "opens_again_at")
            (seconds, microseconds), *found = await pipe.execute()
    now = now_ms() if now_ms else 1000 * seconds + microseconds // 1000
    return {model: _state(opens_again_at, now) for model, opens_again_at in zip(models, found, strict=True)}


def _state(opens_again_at: bytes | None, now_ms: int) -> BreakerState:
    if opens_again_at is None:
        return BreakerState.CLOSED
    return BreakerState.OPEN if now_ms < int(opens_again_at) else BreakerState.HALF_OPEN


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _meaning(outcome: str) -> str:
    if outcome in PROVIDER_FAILURES:
        return "failed"
    # Without leave of the budget, or with its job cancelled, the call says nothing about the provider.
    return "neither" if outcome in ("cancelled", "over_budget", "over_spend") else "ok"
