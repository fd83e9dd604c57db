"""Calls of somebody else's API: at the rate that was agreed, waiting as told, and again after what may pass."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from core.errors import DependencyUnavailable
from core.ports.clock import Clock

T = TypeVar("T")

_MAX_TRIES = 5
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 120.0


class NotNow(Exception):
    """A call failed that may succeed later; ``wait_s``: what the server asked for. The sentence holds no secret."""

    def __init__(self, problem: str, wait_s: float | None = None) -> None:
        super().__init__(problem)
        self.wait_s = wait_s


class PacedCalls:
    """Begins at most ``per_s`` calls a second, one after the other."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        *,
        per_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._name, self._clock, self._gap_s, self._sleep = name, clock, 1 / per_s, sleep
        self._free_at_s = clock.monotonic_s()

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What ``ask`` answers, which is asked again where it raises ``NotNow``.

        Raises ``DependencyUnavailable`` after the last try, and where the server asks for a wait that nobody sits out.
        """
        for n_tries in range(1, _MAX_TRIES + 1):
            await self._turn()
            try:
                return await ask()
            except NotNow as error:
                wait_s = _FIRST_WAIT_S * 2 ** (n_tries - 1) if error.wait_s is None else error.wait_s
                if wait_s > _LONGEST_WAIT_S:
                    raise self._gone(f"{error}; it asks to be left alone for {wait_s:,.0f} s") from None
                if n_tries == _MAX_TRIES:
                    raise self._gone(f"{error}; that was try {n_tries}") from None
                await self._sleep(wait_s)
        raise AssertionError("unreachable")

    async def _turn(self) -> None:
        if (early_s := self._free_at_s - self._clock.monotonic_s()) > 0:
            await self._sleep(early_s)
        self._free_at_s = self._clock.monotonic_s() + self._gap_s

    def _gone(self, problem: str) -> DependencyUnavailable:
        return DependencyUnavailable(self._name, f"{problem}. What was read is kept: run it again to go on")
