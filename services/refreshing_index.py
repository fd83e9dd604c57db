"""What keeps the index up to date with the store.

A *base* is an index of everything at some time, which takes seconds to minutes to build, or is mapped from a file that
another process of the host wrote. What has changed since is read by itself at every refresh and laid over it. Once that
is much, the next base is made in the background, while the old one and what lies over it go on serving; then they are
swapped, and what changed meanwhile is laid over the new one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from core.errors import DependencyUnavailable, SongsAIError
from core.ports.clock import Clock
from core.ports.index import Embedder, EmbeddingStore, IndexChanges, IndexMark, IndexRows
from models.log_event import LogEvent
from services.index_snapshot import Snapshot, SnapshotDirectory
from services.index_watch import IndexObserver, StoreWatch, refresh_for_ever, tell_of
from services.item_index import InMemoryItemIndex
from services.overlaid_index import MeasuredIndex, OverlaidIndex, Overlay
from services.vector_scan import EXACT_BELOW, build_scan

# With so many items changed since, and this share of all, the next base is made.
_MIN_CHANGES, _CHANGED_SHARE = 1_000, 0.02
# So many times that are laid over the old one while the next is made.
_MAX_OVER = 5

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Base:
    """An index of everything at ``mark``, and what has changed since."""

    index: InMemoryItemIndex
    mark: IndexMark | None
    overlay: Overlay | None = None

    @property
    def read_to(self) -> IndexMark | None:
        return self.overlay.mark if self.overlay else self.mark

    @property
    def n_changes(self) -> int:
        return self.overlay.n_changes if self.overlay else 0

    def followed_by(self, changes: IndexChanges) -> "_Base":
        before = self.overlay or Overlay(changes.rows, changes.removed)
        return _Base(self.index, self.mark, before.followed_by(changes))

    async def in_force(self) -> MeasuredIndex:
        return await OverlaidIndex.over(self.index, self.overlay) if self.overlay else self.index


class RefreshingIndex:
    """An ``IndexProvider`` that polls the store and swaps the index when it changed; jobs keep theirs.

    With ``snapshot_directory`` one process of a host builds a base, and all map it. ``before_load`` runs at the first
    refresh, and where the store holds something else than the index, before that is loaded: new items get their vectors
    there. The embedder is asked for its name at every refresh, after ``before_look`` ran: with another everything is
    loaded.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        embedder: Embedder,
        *,
        refresh_s: float,
        clock: Clock,
        observer: IndexObserver,
        snapshot_directory: Path | None = None,
        before_load: Callable[[], Awaitable[object]] | None = None,
        before_look: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._snapshot_directory = snapshot_directory
        self._refresh_s = refresh_s
        self._clock = clock
        self._observer = observer
        self._base: _Base | None = None
        self._next_base: asyncio.Task[_Base] | None = None
        self._index: MeasuredIndex | None = None
        self._watch = StoreWatch(store, embedder, clock=clock, before_load=before_load, before_look=before_look)

    def current(self) -> MeasuredIndex:
        """The newest complete snapshot; raises ``DependencyUnavailable`` before the first one is loaded."""
        if self._index is None:
            raise DependencyUnavailable("index", "not loaded yet")
        return self._index

    @property
    def age_s(self) -> float | None:
        """Seconds since the index was last known to hold what the store holds; None before the first load."""
        return self._watch.age_s

    async def load(self) -> None:
        """Load the index, whatever is there already. Raises what the store raises, and then changes nothing."""
        began_at_s = self._clock.monotonic_s()
        await self._watch.begin()
        await self._put_in_force(await self._made(self._embedder.name), began_at_s, LogEvent.INDEX_LOADED)

    async def refresh(self) -> None:
        """Bring the index up to date with the store. Raises what the store and ``before_load`` raise."""
        began_at_s = self._clock.monotonic_s()
        changed = await self._watch.sees_a_change(self._index)
        if changed or (self._next_base and self._next_base.done()):
            await self._follow(began_at_s)
        else:
            self._watch.agreed(began_at_s)

    async def _follow(self, began_at_s: float) -> None:
        """Lay what has changed over the base; where that is too much, or much by now, make the next one."""
        name, base = self._embedder.name, self._newest_base()
        if base is None or base.index.embedder_name != name:
            await self.load()
            return
        bound = _bound(base.index)
        followed = await self._followed(base, _MAX_OVER * bound - base.n_changes)
        if followed is None and len(base.index) < EXACT_BELOW:
            # As fast as anything else.
            await self.load()
            return
        if followed is not None:
            await self._put_in_force(followed, began_at_s, LogEvent.INDEX_CHANGED)
        if self._next_base is None and (followed is None or followed.n_changes > bound):
            self._next_base = asyncio.create_task(self._made(name, in_background=True))

    def _newest_base(self) -> _Base | None:
        """The next base, if it was made by now; raises what stopped it."""
        if self._next_base is None or not self._next_base.done():
            return self._base
        try:
            return self._next_base.result()
        except BaseException:
            self._next_base = None
            raise

    async def _followed(self, base: _Base, max_items: int) -> _Base | None:
        """``base`` with what has changed since; None where that is more than ``max_items``."""
        if base.read_to is None:
            return None
        changes = await self._store.changes(base.index.embedder_name, base.read_to, max(max_items, 0))
        if changes is None or not await _fits(changes.rows, base.index):
            return None
        return await asyncio.to_thread(base.followed_by, changes)

    async def _put_in_force(self, base: _Base, began_at_s: float, event: LogEvent) -> None:
        index = await base.in_force()
        self._base, self._index = base, index
        self._watch.agreed(began_at_s)
        if self._next_base and self._next_base.done():
            self._next_base = None
        seconds = self._clock.monotonic_s() - began_at_s
        tell_of(index, event, self._observer, seconds=seconds, n_changes=base.n_changes)

    async def _made(self, name: str, *, in_background: bool = False) -> _Base:
        """A base of what the store holds, with little or nothing over it."""
        if self._snapshot_directory is None:
            return await self._built(name, in_background)
        try:
            return await self._shared(SnapshotDirectory(self._snapshot_directory, name), name, in_background)
        except OSError as error:
            _log.warning(LogEvent.INDEX_SNAPSHOT_FAILED, error=str(error))
            return await self._built(name, in_background)

    async def _loaded(self, name: str, in_background: bool) -> IndexRows:
        if in_background:
            # Nobody waits, and whoever loads next is the faster for it.
            await self._store.pack(name)
        return await self._store.load(name)

    async def _built(self, name: str, in_background: bool) -> _Base:
        rows = await self._loaded(name, in_background)
        # Off the event loop: seconds for a million items, while jobs run.
        return _Base(await asyncio.to_thread(InMemoryItemIndex, rows, name), rows.mark)

    async def _shared(self, snapshots: SnapshotDirectory, name: str, in_background: bool) -> _Base:
        """The newest snapshot with what has changed since, or one that this process makes."""
        async with _alone(snapshots):
            found = await asyncio.to_thread(snapshots.newest)
            if found is not None:
                base = await asyncio.to_thread(_mapped, found, name)
                followed = await self._up_to_date(base, _bound(base.index))
                if followed is not None:
                    return followed
            rows = await self._loaded(name, in_background)
            scan = await asyncio.to_thread(build_scan, rows.vectors)
            written = await asyncio.to_thread(snapshots.write, rows, scan)
        return await asyncio.to_thread(_mapped, written, name)

    async def _up_to_date(self, base: _Base, max_items: int) -> _Base | None:
        if base.index.version == await self._store.version(base.index.embedder_name):
            return base
        return await self._followed(base, max_items)

    async def run(self) -> None:
        """Refresh every ``refresh_s`` seconds until cancelled; while the store is away the index stays as it is.

        An empty index is refreshed at once: nobody can be answered until there are items.
        """
        empty = self._index is not None and not len(self._index)
        try:
            await refresh_for_ever(self.refresh, self._refresh_s, self._tell_of_failure, at_once=empty)
        finally:
            if self._next_base is not None:
                self._next_base.cancel()

    def _tell_of_failure(self, error: SongsAIError) -> None:
        _log.warning(LogEvent.INDEX_REFRESH_FAILED, error=str(error), age_s=self.age_s)


def _bound(index: InMemoryItemIndex) -> int:
    return max(_MIN_CHANGES, int(len(index) * _CHANGED_SHARE))


async def _fits(rows: IndexRows, index: InMemoryItemIndex) -> bool:
    """Whether the vectors are as long as those of the index, where both have any."""
    _, of_index = await index.vectors([])
    return not len(rows.ids) or not len(index) or rows.vectors.shape[1] == of_index.shape[1]


def _mapped(snapshot: Snapshot, name: str) -> _Base:
    return _Base(InMemoryItemIndex(snapshot.rows, name, snapshot.scan), snapshot.rows.mark)


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
