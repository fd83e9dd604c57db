"""Looks every few seconds at how many messages wait: to be taken, for a retry, and as letters for people."""

import asyncio
from typing import Protocol

import structlog

from core.errors import DependencyUnavailable
from models.log_event import LogEvent
from workers.broker import Broker
from workers.queue_ages import QueueAges

log = structlog.get_logger()

INTERVAL_S = 10.0


class QueueObserver(Protocol):
    """Is told how long the queues are."""

    def messages_waiting(self, *, route: str, n: int, oldest_s: float | None) -> None:
        """So many messages of ``route`` wait to be taken, and none for longer than ``oldest_s`` (None: not known)."""

    def messages_unseen(self) -> None:
        """The queues that are consumed could not be looked at: what was told of them is of the past."""

    def jobs_waiting(self, *, route: str, delay: str, n: int) -> None:
        """So many jobs of ``route`` wait in the retry queue of ``delay``, such as ``5s``."""

    def dead_letters(self, *, kind: str, n: int) -> None:
        """So many messages are in the dead-letter queue of ``kind``, ``jobs`` or ``events``."""


async def watch_queues(
    broker: Broker, observer: QueueObserver, ages: QueueAges, *, interval_s: float = INTERVAL_S
) -> None:
    """Look until cancelled.

    While the broker is away nothing is told of what waits to be taken: figures that stand still would pass for those
    of now, and the least of all workers' ages is the one to go by. Of retries and of dead letters what was seen last
    stands.
    """
    while True:
        try:
            await look_at_queues(broker, observer, ages)
        except DependencyUnavailable as error:
            observer.messages_unseen()
            log.debug(LogEvent.DEPENDENCY_CHECK_FAILED, error=str(error))
        await asyncio.sleep(interval_s)


async def look_at_queues(broker: Broker, observer: QueueObserver, ages: QueueAges) -> None:
    """Look once. A queue that is not there holds nothing."""
    main, batch, events = broker.topology.main, broker.topology.batch, broker.topology.events
    steps = [(route.name, step) for route in (main, batch) for step in route.retries]
    dead = {"jobs": main.dead_letter_queue, "events": events.dead_letter_queue}
    intake = (main, batch, events)
    queues = [*(route.queue for route in intake), *(step.queue for _, step in steps), *dead.values()]
    began_s = ages.look_begins()
    counts = await broker.waiting(queues)
    for each in intake:
        n = counts.get(each.queue, 0)
        observer.messages_waiting(route=each.name, n=n, oldest_s=ages.oldest_s(each.name, n, began_s=began_s))
    for route, step in steps:
        observer.jobs_waiting(route=route, delay=step.label, n=counts.get(step.queue, 0))
    for kind, queue in dead.items():
        observer.dead_letters(kind=kind, n=counts.get(queue, 0))
