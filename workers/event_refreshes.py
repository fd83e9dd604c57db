"""Refreshes that events asked for, published when they fall due: one job for each burst."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from core.errors import ConfigurationError, DependencyUnavailable
from core.feedback import DueRefresh, RefreshRequests
from core.lanes import Lane, in_lane
from core.ports.clock import Clock
from core.ports.messages import JobPublisher
from core.ports.results import ResultCache
from core.submission import submit
from models.log_event import LogEvent

log = structlog.get_logger()

AT_ONCE = 64
LONGEST_POLL_S = 1.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TasteWatch(Protocol):
    """Compares tastes."""

    async def has_moved(self, member_id: int) -> bool:
        """Whether the member's taste is another than the one that their results were made from.

        Raises ``DependencyUnavailable``.
        """


class RefreshObserver(Protocol):
    """Sees refreshes that fell due."""

    def requested_refresh(self, *, outcome: str) -> None:
        """One was ``published``, ``not_needed`` or ``failed``, and then is due again unless by a bug."""


class RequestedRefreshes:
    """Takes refreshes that are due, whichever worker was asked for them, and publishes their jobs.

    A worker that dies between taking one and publishing its job leaves it to another, and one that dies right after
    leaves a job that is published twice, by one id.
    """

    def __init__(
        self,
        requests: RefreshRequests,
        taste: TasteWatch,
        *,
        results: ResultCache,
        publisher: JobPublisher,
        clock: Clock,
        observer: RefreshObserver,
        poll_s: float,
    ) -> None:
        self._requests = requests
        self._taste = taste
        self._results = results
        self._publisher = publisher
        self._clock = clock
        self._observer = observer
        self._poll_s = min(poll_s, LONGEST_POLL_S)

    async def run(self) -> None:
        """Publish what falls due until cancelled."""
        with in_lane(Lane.BATCH):
            while True:
                try:
                    n = await self.publish_due()
                except DependencyUnavailable as error:
                    log.warning(LogEvent.REFRESH_NOT_PUBLISHED, error=str(error))
                    n = 0
                if n < AT_ONCE:
                    await asyncio.sleep(self._poll_s)

    async def publish_due(self) -> int:
        """Publish what is due now; how many there were. Raises ``DependencyUnavailable`` where nobody can say."""
        # Before any is taken: a member who is forgotten from here on was forgotten after their job was asked for.
        asked_ns = (self._clock.now() - _EPOCH) // timedelta(microseconds=1) * 1000
        due = await self._requests.take(AT_ONCE)
        for refresh in due:
            try:
                outcome = await self._outcome(refresh, asked_ns)
                await self._requests.done(refresh)
            except (DependencyUnavailable, ConfigurationError) as error:
                # It falls due again: whoever took it is taken for dead then.
                log.warning(LogEvent.REFRESH_NOT_PUBLISHED, error=str(error))
                outcome = "failed"
            except Exception:  # the entry point of every requested refresh: a bug must neither end the worker nor loop
                log.exception(LogEvent.UNEXPECTED_ERROR_CAUGHT)
                await self._requests.done(refresh)
                outcome = "failed"
            self._observer.requested_refresh(outcome=outcome)
        return len(due)

    async def _outcome(self, refresh: DueRefresh, asked_ns: int) -> str:
        if not refresh.is_sure and not await self._taste.has_moved(refresh.member_id):
            return "not_needed"
        job = refresh.job(requested_at_ns=asked_ns)
        await submit(job, results=self._results, publisher=self._publisher, comes_again=True)
        return "published"
