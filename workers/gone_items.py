"""Items that are no longer in the catalogue, on their way out of what is cached."""

import asyncio
from collections.abc import Collection
from typing import Protocol

import structlog

from core.errors import DependencyUnavailable
from models.log_event import LogEvent

log = structlog.get_logger()

PAUSE_S = 5.0
AGAIN_AFTER_S = 130.0
"""Longer than another worker keeps the same items to itself: it may have died of them half-way."""


class AllShelves(Protocol):
    """What is cached of all members."""

    async def withdraw_from_all(self, item_ids: frozenset[int]) -> int | None:
        """Take items out of the results of all members; how many documents that changed.

        None where another worker is about to. Raises ``DependencyUnavailable``.
        """


class GoneItems:
    """Takes what is noted out of all results, one sweep at a time; what is left to another worker, once more later."""

    def __init__(self, shelves: AllShelves, *, again_after_s: float = AGAIN_AFTER_S) -> None:
        self._shelves = shelves
        self._again_after_s = again_after_s
        self._gone: set[int] = set()
        self._again: list[frozenset[int]] = []
        self._is_noted = asyncio.Event()

    def note(self, item_ids: Collection[int]) -> None:
        """These are gone."""
        self._gone.update(item_ids)
        self._is_noted.set()

    def _note_again(self, item_ids: frozenset[int]) -> None:
        self._again.append(item_ids)
        self._is_noted.set()

    async def run(self) -> None:
        """Take them out until cancelled."""
        while True:
            await self._is_noted.wait()
            self._is_noted.clear()
            again, self._again = self._again, []
            gone, self._gone = frozenset(self._gone), set()
            try:
                if gone and not await self._swept(gone):
                    asyncio.get_running_loop().call_later(self._again_after_s, self._note_again, gone)
                gone = frozenset()
                while again:
                    await self._swept(again[-1])
                    again.pop()
            except DependencyUnavailable as error:
                log.warning(LogEvent.DEPENDENCY_CHECK_FAILED, error=str(error))
                self._again += again
                self.note(gone)
                await asyncio.sleep(PAUSE_S)

    async def _swept(self, item_ids: frozenset[int]) -> bool:
        n = await self._shelves.withdraw_from_all(item_ids)
        if n is not None:
            log.info(LogEvent.RESULTS_WITHDRAWN, n_items=len(item_ids), n_documents=n)
        return n is not None
