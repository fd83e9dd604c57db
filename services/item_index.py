"""The index over all embeddings, in memory: an exact scan, and what keeps it up to date.

Another index (an approximate one, say) takes ``InMemoryItemIndex``'s place behind the same port.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import structlog

from core.errors import DependencyUnavailable, SongsAIError
from core.ports import Clock, EmbeddingStore, Floats, Hits, Ids, IndexRows, Predicate
from models.catalogue import ItemFacts
from models.log_event import LogEvent

# Where one scan takes some 4 ms, more than the event loop should wait; below it a thread costs more than it gives.
_MAX_NUMBERS_IN_LOOP = 8_000_000
# Equal vectors must tie wherever they stand, though BLAS sums their products in different orders.
_SCORE_DECIMALS = 6

_Mask = npt.NDArray[np.bool_]

_log = structlog.get_logger()


class InMemoryItemIndex:
    """An ``ItemIndex`` that compares the query with every vector. Ties go to the smaller id, so that results repeat."""

    def __init__(self, rows: IndexRows, embedder_name: str) -> None:
        self._rows = rows
        self._embedder_name = embedder_name
        self._genres = _Attribute(rows.genres)
        self._moods = _Attribute(rows.moods)
        self._languages = _Attribute((language,) if language else () for language in rows.languages)
        self._most_popular_first = np.lexsort((rows.ids, -rows.popularity))
        self._first_genres = _numbered([genres[0].casefold() if genres else None for genres in rows.genres])

    @property
    def version(self) -> str:
        """Changes whenever any vector or the set of items does."""
        return self._rows.version

    @property
    def embedder_name(self) -> str:
        """The ``Embedder.name`` that made the vectors."""
        return self._embedder_name

    def __len__(self) -> int:
        return len(self._rows.ids)

    def vectors(self, item_ids: Sequence[int]) -> tuple[Ids, Floats]:
        """The ids among ``item_ids`` that the index holds, in order, and their vectors, float32 (n, dim)."""
        places = self._places(item_ids)
        return self._rows.ids[places], self._rows.vectors[places]

    def facts(self, item_ids: Sequence[int]) -> list[ItemFacts]:
        """What the first stage ranks by, in the order of ``item_ids``, of which the index must hold every one."""
        rows, places = self._rows, self._places(item_ids).tolist()
        return [
            ItemFacts(
                item_id, rows.creators[place], rows.genres[place], rows.moods[place], float(rows.popularity[place])
            )
            for item_id, place in zip(item_ids, places, strict=True)
        ]

    async def search(
        self, query: Floats, n: int, *, excluded: Collection[int] = (), predicate: Predicate | None = None
    ) -> Hits:
        """The ``n`` items nearest to ``query`` (float32 (dim,), need not be a unit vector) by cosine.

        A query without direction is near nothing.
        """
        length = float(np.linalg.norm(query))
        if not (0 < length < np.inf) or n <= 0 or not len(self):
            return Hits(ids=np.zeros(0, dtype=np.int64), scores=np.zeros(0, dtype=np.float32))
        eligible = self._eligible(excluded, predicate)
        unit = np.asarray(query / length, dtype=np.float32)
        if self._rows.vectors.size > _MAX_NUMBERS_IN_LOOP:
            return await asyncio.to_thread(self._scan, unit, n, eligible)
        return self._scan(unit, n, eligible)

    def popular(self, n: int, *, excluded: Collection[int] = (), max_per_genre: int | None = None) -> Ids:
        """The ``n`` most popular items, int64, most popular first; at most so many of one (first) genre.

        Items without a genre are not limited.
        """
        order = self._most_popular_first
        order = order[self._eligible(excluded, None)[order]]
        if max_per_genre is not None:
            genres = self._first_genres[order]
            order = order[(genres < 0) | (_n_before(genres) < max_per_genre)]
        most_popular: Ids = self._rows.ids[order[: max(n, 0)]]
        return most_popular

    def _scan(self, unit: Floats, n: int, eligible: _Mask) -> Hits:
        scores = np.round(self._rows.vectors @ unit, _SCORE_DECIMALS)
        scores[~eligible] = -np.inf
        best = _best(scores, min(n, int(np.count_nonzero(eligible))))
        return Hits(ids=self._rows.ids[best], scores=np.clip(scores[best], -1, 1))

    def _eligible(self, excluded: Collection[int], predicate: Predicate | None) -> _Mask:
        mask = np.ones(len(self), dtype=np.bool_)
        mask[self._places(excluded)] = False
        if predicate:
            for attribute, wanted in (
                (self._genres, predicate.genres),
                (self._moods, predicate.moods),
                (self._languages, predicate.languages),
            ):
                if wanted:
                    mask &= attribute.any_of(wanted)
        return mask

    def _places(self, item_ids: Collection[int]) -> npt.NDArray[np.intp]:
        """Where those of ``item_ids`` that the index holds stand in it, in their order."""
        wanted = np.fromiter(item_ids, dtype=np.int64, count=len(item_ids))
        places = np.searchsorted(self._rows.ids, wanted)
        inside = places < len(self)
        places, wanted = places[inside], wanted[inside]
        return np.compress(self._rows.ids[places] == wanted, places)


class _Attribute:
    """Which items have which values of one attribute, whatever their case."""

    def __init__(self, values: Iterable[Iterable[str]]) -> None:
        places: dict[str, list[int]] = {}
        n = 0
        for place, of_item in enumerate(values):
            n = place + 1
            for value in of_item:
                places.setdefault(value.casefold(), []).append(place)
        self._n = n
        self._places = {value: np.array(of_value, dtype=np.intp) for value, of_value in places.items()}

    def any_of(self, values: Collection[str]) -> _Mask:
        mask = np.zeros(self._n, dtype=np.bool_)
        for value in {value.casefold() for value in values} & self._places.keys():
            mask[self._places[value]] = True
        return mask


def _best(scores: Floats, n: int) -> npt.NDArray[np.intp]:
    """The places of the ``n`` highest scores, highest first; of equal ones the foremost."""
    if n == 0:
        return np.zeros(0, dtype=np.intp)
    lowest = np.partition(scores, len(scores) - n)[len(scores) - n]
    reaching = np.flatnonzero(scores >= lowest)
    return reaching[np.argsort(-scores[reaching], kind="stable")[:n]]


def _numbered(values: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """A number for each distinct value; -1 for None."""
    numbers: dict[str, int] = {}
    return np.array(
        [-1 if value is None else numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64
    )


def _n_before(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each entry, how many equal ones stand before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    counts = np.empty(len(values), dtype=np.int64)
    counts[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return counts


class IndexObserver(Protocol):
    """Is told which index is in force."""

    def index_loaded(self, *, version: str, embedder_name: str, n_items: int) -> None:
        """Another index is in force from now on."""


class RefreshingIndex:
    """An ``IndexProvider`` that polls the store and swaps the index when it changed; jobs keep theirs."""

    def __init__(
        self,
        store: EmbeddingStore,
        embedder_name: str,
        *,
        refresh_s: float,
        clock: Clock,
        observer: IndexObserver,
    ) -> None:
        self._store = store
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
        rows = await self._store.load(self._embedder_name)
        # Off the event loop: some 50 ms of Python for 26,000 items, while jobs run.
        index = await asyncio.to_thread(InMemoryItemIndex, rows, self._embedder_name)
        self._index, self._checked_at_s = index, began_at_s
        self._observer.index_loaded(version=index.version, embedder_name=self._embedder_name, n_items=len(index))
        _log.info(
            LogEvent.INDEX_LOADED,
            version=index.version,
            embedder=self._embedder_name,
            n_items=len(index),
            seconds=round(self._clock.monotonic_s() - began_at_s, 3),
        )

    async def refresh(self) -> None:
        """Load the index if the store holds something else by now. Raises what the store raises."""
        began_at_s = self._clock.monotonic_s()
        if self._index and await self._store.version(self._embedder_name) == self._index.version:
            self._checked_at_s = began_at_s
        else:
            await self.load()

    async def run(self) -> None:
        """Refresh every ``refresh_s`` seconds until cancelled; while the store is away the index stays as it is."""
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.refresh()
            except SongsAIError as error:
                _log.warning(LogEvent.INDEX_REFRESH_FAILED, error=str(error), age_s=self.age_s)
