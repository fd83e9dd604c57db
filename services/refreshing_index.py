"""What keeps the index up to date with the store."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from core.errors import DependencyUnavailable, SongsAIError
from core.ports import Clock, EmbeddingStore
from models.log_event import LogEvent
from services.index_snapshot import SnapshotDirectory
from services.item_index import InMemoryItemIndex
from services.vector_scan import build_scan

_log = structlog.get_logger()


class IndexObserver(Protocol):
    """Is told which index is in force."""

    def index_loaded(self, *, version: str, embedder_name: str, n_items: int, recall: float) -> None:
        """Another index is in force from now on; ``recall`` is its own, at 200, on a sample."""


class RefreshingIndex:
    """An ``IndexProvider`` that polls the store and swaps the index when it changed; jobs keep theirs.

    With ``snapshots`` one process of a host builds an index, and all map it. ``before_load`` runs at
    the first refresh, and where the store holds something else than the index, before that is loaded: new items get
    their vectors there.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        embedder_name: str,
        *,
        refresh_s: float,
        clock: Clock,
        observer: IndexObserver,
        snapshots: SnapshotDirectory | None = None,
        before_load: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._before_load = before_load
        self._is_prepared = False
        self._embedder_name = embedder_name
        self._refresh_s = refresh_s
        self._clock = clock
        self._observer = observer
        self._index: InMemoryItemIndex | None = None
        self._checked_at_s: float | None = None

    def current(self) -> InMemoryItemIndex:
        """The newest complete snapshot; raises ``DependencyUnavailable`` before the first one is loaded."""
        if self._index is None:
            raise DependencyUnavailable("index", "not loaded yet")
        return self._index

    @property
    def age_s(self) -> float | None:
        """Seconds since the index was last known to hold what the store holds; None before the first load."""
        return None if self._checked_at_s is None else self._clock.monotonic_s() - self._checked_at_s

    async def load(self) -> None:
        """Load the index, whatever is there already. Raises what the store raises, and then changes nothing."""
        began_at_s = self._clock.monotonic_s()
        index = await (self._build() if self._snapshots is None else self._share(self._snapshots))
        self._index, self._checked_at_s = index, began_at_s
        self._observer.index_loaded(
            version=index.version, embedder_name=self._embedder_name, n_items=len(index), recall=index.recall
        )
        _log.info(
            LogEvent.INDEX_LOADED,
            version=index.version,
            embedder=self._embedder_name,
            n_items=len(index),
            kind=index.kind,
            recall=round(index.recall, 4),
            seconds=round(self._clock.monotonic_s() - began_at_s, 3),
        )

    async def _build(self) -> InMemoryItemIndex:
        rows = await self._store.load(self._embedder_name)
        # Off the event loop: seconds for a million items, while jobs run.
        return await asyncio.to_thread(InMemoryItemIndex, rows, self._embedder_name)

    async def _share(self, snapshots: SnapshotDirectory) -> InMemoryItemIndex:
        """The index of the snapshot that is there, or that this process makes; its own where there can be no file."""
        version = await self._store.version(self._embedder_name)
        try:
            async with _alone(snapshots):
                found = await asyncio.to_thread(snapshots.read, version)
                if found is None:
                    rows = await self._store.load(self._embedder_name)
                    scan = await asyncio.to_thread(build_scan, rows.vectors)
                    found = await asyncio.to_thread(snapshots.write, rows, scan)
        except OSError as error:
            _log.warning(LogEvent.INDEX_SNAPSHOT_FAILED, error=str(error))
            return await self._build()
        return await asyncio.to_thread(InMemoryItemIndex, found.rows, self._embedder_name, found.scan)

    async def refresh(self) -> None:
        """Load the index if the store holds something else by now. Raises what the store and ``before_load`` raise."""
        began_at_s = self._clock.monotonic_s()
        changed = await self._has_changed()
        if self._before_load and (changed or not self._is_prepared):
            await self._before_load()
            self._is_prepared, changed = True, await self._has_changed()
        if changed:
            await self.load()
        else:
            self._checked_at_s = began_at_s

    async def _has_changed(self) -> bool:
        return self._index is None or await self._store.version(self._embedder_name) != self._index.version

    async def run(self) -> None:
        """Refresh every ``refresh_s`` seconds until cancelled; while the store is away the index stays as it is."""
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.refresh()
            except SongsAIError as error:
                _log.warning(LogEvent.INDEX_REFRESH_FAILED, error=str(error), age_s=self.age_s)


@asynccontextmanager
async def _alone(snapshots: SnapshotDirectory) -> AsyncIterator[None]:
    """``snapshots.alone()``, waited for off the event loop."""
    alone = snapshots.alone()
    entering = asyncio.create_task(asyncio.to_thread(alone.__enter__))
    try:
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        # The thread cannot be called off: what it will hold is let go as soon as it has it.
        entering.add_done_callback(
            lambda task: task.cancelled() or task.exception() or alone.__exit__(None, None, None)
        )
        raise
    try:
        yield
    finally:
        alone.__exit__(None, None, None)
