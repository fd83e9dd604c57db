"""Looks every few seconds at how many jobs wait for a retry, and how many letters for people."""

import asyncio
from typing import Protocol

import structlog

from core.errors import DependencyUnavailable
from models.log_event import LogEvent
from workers.broker import Broker

log = structlog.get_logger()

INTERVAL_S = 10.0


class QueueObserver(Protocol):
    """Is told how long the queues are."""

    def jobs_waiting(self, *, route: str, delay: str, n: int) -> None:
        """So many jobs of ``route`` wait in the retry queue of ``delay``, such as ``5s``."""

    def dead_letters(self, *, kind: str, n: int) -> None:
        """So many messages are in the dead-letter queue of ``kind``, ``jobs`` or ``events``."""


async def watch_queues(broker: Broker, observer: QueueObserver, *, interval_s: float = INTERVAL_S) -> None:
    """Look until cancelled; while the broker is away what was seen last stands."""
    while True:
        try:
            await look_at_queues(broker, observer)
        except DependencyUnavailable as error:
            log.debug(LogEvent.DEPENDENCY_CHECK_FAILED, error=str(error))
        await asyncio.sleep(interval_s)


async def look_at_queues(broker: Broker, observer: QueueObserver) -> None:
    """Look once. A queue that is not there holds nothing."""
    main, batch = broker.topology.main, broker.topology.batch
    steps = [(route.name, step) for route in (main, batch) for step in route.retries]
    dead = {"jobs": main.dead_letter_queue, "events": broker.topology.events.dead_letter_queue}
    counts = await broker.waiting([*(step.queue for _, step in steps), *dead.values()])
    for route, step in steps:
        observer.jobs_waiting(route=route, delay=step.label, n=counts.get(step.queue, 0))
    for kind, queue in dead.items():
        observer.dead_letters(kind=kind, n=counts.get(queue, 0))
