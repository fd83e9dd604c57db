"""The ranked list for a member who has nothing else yet, while the LLM is asked."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from core.errors import DependencyUnavailable
from core.ports.clock import Clock
from core.ports.results import ProvisionalDocuments, ProvisionalResults
from models.job import Job
from models.log_event import LogEvent
from workers.observer import WorkerObserver

log = structlog.get_logger()


class ProvisionalWriter:
    """Shows provisional documents where they are of use.

    They are a courtesy: where they are not taken within ``patience_s`` this is logged and counted, and the job goes on.
    """

    def __init__(
        self, results: ProvisionalResults, *, clock: Clock, observer: WorkerObserver, patience_s: float = 1.0
    ) -> None:
        self._results = results
        self._clock = clock
        self._observer = observer
        self._patience_s = patience_s

    async def offer(
        self, job: Job, arrived_s: float, token: str, make: Callable[[], Awaitable[ProvisionalDocuments]]
    ) -> None:
        """Show what ``make`` makes, asked only where it is wanted, of a job that runs under ``token``.

        ``arrived_s`` is when its delivery came, by the clock's ``monotonic_s``.
        """
        try:
            async with asyncio.timeout(self._patience_s):
                outcome = await self._shown(job, token, make)
        except (DependencyUnavailable, TimeoutError) as error:
            log.warning(LogEvent.PROVISIONAL_NOT_SHOWN, error=str(error) or f"not taken within {self._patience_s:g} s")
            outcome = "failed"
        self._observer.provisional_result(outcome=outcome, seconds=self._clock.monotonic_s() - arrived_s)

    async def _shown(self, job: Job, token: str, make: Callable[[], Awaitable[ProvisionalDocuments]]) -> str:
        is_shown = await self._results.wants_provisional(job, token=token) and await self._results.show_provisional(
            job, await make(), token=token
        )
        return "written" if is_shown else "skipped"
