"""Turns of the tasks that share an event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar

from core.lanes import Lane, LaneSlots, current_lane

LONGEST_REST_S = 0.25


class Turns:
    """Lets one task at a time go on, who asked first first, and the event loop round between two of them.

    Tasks that become ready in one round of the loop run back to back, and everything else waits for the last of them:
    heartbeats, timers, answers from the network. Whoever asks for a turn before each piece of work of a few
    milliseconds lets all others wait for one such piece at the most.

    Jobs of the batch lane have the turns between: while an interactive job is ``at_work`` they rest, for between its
    turns it waits for the database, and would come back to find the loop taken. One of them gets its turn after
    ``longest_rest_s`` all the same, so that they never starve. Nor are two of them ``at_work`` at once: what they do
    between their turns would keep an interactive job waiting for each of them.
    """

    def __init__(self, *, longest_rest_s: float = LONGEST_REST_S) -> None:
        self._one = LaneSlots(1, n_batch=1)
        self._longest_rest_s = longest_rest_s
        self._n_at_work = 0
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()
        self._resting = asyncio.Lock()
        self._batch = asyncio.Semaphore(1)

    async def turn(self) -> None:
        """Returns when it is the caller's turn, which lasts until it waits for anything."""
        if current_lane() is Lane.BATCH:
            await self._rest()
        async with self._one.slot():
            await asyncio.sleep(0)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Work in pieces inside of the block, with short waits between; for what takes its time see ``away``."""
        work = _Work(current_lane())
        token = _work.set(work)
        try:
            await self._begin(work)
            yield
        finally:
            self._end(work)
            _work.reset(token)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Wait for what takes its time inside of the block: a model's answer, another job with the same question."""
        work = _work.get()
        if work is None:
            yield
            return
        self._end(work)
        yield
        await self._begin(work)

    async def _begin(self, work: "_Work") -> None:
        if work.lane is Lane.BATCH:
            await self._batch.acquire()
        else:
            self._n_at_work += 1
            self._is_quiet.clear()
        work.is_under_way = True

    def _end(self, work: "_Work") -> None:
        if not work.is_under_way:
            return
        work.is_under_way = False
        if work.lane is Lane.BATCH:
            self._batch.release()
            return
        self._n_at_work -= 1
        if not self._n_at_work:
            self._is_quiet.set()

    async def _rest(self) -> None:
        """One at a time: after the longest rest one batch job goes on, not all of them."""
        async with self._resting:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._longest_rest_s):
                    while not self._is_quiet.is_set():  # it may be over again by the time that this task goes on
                        await self._is_quiet.wait()


class _Work:
    """A job's stay among those at work."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.is_under_way = False


_work: ContextVar[_Work | None] = ContextVar("work", default=None)
