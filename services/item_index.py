"""The index over all embeddings, in memory, and what keeps it up to date."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import structlog

from core.errors import DependencyUnavailable, SongsAIError
from core.ports import Clock, EmbeddingStore, Floats, Hits, Ids, IndexRows, Predicate
from models.catalogue import ItemFacts
from models.log_event import LogEvent
from services.coded_column import CodedColumn
from services.index_snapshot import SnapshotDirectory
from services.scan_queue import QueuedScan
from services.vector_scan import Places, VectorScan, build_scan

_MAX_SLICES = 8

_Mask = npt.NDArray[np.bool_]

_log = structlog.get_logger()


class InMemoryItemIndex:
    """An ``ItemIndex`` over rows in memory or mapped from a file. Ties go to the smaller id, so that results repeat.

    ``scan`` is that of the rows where it is at hand; else it is built, which takes seconds for many rows.
    """

    def __init__(self, rows: IndexRows, embedder_name: str, scan: VectorScan | None = None) -> None:
        self._scan = scan or build_scan(rows.vectors)
        # The scan keeps rows of its own: there is no need for two of each.
        self._rows = replace(rows, vectors=self._scan.rows)
        self._embedder_name = embedder_name
        self._genres = CodedColumn.of(rows.genres)
        self._moods = CodedColumn.of(rows.moods)
        self._languages = CodedColumn.of(rows.languages)
        self._creators = CodedColumn.of(rows.creators)
        self._most_popular_first = np.lexsort((rows.ids, -rows.popularity))
        self._first_genres = self._genres.numbered(lambda genres: genres[0].casefold() if genres else None)
        self._all = _Slice(np.arange(len(rows.ids), dtype=np.int64), QueuedScan(self._scan))
        self._slices: OrderedDict[Predicate, asyncio.Task[_Slice]] = OrderedDict()

    @property
    def version(self) -> str:
        """Changes whenever any vector or the set of items does."""
        return self._rows.version

    @property
    def embedder_name(self) -> str:
        """The ``Embedder.name`` that made the vectors."""
        return self._embedder_name

    @property
    def kind(self) -> str:
        """How it searches: ``exact``, ``fastscan`` or ``fastscan_lists``."""
        return self._scan.kind

    @property
    def recall(self) -> float:
        """Recall@200 against an exact scan, on a sample of queries."""
        return self._scan.recall

    def __len__(self) -> int:
        return len(self._rows.ids)

    def vectors(self, item_ids: Sequence[int]) -> tuple[Ids, Floats]:
        """The ids among ``item_ids`` that the index holds, in order, and their vectors, float32 (n, dim)."""
        places = self._places(item_ids)
        return self._rows.ids[places], self._rows.vectors[places].astype(np.float32)

    def facts(self, item_ids: Sequence[int]) -> list[ItemFacts]:
        """What the first stage ranks by, in the order of ``item_ids``, of which the index must hold every one."""
        rows, places = self._rows, self._places(item_ids).tolist()
        return [
            ItemFacts(
                item_id,
                self._creators[place],
                self._genres[place],
                self._moods[place],
                float(rows.popularity[place]),
            )
            for item_id, place in zip(item_ids, places, strict=True)
        ]

    async def search(
        self, queries: Floats, n: int, *, excluded: Collection[int] = (), predicate: Predicate | None = None
    ) -> list[Hits]:
        """For each of ``queries`` (float32 (k, dim), of any length) the ``n`` items nearest to it by cosine.

        A query without direction is near nothing. The first search by a predicate takes longer: the items that it
        keeps get a scan of their own, which is remembered.
        """
        lengths = np.linalg.norm(queries, axis=1)
        usable = np.flatnonzero((lengths > 0) & (lengths < np.inf))
        hits = [_NOTHING] * len(queries)
        if n <= 0 or not len(usable) or not len(self):
            return hits
        units = np.asarray(queries[usable] / lengths[usable, None], dtype=np.float32)
        searched = await self._slice(predicate) if predicate and _filters(predicate) else self._all
        left_out = set(self._places(excluded).tolist())
        # Codes know no selection: what is left out is asked for besides, and dropped.
        found = await searched.scan.search(units, n + len(left_out))
        for place, (places, scores) in zip(usable.tolist(), found, strict=True):
            hits[place] = self._hits(searched.places[places], scores, left_out, n)
        return hits

    def popular(self, n: int, *, excluded: Collection[int] = (), max_per_genre: int | None = None) -> Ids:
        """The ``n`` most popular items, int64, most popular first; at most so many of one (first) genre.

        Items without a genre are not limited.
        """
        n, left_out = max(n, 0), self._places(excluded)
        n_looked_at = 4 * (n + len(left_out))
        while True:
            # Seldom more than the first of a million need be looked at.
            order = self._most_popular_first[:n_looked_at]
            order = order[~np.isin(order, left_out)]
            if max_per_genre is not None:
                genres = self._first_genres[order]
                order = order[(genres < 0) | (_n_before(genres) < max_per_genre)]
            if len(order) >= n or n_looked_at >= len(self):
                most_popular: Ids = self._rows.ids[order[:n]]
                return most_popular
            n_looked_at *= 4

    def _hits(self, places: Places, scores: Floats, left_out: Collection[int], n: int) -> Hits:
        if left_out:
            kept = [row for row, place in enumerate(places.tolist()) if place not in left_out]
            places, scores = places[kept], scores[kept]
        return Hits(ids=self._rows.ids[places[:n]], scores=scores[:n])

    async def _slice(self, predicate: Predicate) -> "_Slice":
        """The items that ``predicate`` keeps; built off the event loop, once for all that ask meanwhile."""
        building = self._slices.get(predicate)
        if building is None or (building.done() and (building.cancelled() or building.exception())):
            building = asyncio.create_task(asyncio.to_thread(self._build_slice, predicate))
            self._slices[predicate] = building
        self._slices.move_to_end(predicate)
        if len(self._slices) > _MAX_SLICES:
            self._slices.popitem(last=False)
        return building.result() if building.done() else await asyncio.shield(building)

    def _build_slice(self, predicate: Predicate) -> "_Slice":
        kept = np.ones(len(self), dtype=np.bool_)
        if predicate.genres:
            kept &= self._genres.where(_any_of(predicate.genres))
        if predicate.moods:
            kept &= self._moods.where(_any_of(predicate.moods))
        if predicate.languages:
            kept &= self._languages.where(lambda language: _any_of(predicate.languages)((language or "",)))
        places = np.flatnonzero(kept)
        return _Slice(places, QueuedScan(build_scan(self._rows.vectors[places], asked_like=self._rows.vectors)))

    def _places(self, item_ids: Collection[int]) -> Places:
        """Where those of ``item_ids`` that the index holds stand in it, in their order."""
        wanted = np.fromiter(item_ids, dtype=np.int64, count=len(item_ids))
        places = np.searchsorted(self._rows.ids, wanted)
        inside = places < len(self)
        places, wanted = places[inside], wanted[inside]
        return np.compress(self._rows.ids[places] == wanted, places)


class _Slice:
    """Some items of the index: where they stand in it, rising, and the scan of their rows."""

    def __init__(self, places: Places, scan: QueuedScan) -> None:
        self.places, self.scan = places, scan


_NOTHING = Hits(ids=np.zeros(0, dtype=np.int64), scores=np.zeros(0, dtype=np.float32))


def _filters(predicate: Predicate) -> bool:
    return bool(predicate.genres or predicate.moods or predicate.languages)


def _any_of(wanted: Collection[str]) -> Callable[[Collection[str]], bool]:
    folded = {value.casefold() for value in wanted}
    return lambda values: not folded.isdisjoint(value.casefold() for value in values)


def _n_before(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each entry, how many equal ones stand before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    counts = np.empty(len(values), dtype=np.int64)
    counts[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return counts


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
