"""How the event loop is: how late, which is what a callback that hogs it costs all others, and of how many tasks."""

import asyncio
from typing import Protocol

from core.ports.clock import Clock


class LoopObserver(Protocol):
    """Is told how the loop is."""

    def loop_lag(self, seconds: float) -> None:
        """A sleep ended so much too late."""

    def loop_tasks(self, n: int) -> None:
        """So many tasks have not ended."""


async def watch_loop(observer: LoopObserver, *, clock: Clock, interval_s: float = 0.5) -> None:
    """Tell ``observer``, at every interval, how late a sleep ended and how many tasks there are; until cancelled."""
    while True:
        due_s = clock.monotonic_s() + interval_s
        await asyncio.sleep(interval_s)
        observer.loop_lag(max(0.0, clock.monotonic_s() - due_s))
        observer.loop_tasks(len(asyncio.all_tasks()))
