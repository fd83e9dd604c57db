"""What is published.

The docstrings are the contract that every adapter is tested by. Where a method names no other error, the only one that
it raises is ``DependencyUnavailable``.
"""

from typing import Protocol

from models.event import Event
from models.job import Job


class JobPublisher(Protocol):
    """Puts jobs of ours on the queue."""

    async def publish_job(self, job: Job, *, batch: bool = False) -> None:
        """Return once the broker has confirmed it; raises ``PublishRefused``."""


class EventPublisher(Protocol):
    """Puts events of ours on their queue."""

    async def publish_event(self, event: Event) -> None:
        """Return once the broker has confirmed it; raises ``PublishRefused``."""
