"""Searches of many jobs at once: in the event loop where they are short, else in a thread, one after the other."""

import asyncio

from core.ports.arrays import Floats
from services.vector_scan import Found, VectorScan

# As long as the event loop should wait; below it a thread costs more than it gives.
_MAX_IN_LOOP_US = 1000.0


class QueuedScan:
    """A ``VectorScan`` for the tasks of one event loop.

    Those that wait are not searched for together: on one thread, 32 queries of a million codes took longer at once than
    one by one, and all their jobs would wait for the last and then go on at the same moment.
    """

    def __init__(self, scan: VectorScan) -> None:
        self._scan, self._cost_us = scan, scan.cost_us
        self._turn = asyncio.Lock()

    async def search(self, units: Floats, n: int, n_besides: int = 0) -> list[Found]:
        """As ``VectorScan.search``; who asked first is served first."""
        if self._cost_us * len(units) <= _MAX_IN_LOOP_US:
            return self._scan.search(units, n, n_besides)
        async with self._turn:
            return await asyncio.to_thread(self._scan.search, units, n, n_besides)
