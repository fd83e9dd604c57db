"""How late the event loop is: what a callback that hogs it costs everything else."""

import asyncio
from collections.abc import Callable

from core.ports import Clock


async def watch_loop_lag(observe: Callable[[float], None], *, clock: Clock, interval_s: float = 0.5) -> None:
    """Tell ``observe``, at every interval, how many seconds later than asked a sleep ended; runs until cancelled."""
    while True:
        due_s = clock.monotonic_s() + interval_s
        await asyncio.sleep(interval_s)
        observe(max(0.0, clock.monotonic_s() - due_s))
