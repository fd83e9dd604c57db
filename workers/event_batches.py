"""Events of many deliveries, taken in together: one statement and one script for hundreds of them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from core.errors import ConfigurationError, DependencyUnavailable
from core.ports.clock import Clock
from models.event import Event
from models.log_event import LogEvent

log = structlog.get_logger()

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0

TakeIn = Callable[[Sequence[Event]], Awaitable[frozenset[str]]]
"""Keeps events and acts on them, all or none; the ids of those that are too late. Sent twice, it does so once."""


class BatchObserver(Protocol):
    """Sees batches."""

    def event_batch(self, *, n: int, seconds: float) -> None:
        """So many events were taken in together, in so long."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    event: Event
    outcome: asyncio.Future[bool]


class EventBatches:
    """Gathers events while those before them are taken in: up to ``max_events``, and for ``max_wait_s`` at the most.

    Where a dependency is away the batch waits for it, and nothing that belongs to it is settled meanwhile: put back,
    the same events would come again and again, until a quorum queue gives them up.
    """

    def __init__(
        self, take_in: TakeIn, *, max_events: int, max_wait_s: float, clock: Clock, observer: BatchObserver
    ) -> None:
        self._take_in = take_in
        self._max_events = max_events
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._observer = observer
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()

    async def add(self, event: Event) -> bool:
        """Return once ``event`` is taken in: False where it is too late for its member.

        Raises what it alone is to blame for.
        """
        outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(_Waiting(event, outcome))
        return await outcome

    async def run(self) -> None:
        """Take in batches until cancelled."""
        while True:
            await self._settle(await self._next())

    async def _next(self) -> list[_Waiting]:
        batch = [await self._waiting.get()]
        try:
            async with asyncio.timeout(self._max_wait_s):
                while len(batch) < self._max_events:
                    batch.append(await self._waiting.get())
        except TimeoutError:
            pass
        return [each for each in batch if not each.outcome.done()]

    async def _settle(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        started_s = self._clock.monotonic_s()
        try:
            late = await self._patiently([each.event for each in batch])
        except Exception as error:  # noqa: BLE001 - what it is, whoever waits for the event decides
            await self._settle_parts(batch, error)
            return
        self._observer.event_batch(n=len(batch), seconds=self._clock.monotonic_s() - started_s)
        for each in batch:
            if not each.outcome.done():
                each.outcome.set_result(each.event.event_id not in late)

    async def _settle_parts(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Halve it until what is to blame stands alone: the others are kept."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._settle(batch[:middle])
            await self._settle(batch[middle:])
        elif not batch[0].outcome.done():
            batch[0].outcome.set_exception(error)

    async def _patiently(self, events: Sequence[Event]) -> frozenset[str]:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await self._take_in(events)
            except (DependencyUnavailable, ConfigurationError) as error:
                log.warning(LogEvent.EVENTS_WAITING, n_events=len(events), error=str(error), pause_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
