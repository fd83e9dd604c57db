"""Items that are no longer in the catalogue, on their way out of what is cached."""

import asyncio
from collections.abc import Collection
from typing import Protocol

import structlog

from core.errors import DependencyUnavailable
from models.log_event import LogEvent

log = structlog.get_logger()

PAUSE_S = 5.0


class AllShelves(Protocol):
    """What is cached of all members."""

    async def withdraw_from_all(self, item_ids: frozenset[int]) -> int | None:
        """Take items out of the results of all members; how many documents that changed.

        None where another worker is about to. Raises ``DependencyUnavailable``.
        """


class GoneItems:
    """Takes what is noted out of all results, one sweep at a time."""

    def __init__(self, shelves: AllShelves) -> None:
        self._shelves = shelves
        self._gone: set[int] = set()
        self._is_noted = asyncio.Event()

    def note(self, item_ids: Collection[int]) -> None:
        """These are gone."""
        self._gone.update(item_ids)
        self._is_noted.set()

    async def run(self) -> None:
        """Take them out until cancelled."""
        while True:
            await self._is_noted.wait()
            self._is_noted.clear()
            gone, self._gone = frozenset(self._gone), set()
            try:
                n = await self._shelves.withdraw_from_all(gone)
            except DependencyUnavailable as error:
                log.warning(LogEvent.DEPENDENCY_CHECK_FAILED, error=str(error))
                self.note(gone)
                await asyncio.sleep(PAUSE_S)
            else:
                if n is not None:
                    log.info(LogEvent.RESULTS_WITHDRAWN, n_items=len(gone), n_documents=n)
