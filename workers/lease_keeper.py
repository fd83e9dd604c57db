"""Keeps the leases of running jobs alive, all in one round trip."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from core.errors import DependencyUnavailable
from core.ports.results import ResultCache
from models.log_event import LogEvent

log = structlog.get_logger()


class LeaseKeeper:
    """Renews the leases that are held, thrice in the lifetime of one: a worker that dies lets go within ``lease_s``."""

    def __init__(self, results: ResultCache, *, lease_s: float) -> None:
        self._results = results
        self._interval_s = lease_s / 3
        self._tokens: dict[str, str] = {}

    @contextmanager
    def held(self, job_id: str, token: str) -> Iterator[None]:
        """The lease of ``job_id`` is renewed inside the block."""
        self._tokens[job_id] = token
        try:
            yield
        finally:
            if self._tokens.get(job_id) == token:
                del self._tokens[job_id]

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.renew()

    async def renew(self) -> None:
        """Renew all leases now; a failure is logged, and the next turn tries again."""
        if not self._tokens:
            return
        try:
            await self._results.renew(dict(self._tokens))
        except DependencyUnavailable as error:
            log.warning(LogEvent.LEASE_RENEWAL_FAILED, n_leases=len(self._tokens), error=str(error))
