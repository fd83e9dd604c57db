"""Searches of many jobs at once: in the event loop where they are short, else in one thread, many at a time."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from core.ports import Floats
from services.vector_scan import ExactScan, Found, VectorScan

# As long as the event loop should wait; below it a thread costs more than it gives.
_MAX_IN_LOOP_US = 1000.0
# Two cores answer batches of 32 queries at four times the rate of single ones; larger ones only keep others waiting.
_MAX_BATCH = 32
# So that jobs that leave different numbers of items out can share a batch.
_BESIDES_ROUNDED_TO = 64


@dataclass(slots=True)
class _Search:
    units: Floats
    n: int
    n_besides: int
    found: asyncio.Future[list[Found]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class QueuedScan:
    """A ``VectorScan`` for the tasks of one event loop.

    What a search finds does not depend on the others that it is batched with.
    """

    def __init__(self, scan: VectorScan) -> None:
        self._scan, self._cost_us = scan, scan.cost_us
        self._waiting: deque[_Search] = deque()
        self._thread: asyncio.Task[None] | None = None

    async def search(self, units: Floats, n: int, n_besides: int = 0) -> list[Found]:
        """As ``VectorScan.search``, or some more ``n_besides``."""
        n_besides = -(-n_besides // _BESIDES_ROUNDED_TO) * _BESIDES_ROUNDED_TO
        if self._cost_us * len(units) <= _MAX_IN_LOOP_US:
            return self._scan.search(units, n, n_besides)
        waiting = _Search(units, n, n_besides)
        self._waiting.append(waiting)
        if self._thread is None or self._thread.done():
            self._thread = asyncio.create_task(self._work())
        return await waiting.found

    async def _work(self) -> None:
        """Search until nobody waits."""
        while batch := self._next_batch():
            try:
                units, first = np.concatenate([search.units for search in batch]), batch[0]
                found = await asyncio.to_thread(self._scan.search, units, first.n, first.n_besides)
            except Exception as error:  # noqa: BLE001 - each of those that wait is told, and nobody waits for ever
                _tell(batch, error)
                continue
            for search in batch:
                mine, found = found[: len(search.units)], found[len(search.units) :]
                if not search.found.done():
                    search.found.set_result(mine)
                    # Jobs go on one at a time: all at once they would hold the loop up for all their rankings.
                    await asyncio.sleep(0)

    def _next_batch(self) -> list[_Search]:
        """The search that waits longest, and others like it."""
        waiting = [search for search in self._waiting if not search.found.done()]
        if not waiting:
            self._waiting.clear()
            return []
        batch, size = [waiting[0]], len(waiting[0].units)
        # One product of matrices sums in another order than several: an exact scan's ties would depend on the others.
        for search in waiting[1:] if not isinstance(self._scan, ExactScan) else ():
            if (search.n, search.n_besides) == (batch[0].n, batch[0].n_besides) and size + len(
                search.units
            ) <= _MAX_BATCH:
                batch.append(search)
                size += len(search.units)
        taken = set(map(id, batch))
        self._waiting = deque(search for search in waiting if id(search) not in taken)
        return batch


def _tell(batch: list[_Search], error: Exception) -> None:
    for search in batch:
        if not search.found.done():
            search.found.set_exception(error)
