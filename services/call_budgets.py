"""Requests and tokens a minute of each model, and money a day, that all workers spend together.

A sliding window by seconds in Redis, after whose clock all of it goes. A call reserves what it may use at the most, and
the reservation counts until the call is settled; what it then used counts for a whole window more. So whatever minute
the provider looks at, no more than the limit was sent in it; the price is that the limit is used up to the share
minute / (minute + duration of a call).
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast
from zoneinfo import ZoneInfo

from redis.asyncio import Redis

from config.rate_limit import RateLimit
from config.token_price import TokenPrice
from core.errors import ConfigurationError, DependencyUnavailable, LanguageModelFailed
from core.lanes import Lane, current_lane
from core.ports.clock import Clock
from services.redis_client import RedisScript, redis_errors

WINDOW_PREFIX = "songs_ai:llm_budget:window:"
OPEN_PREFIX = "songs_ai:llm_budget:open:"
SPEND_PREFIX = "songs_ai:llm_spend:"
BATCH_INFIX = "batch:"

_N_TICKS = 60
_FIRST_POLL_S, _LONGEST_POLL_S = 0.05, 1.0
_NANO_PER_USD = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Room for one call of ``model``; ``key`` is Redis' name of it, ``batch_key`` of that in the batch's own share."""

    model: str
    key: str
    batch_key: str | None
    waited_s: float


class RedisCallBudgets:
    """Limits a minute of all calls of one model, and of what all models cost a day; 0 is no limit.

    Providers limit each model by itself: ``rate_limits`` holds those that differ from what holds for every other.

    Calls of batch jobs also keep within ``batch_share`` of all limits among themselves, so that the rest is there for
    those who wait, whatever a refresh asks.

    A call may send ``requests_per_call`` requests, retries included, and end ``lease_s`` after its reservation; what a
    dead worker reserved counts as used from then on. Of the limits a minute it reserves what all of them may use, and
    of the ceiling what one may. A call that alone is above a limit takes all of it.
    ``window_s`` and ``now_ms``, which stands in for Redis' clock, are for tests. Raises ``ConfigurationError`` where
    there is a ceiling and one of ``models`` has no price.
    """

    def __init__(
        self,
        client: Redis,
        clock: Clock,
        *,
        models: tuple[str, ...] = (),
        prices: Mapping[str, TokenPrice],
        requests_per_minute: int,
        tokens_per_minute: int,
        rate_limits: Mapping[str, RateLimit] | None = None,
        daily_usd: float,
        requests_per_call: int,
        lease_s: float,
        time_zone: str,
        batch_share: float = 1.0,
        window_s: float = 60.0,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        unpriced = [model for model in models if model not in prices]
        if daily_usd and unpriced:
            raise ConfigurationError(f"LLM_DAILY_USD needs the price of {', '.join(unpriced)} in LLM_PRICES")
        self._clock = clock
        self._prices = prices
        self._limits = (requests_per_minute, tokens_per_minute)
        self._rate_limits = rate_limits or {}
        self._daily_usd = daily_usd
        self._batch_share = batch_share
        self._requests_per_call = requests_per_call
        self._lease_ms, self._window_ms = round(lease_s * 1000), round(window_s * 1000)
        self._zone = ZoneInfo(time_zone)
        self._now_ms = now_ms
        self._reserve = RedisScript(client, "day_spend", "budget_reserve")
        self._settle = RedisScript(client, "day_spend", "budget_settle")

    async def reserve(
        self, model: str, token: str, *, prompt_tokens: int, completion_tokens: int, patience_s: float
    ) -> Reservation:
        """Room for a call whose requests use so much each at the most, waited for up to ``patience_s``.

        Raises ``LanguageModelFailed`` (``over_budget``, ``over_spend``) and ``DependencyUnavailable``.
        """
        # Where there is a ceiling every model has its price.
        cost_usd = self.cost_usd(model, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens) or 0.0
        max_tokens = self._requests_per_call * (prompt_tokens + completion_tokens)
        ask = _Ask(model, token, max_tokens, cost_usd)
        began_s, batch_key = self._clock.monotonic_s(), None
        if current_lane() is Lane.BATCH and self._batch_share < 1:
            batch_key = await self._room(ask, self._batch_scope(), patience_s, began_s)
        try:
            key = await self._room(ask, self._scope(), patience_s, began_s)
        except (LanguageModelFailed, DependencyUnavailable, asyncio.CancelledError):
            if batch_key is not None:
                await self._give_back(self._batch_scope(), model, batch_key)
            raise
        waited_s = self._clock.monotonic_s() - began_s
        return Reservation(model=model, key=key, batch_key=batch_key, waited_s=waited_s)

    async def _room(self, ask: "_Ask", scope: "_Scope", patience_s: float, began_s: float) -> str:
        """The name of a reservation in ``scope``, once there is room for it."""
        poll_s = _FIRST_POLL_S
        while True:
            try:
                key, wait_s = await self._asked(ask, scope)
            except asyncio.CancelledError:
                # Redis may have granted it already, its answer still on the way.
                await self._withdraw(ask, scope)
                raise
            if key is not None:
                return key
            left_s = patience_s - (self._clock.monotonic_s() - began_s)
            if left_s <= 0 or wait_s > left_s:
                raise LanguageModelFailed("over_budget", f"no room within {patience_s:.3g} s")
            # Calls under way end sooner than they must and make room; not all who wait should look at once.
            await asyncio.sleep(min(left_s, max(wait_s, poll_s * random.uniform(0.5, 1))))
            poll_s = min(2 * poll_s, _LONGEST_POLL_S)

    async def _asked(self, ask: "_Ask", scope: "_Scope") -> tuple[str | None, float]:
        """The name of the reservation, or None and how long there is no room for certain, in seconds."""
        day = self._day()
        daily_usd = self._daily_usd * scope.share
        reply = await self._reserve(
            [*scope.windows(ask.model), *_day_keys(day, scope)],
            [
                *(ask.token, *self._claim(ask, scope)),
                *(*self._limits_in(scope, ask.model), nano_usd(daily_usd)),
                *(self._window_ms, _N_TICKS, self._lease_ms),
                *(int(day.timestamp()), int((day + timedelta(days=1)).timestamp()), self._now()),
            ],
        )
        said, *rest = cast("list[bytes]", reply)
        if said == b"over_spend":
            raise LanguageModelFailed("over_spend", f"{daily_usd:g} USD a day are spent{scope.by}")
        return (rest[0].decode(), 0.0) if said == b"ok" else (None, int(rest[0]) / 1000)

    def _claim(self, ask: "_Ask", scope: "_Scope") -> tuple[int, int, int]:
        """Requests, tokens and nano-USD that are reserved."""
        requests_limit, tokens_limit = self._limits_in(scope, ask.model)
        n_requests = min(self._requests_per_call, requests_limit or self._requests_per_call)
        tokens = min(ask.max_tokens, tokens_limit or ask.max_tokens)
        return n_requests, tokens, nano_usd(ask.cost_usd)

    async def _withdraw(self, ask: "_Ask", scope: "_Scope") -> None:
        claimed = ":".join(map(str, self._claim(ask, scope)))
        for day_key in _day_keys(self._day(), scope):
            await self._give_back(scope, ask.model, f"{claimed}:{day_key}|{ask.token}")

    async def _give_back(self, scope: "_Scope", model: str, key: str) -> None:
        """Of a call that was not made after all; what cannot be given back counts as used for a window."""
        with suppress(DependencyUnavailable):
            await self._settled(scope, model, key, n_requests=0, tokens=0, cost_usd=0.0)

    async def settle(self, reservation: Reservation, *, n_requests: int, tokens: int, cost_usd: float) -> float:
        """Put what was used in the place of what was reserved; the spend of the day in USD.

        Raises ``DependencyUnavailable``: the reservation then counts as used.
        """
        model, batch_key = reservation.model, reservation.batch_key
        if batch_key is not None:
            await self._settled(
                self._batch_scope(), model, batch_key, n_requests=n_requests, tokens=tokens, cost_usd=cost_usd
            )
        return await self._settled(
            self._scope(), model, reservation.key, n_requests=n_requests, tokens=tokens, cost_usd=cost_usd
        )

    async def _settled(
        self, scope: "_Scope", model: str, key: str, *, n_requests: int, tokens: int, cost_usd: float
    ) -> float:
        """The spend of the day in ``scope``, in USD."""
        spend = await self._settle(
            scope.windows(model),
            [key, n_requests, tokens, nano_usd(cost_usd), self._window_ms, _N_TICKS, self._now()],
        )
        return usd_of(int(cast("bytes", spend)))

    def _scope(self) -> "_Scope":
        return _Scope(share=1.0, infix="", by="")

    def _batch_scope(self) -> "_Scope":
        return _Scope(share=self._batch_share, infix=BATCH_INFIX, by=" by the batch")

    def cost_usd(
        self, model: str, *, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0
    ) -> float | None:
        """By the table of prices; None for a model that is not in it."""
        price = self._prices.get(model)
        if price is None:
            return None
        return price.cost_usd(
            prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cached_tokens=cached_tokens
        )

    def _limits_in(self, scope: "_Scope", model: str) -> tuple[int, int]:
        """Requests and tokens a minute; 0 is no limit."""
        own = self._rate_limits.get(model, RateLimit())
        requests = self._limits[0] if own.requests_per_minute is None else own.requests_per_minute
        tokens = self._limits[1] if own.tokens_per_minute is None else own.tokens_per_minute
        return _part(requests, scope.share), _part(tokens, scope.share)

    def _day(self) -> datetime:
        """The beginning of the day by our clock; Redis knows whether it is the day before or after by its own."""
        return self._clock.now().astimezone(self._zone).replace(hour=0, minute=0, second=0, microsecond=0)

    def _now(self) -> str:
        return "" if self._now_ms is None else str(self._now_ms())


@dataclass(frozen=True, slots=True)
class _Ask:
    """What a call may use at the most: the tokens of all its requests, and the cost of one."""

    model: str
    token: str
    max_tokens: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class _Scope:
    """Whose calls are counted together, and their share of the limits."""

    share: float
    infix: str
    by: str

    def windows(self, model: str) -> list[str]:
        """The keys of what was settled, and of what is open."""
        return [WINDOW_PREFIX + self.infix + model, OPEN_PREFIX + self.infix + model]


def _part(limit: int, share: float) -> int:
    """``share`` of ``limit``, at least one; 0 stays no limit."""
    return max(1, int(limit * share)) if limit else 0


def _day_keys(day: datetime, scope: _Scope) -> list[str]:
    """The spend of the day before ``day``, of it and of the day after."""
    return [spend_key(day + timedelta(days=days), scope.infix) for days in (-1, 0, 1)]


def spend_key(day: datetime, infix: str = "") -> str:
    """Redis' name of what is spent on ``day``, in nano-USD."""
    return f"{SPEND_PREFIX}{infix}{day:%Y-%m-%d}"


async def spend_today_usd(client: Redis, clock: Clock, time_zone: str) -> float:
    """What all workers spent on this day of ``time_zone``, in USD. Raises ``DependencyUnavailable``."""
    with redis_errors():
        spent = await client.get(spend_key(clock.now().astimezone(ZoneInfo(time_zone))))
    return usd_of(int(spent or 0))


def nano_usd(amount_usd: float) -> int:
    """``amount_usd`` in the unit of Redis, where sums are of integers."""
    return round(amount_usd * _NANO_PER_USD)


def usd_of(amount_nano_usd: int) -> float:
    """The other way round."""
    return amount_nano_usd / _NANO_PER_USD
