"""Two lanes of jobs: those that somebody waits for, and those of the batch queue, which take what is left.

What a job runs in belongs to its task, and so to all that it calls: handing it through every signature between the
queue and the budget would make most of them speak of queues.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from enum import StrEnum

BATCH_TURN = 8
"""Where both lanes wait, every so manieth turn is the batch's: it never starves."""


class Lane(StrEnum):
    """Whether somebody waits for the job."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


_lane: ContextVar[Lane] = ContextVar("lane", default=Lane.INTERACTIVE)


def current_lane() -> Lane:
    """The lane of the job that the running task works for; interactive where nobody said."""
    return _lane.get()


@contextmanager
def in_lane(lane: Lane) -> Iterator[None]:
    """Work in ``lane`` inside of the block."""
    token = _lane.set(lane)
    try:
        yield
    finally:
        _lane.reset(token)


class LaneSlots:
    """A semaphore of ``n`` slots that lets interactive jobs go first.

    In each lane whoever came first is first. Batch jobs hold ``n_batch`` slots at the most, so that those who come
    later find one; where both lanes wait, every ``BATCH_TURN``-th slot that comes free is the batch's.
    """

    def __init__(self, n: int, *, n_batch: int) -> None:
        self._n_free = n
        self._n_free_of = {Lane.INTERACTIVE: n, Lane.BATCH: n_batch}
        self._waiting: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        self._n_passed = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one of the slots, of the current lane, inside of the block."""
        lane = current_lane()
        await self._acquire(lane)
        try:
            yield
        finally:
            self._release(lane)

    async def _acquire(self, lane: Lane) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[lane].append(turn)
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting[lane] = deque(each for each in self._waiting[lane] if each is not turn)
            else:
                self._release(lane)
            raise

    def _release(self, lane: Lane) -> None:
        self._n_free += 1
        self._n_free_of[lane] += 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._n_free and (lane := self._next()) is not None:
            turn = self._waiting[lane].popleft()
            if turn.cancelled():  # its task has not come to say so yet
                continue
            self._n_free -= 1
            self._n_free_of[lane] -= 1
            turn.set_result(None)

    def _next(self) -> Lane | None:
        """Whose turn it is among those that wait and may go."""
        interactive, batch = (bool(self._waiting[lane]) and self._n_free_of[lane] > 0 for lane in Lane)
        if not (interactive and batch):
            return Lane.INTERACTIVE if interactive else Lane.BATCH if batch else None
        self._n_passed = (self._n_passed + 1) % BATCH_TURN
        return Lane.INTERACTIVE if self._n_passed else Lane.BATCH
