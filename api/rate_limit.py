"""How often one client may ask."""

from collections.abc import Sequence
from http import HTTPStatus
from math import ceil
from time import time

from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.responses import problem

_UNLIMITED = ("/health", "/metrics")
"""Probes and scrapes come at their own pace, and the process would be restarted for want of an answer."""


class RateLimit:
    """Answers 429 to whom asks more often than each of ``limits`` allows, such as ``600/minute; 30/second``.

    Clients are told apart by their address, in this process alone. Each answer says what is left of the limit that is
    nearest to its end, as draft-ietf-httpapi-ratelimit-headers-10 has it.
    """

    def __init__(self, app: ASGIApp, *, limits: str) -> None:
        self._app = app
        self._limits: Sequence[RateLimitItem] = parse_many(limits)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._policy = ", ".join(f"{_name(each)};q={each.amount};w={each.get_expiry()}" for each in self._limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or scope["path"].startswith(_UNLIMITED):
            await self._app(scope, receive, send)
            return
        client = scope["client"][0] if scope.get("client") else ""
        allowed = [await self._limiter.hit(each, client) for each in self._limits]
        left, seconds, name = min([await self._left(each, client) for each in self._limits])
        told = {"RateLimit-Policy": self._policy, "RateLimit": f"{name};r={left};t={seconds}"}
        if not all(allowed):
            detail = f"more requests than {self._policy} allow; try again in {seconds} seconds"
            response = problem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"Retry-After": str(seconds), **told})
            await response(scope, receive, send)
            return

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(told)
            await send(message)

        await self._app(scope, receive, tell)

    async def _left(self, limit: RateLimitItem, client: str) -> tuple[int, int, str]:
        """Requests that are left, and seconds until there are more."""
        stats = await self._limiter.get_window_stats(limit, client)
        return stats.remaining, max(1, ceil(stats.reset_time - time())), _name(limit)


def _name(limit: RateLimitItem) -> str:
    return f'"{limit.multiples}-{limit.GRANULARITY.name}"'
