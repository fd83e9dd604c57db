"""Search by name over a catalogue that changes: the names are read at the first search, and followed from then on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from core.errors import DependencyUnavailable, SongsAIError
from core.ports.catalogue import ChangingCatalogue, ItemsMark, SearchHit
from models.log_event import LogEvent
from services.index_watch import refresh_for_ever
from services.search_index import NameIndex

_log = structlog.get_logger()

_CHUNK = 1000


class FollowingItemSearch:
    """An ``ItemSearch`` that reads all names once somebody searches, and what has changed every ``refresh_s``.

    So a process that nobody asks pays nothing. A search waits up to ``patience_s`` for the names; in large catalogues
    the first ones fail, and say so. What is read counts at once for popularity too; that of an item that is not
    otherwise changed stays as it was read.
    """

    def __init__(
        self,
        catalogue: ChangingCatalogue,
        *,
        refresh_s: float,
        spellings: Sequence[str] = (),
        patience_s: float = 5.0,
        new_index: Callable[[Sequence[str]], NameIndex] = NameIndex,
    ) -> None:
        self._catalogue = catalogue
        self._refresh_s = refresh_s
        self._spellings = spellings
        self._patience_s = patience_s
        self._new_index = new_index
        self._index: NameIndex | None = None
        self._mark: ItemsMark | None = None
        self._loading: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None

    async def search(self, text: str, n: int) -> Sequence[SearchHit]:
        """See ``ItemSearch``."""
        index = self._index or await self._loaded()
        return await asyncio.to_thread(index.search, text, n)

    def begin(self) -> None:
        """Read the names now, in the background, before anybody searches."""
        if self._loading is None and self._index is None:
            self._loading = asyncio.create_task(self._load(), name="search-load")
            self._loading.add_done_callback(self._note_end)

    async def refresh(self) -> None:
        """Follow what has changed; nothing before the names were read. Raises what the catalogue raises."""
        if self._index is None or self._mark is None:
            return
        changes = await self._catalogue.changes(self._mark)
        if len(changes.changed) or len(changes.gone):
            for start in range(0, len(changes.changed), _CHUNK):
                items = await self._catalogue.complete_items(changes.changed[start : start + _CHUNK].tolist())
                await asyncio.to_thread(self._index.put, items)
            await asyncio.to_thread(self._index.remove, changes.gone.tolist())
            await asyncio.to_thread(self._index.commit)
        self._mark = changes.mark

    @asynccontextmanager
    async def following(self) -> AsyncIterator["FollowingItemSearch"]:
        """Follow the catalogue while the block runs."""
        self._following = asyncio.create_task(refresh_for_ever(self.refresh, self._refresh_s, _tell), name="search")
        try:
            yield self
        finally:
            tasks = [task for task in (self._following, self._loading) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _loaded(self) -> NameIndex:
        self.begin()
        loading = self._loading
        if loading is not None:
            done, _ = await asyncio.wait({loading}, timeout=self._patience_s)
            if done and not loading.cancelled() and (error := loading.exception()) is not None:
                raise error
        if self._index is None:
            raise DependencyUnavailable("search", "the names are still being read")
        return self._index

    async def _load(self) -> None:
        began_s = asyncio.get_running_loop().time()
        index = self._new_index(self._spellings)
        mark = await self._catalogue.mark()  # before the names: what changes meanwhile is read again
        async for items in self._catalogue.stream(_CHUNK):
            await asyncio.to_thread(index.put, items)
        await asyncio.to_thread(index.commit)
        self._index, self._mark = index, mark
        seconds = asyncio.get_running_loop().time() - began_s
        _log.info(LogEvent.SEARCH_LOADED, n_items=len(index), seconds=round(seconds, 3))

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """The next search tries again where this one could not read all."""
        self._loading = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _tell(error)


def _tell(error: BaseException | SongsAIError) -> None:
    _log.warning(LogEvent.SEARCH_REFRESH_FAILED, error=str(error))
