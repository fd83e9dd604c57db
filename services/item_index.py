"""The index over all embeddings, in memory."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from core.ports.arrays import Floats, Ids
from core.ports.index import Hits, IndexRows, Predicate
from models.catalogue import ItemFacts
from services.coded_column import CodedColumn
from services.scan_queue import QueuedScan
from services.vector_scan import Found, GatheredScan, Places, VectorScan, build_scan, part_at_once

_MAX_SLICES_BYTES = 256 * 2**20

_Mask = npt.NDArray[np.bool_]


class InMemoryItemIndex:
    """An ``ItemIndex`` over rows in memory or mapped from a file. Ties go to the smaller id, so that results repeat.

    ``scan`` is that of the rows where it is at hand; else it is built, which takes seconds for many rows. What
    predicates keep is remembered, of ``max_slices_bytes`` together, and that of the last one always.
    """

    def __init__(
        self,
        rows: IndexRows,
        embedder_name: str,
        scan: VectorScan | None = None,
        *,
        max_slices_bytes: int = _MAX_SLICES_BYTES,
    ) -> None:
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
        self._genre_names: frozenset[str] | None = None
        self._all = _Slice(rows.ids, self._scan)
        self._max_slices_bytes = max_slices_bytes
        self._slices: OrderedDict[Predicate, _Slice] = OrderedDict()
        self._building: dict[Predicate, asyncio.Task[_Slice]] = {}
        self._improving: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()

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

    async def vectors(self, item_ids: Sequence[int]) -> tuple[Ids, Floats]:
        """The ids among ``item_ids`` that the index holds, in order, and their vectors, float32 (n, dim)."""
        places = self._places(item_ids)
        return self._rows.ids[places], self._rows.vectors[places].astype(np.float32)

    async def facts(self, item_ids: Sequence[int]) -> list[ItemFacts]:
        """What the first stage ranks by, in the order of ``item_ids``, of which the index must hold every one."""
        places = self._places(item_ids)
        creators, genres, moods = self._creators.at(places), self._genres.at(places), self._moods.at(places)
        popularity = self._rows.popularity[places].tolist()
        facts = [ItemFacts(*each) for each in zip(item_ids, creators, genres, moods, popularity, strict=True)]
        # What a job does with what it found takes milliseconds: here others have their turn.
        await asyncio.sleep(0)
        return facts

    async def search(
        self, queries: Floats, n: int, *, excluded: Collection[int] = (), predicate: Predicate | None = None
    ) -> list[Hits]:
        """For each of ``queries`` (float32 (k, dim), of any length) the ``n`` items nearest to it by cosine.

        A query without direction is near nothing. The items that a predicate keeps get a scan of their own, which is
        remembered; until it is built, searches by it compare them one by one.
        """
        lengths = np.sqrt(np.vecdot(queries, queries))
        # Of few numbers Python is sooner done than numpy.
        is_usable = [0 < length < math.inf for length in lengths.tolist()]
        if n <= 0 or not len(self) or not any(is_usable):
            return [_NOTHING] * len(queries)
        if not all(is_usable):
            queries, lengths = queries[is_usable], lengths[is_usable]
        units = (queries / lengths[:, None]).astype(np.float32, copy=False)
        searched = await self._slice(predicate) if predicate else self._all
        left_out = np.fromiter(excluded, dtype=np.int64, count=len(excluded))
        left_out.sort()
        # Codes know no selection: what is left out is asked for besides, and dropped.
        found = iter(await searched.scan.search(units, n, len(left_out)))
        return [searched.hits(next(found), left_out, n) if usable else _NOTHING for usable in is_usable]

    async def popular(self, n: int, *, excluded: Collection[int] = (), max_per_genre: int | None = None) -> Ids:
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

    async def genres(self) -> frozenset[str]:
        """Every genre that an item has, or had when the index was made."""
        if self._genre_names is None:
            self._genre_names = frozenset(genre for genres in self._genres.values for genre in genres)
        return self._genre_names

    async def settle(self) -> None:
        """Returns when no scan is being built for a predicate, as after its first search."""
        while self._improving:
            await asyncio.wait(self._improving)

    async def _slice(self, predicate: Predicate) -> "_Slice":
        """The items that ``predicate`` keeps; looked up off the event loop, once for all that ask meanwhile."""
        if (known := self._slices.get(predicate)) is not None:
            self._slices.move_to_end(predicate)
            return known
        building = self._building.get(predicate)
        if building is None:
            building = self._building[predicate] = asyncio.create_task(self._remembered(predicate))
        return await asyncio.shield(building)

    async def _remembered(self, predicate: Predicate) -> "_Slice":
        try:
            built = await asyncio.to_thread(self._build_slice, predicate)
        finally:
            del self._building[predicate]
        self._slices[predicate] = built
        if built.places is not None:
            improving = asyncio.create_task(self._improve(predicate, built, built.places))
            self._improving.add(improving)
            improving.add_done_callback(self._improving.discard)
        self._forget()
        return built

    async def _improve(self, predicate: Predicate, slice_: "_Slice", places: Places) -> None:
        """Builds the scan of ``slice_`` off the event loop, which takes a second or more, and swaps it in."""
        async with self._one_at_a_time:
            scan = await asyncio.to_thread(self._scan.part, places)
        if self._slices.get(predicate) is slice_:
            self._slices[predicate] = _Slice(slice_.ids, scan)
            self._forget()

    def _forget(self) -> None:
        """Slices that have not been asked for the longest go first."""
        while len(self._slices) > 1 and sum(each.n_bytes for each in self._slices.values()) > self._max_slices_bytes:
            self._slices.popitem(last=False)

    def _build_slice(self, predicate: Predicate) -> "_Slice":
        kept = np.ones(len(self), dtype=np.bool_)
        if predicate.genres:
            kept &= self._genres.where(_any_of(predicate.genres))
        if predicate.moods:
            kept &= self._moods.where(_any_of(predicate.moods))
        if predicate.languages:
            kept &= self._languages.where(lambda language: _any_of(predicate.languages)((language or "",)))
        places = np.flatnonzero(kept)
        scan = part_at_once(self._scan, places)
        return _Slice(self._rows.ids[places], scan, places if isinstance(scan, GatheredScan) else None)

    def _places(self, item_ids: Collection[int]) -> Places:
        """Where those of ``item_ids`` that the index holds stand in it, in their order."""
        wanted = np.fromiter(item_ids, dtype=np.int64, count=len(item_ids))
        places = np.searchsorted(self._rows.ids, wanted)
        inside = places < len(self)
        places, wanted = places[inside], wanted[inside]
        return np.compress(self._rows.ids[places] == wanted, places)


class _Slice:
    """Some items of the index: their ids, rising, the scan of their rows, and their places if it is to be built yet."""

    def __init__(self, ids: Ids, scan: VectorScan, places: Places | None = None) -> None:
        self.ids, self.scan, self.places = ids, QueuedScan(scan), places
        self.n_bytes = ids.nbytes + scan.n_bytes

    def hits(self, found: Found, left_out: Ids, n: int) -> Hits:
        """The first ``n`` of ``found`` without ``left_out``, ids that rise."""
        places, scores = found
        ids = self.ids[places]
        if len(left_out):
            kept = left_out.take(left_out.searchsorted(ids), mode="clip") != ids
            ids, scores = ids[kept], scores[kept]
        return Hits(ids=ids[:n], scores=scores[:n])


_NOTHING = Hits(ids=np.zeros(0, dtype=np.int64), scores=np.zeros(0, dtype=np.float32))


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
