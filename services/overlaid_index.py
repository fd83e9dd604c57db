"""An index with some of its items changed: a large one that stays as it is, and a small exact one laid over it."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain
from typing import Protocol, TypeVar

import numpy as np

from core.ports.arrays import Floats, Ids
from core.ports.index import Hits, IndexChanges, IndexMark, IndexRows, ItemIndex, Predicate
from models.catalogue import ItemFacts
from services.item_index import InMemoryItemIndex
from services.vector_scan import ExactScan

# Asked for besides, where some of the base's items do not count any more.
_SPARE = 16

T = TypeVar("T")


class MeasuredIndex(ItemIndex, Protocol):
    """An ``ItemIndex`` that knows its own recall."""

    @property
    def kind(self) -> str:
        """How it searches."""

    @property
    def recall(self) -> float:
        """Recall@200 against an exact scan, on a sample of queries."""


class Overlay:
    """What has changed since a base was made: ``rows`` in place of the base's or beside them, and ``removed`` ids."""

    def __init__(self, rows: IndexRows, removed: Ids) -> None:
        self.rows, self.removed = rows, removed

    @property
    def n_changes(self) -> int:
        """How many items are not as the base has them."""
        return len(self.rows.ids) + len(self.removed)

    @property
    def mark(self) -> IndexMark | None:
        """Up to where the store was read."""
        return self.rows.mark

    def followed_by(self, changes: IndexChanges) -> "Overlay":
        """What has changed since the base, if ``changes`` came after this."""
        newer = changes.rows
        left = np.flatnonzero(~np.isin(self.rows.ids, np.concatenate([newer.ids, changes.removed])))
        order = np.argsort(np.concatenate([self.rows.ids[left], newer.ids]), kind="stable")
        removed = np.setdiff1d(np.union1d(self.removed, changes.removed), newer.ids)
        return Overlay(_joined(self.rows, left, newer, order), removed)


def _joined(older: IndexRows, left: Ids, newer: IndexRows, order: Ids) -> IndexRows:
    def column(one: Sequence[T], other: Sequence[T]) -> list[T]:
        both = [*(one[place] for place in left.tolist()), *other]
        return [both[place] for place in order.tolist()]

    # An empty matrix may have any number of columns.
    vectors = [np.asarray(each, np.float16) for each in (older.vectors[left], newer.vectors) if len(each)]
    return replace(
        newer,
        ids=np.concatenate([older.ids[left], newer.ids])[order],
        vectors=np.concatenate(vectors)[order] if vectors else newer.vectors,
        popularity=np.concatenate([older.popularity[left], newer.popularity])[order],
        genres=column(older.genres, newer.genres),
        moods=column(older.moods, newer.moods),
        languages=column(older.languages, newer.languages),
        creators=column(older.creators, newer.creators),
    )


class OverlaidIndex:
    """An ``ItemIndex`` that finds what one built anew would find, if ``base`` finds all that it should."""

    def __init__(self, base: MeasuredIndex, overlay: Overlay) -> None:
        self._base = base
        self._version = overlay.rows.version
        # Exact at any size: building codes takes longer than a refresh should.
        self._top = InMemoryItemIndex(overlay.rows, base.embedder_name, ExactScan(overlay.rows.vectors))
        self._top_ids = set(overlay.rows.ids.tolist())
        self._removed_ids = set(overlay.removed.tolist())
        self._hidden_ids = np.union1d(overlay.rows.ids, overlay.removed)
        self._n_hidden: int | None = None

    @classmethod
    async def over(cls, base: MeasuredIndex, overlay: Overlay) -> "OverlaidIndex":
        """Made off the event loop, which thousands of rows would hold up."""
        index = await asyncio.to_thread(cls, base, overlay)
        held, _ = await base.vectors(index._hidden_ids.tolist())
        index._n_hidden = len(held)
        return index

    @property
    def version(self) -> str:
        """Changes whenever any vector or the set of items does."""
        return self._version

    @property
    def embedder_name(self) -> str:
        """The ``Embedder.name`` that made the vectors."""
        return self._base.embedder_name

    @property
    def kind(self) -> str:
        """How the base searches."""
        return self._base.kind

    @property
    def recall(self) -> float:
        """That of the base; what lies over it is found without fail."""
        return self._base.recall

    def __len__(self) -> int:
        return len(self._base) - (self._n_hidden or 0) + len(self._top)

    async def vectors(self, item_ids: Sequence[int]) -> tuple[Ids, Floats]:
        """The ids among ``item_ids`` that the index holds, in order, and their vectors, float32 (n, dim)."""
        top_ids, top = await self._top.vectors([each for each in item_ids if each in self._top_ids])
        base_ids, base = await self._base.vectors([each for each in item_ids if not self._hides(each)])
        if not len(top_ids):
            return base_ids, base
        if not len(base_ids):
            return top_ids, top
        by_id = dict(zip(chain(top_ids.tolist(), base_ids.tolist()), chain(top, base), strict=True))
        found = [each for each in item_ids if each in by_id]
        return np.array(found, np.int64), np.stack([by_id[each] for each in found])

    async def facts(self, item_ids: Sequence[int]) -> list[ItemFacts]:
        """What the first stage ranks by, in the order of ``item_ids``, of which the index must hold every one."""
        top = await self._top.facts([each for each in item_ids if each in self._top_ids])
        base = await self._base.facts([each for each in item_ids if each not in self._top_ids])
        by_id = {each.item_id: each for each in chain(top, base)}
        return [by_id[each] for each in item_ids]

    async def search(
        self, queries: Floats, n: int, *, excluded: Collection[int] = (), predicate: Predicate | None = None
    ) -> list[Hits]:
        """As ``InMemoryItemIndex.search``."""
        below, above = await asyncio.gather(
            self._search_base(queries, n, excluded, predicate),
            self._top.search(queries, n, excluded=excluded, predicate=predicate),
        )
        return [_merged(one, other, n) for one, other in zip(below, above, strict=True)]

    async def _search_base(
        self, queries: Floats, n: int, excluded: Collection[int], predicate: Predicate | None
    ) -> list[Hits]:
        """The base's hits, without what is hidden, which would be too much to leave out of its scan."""
        asked = n + _SPARE
        while n > 0:
            found = await self._base.search(queries, asked, excluded=excluded, predicate=predicate)
            kept = [self._shown(hits) for hits in found]
            if all(len(left.ids) >= n or len(hits.ids) < asked for left, hits in zip(kept, found, strict=True)):
                return kept
            asked = 2 * asked
        return await self._base.search(queries, n, excluded=excluded, predicate=predicate)

    async def popular(self, n: int, *, excluded: Collection[int] = (), max_per_genre: int | None = None) -> Ids:
        """As ``InMemoryItemIndex.popular``."""
        hidden = [*excluded, *self._hidden_ids.tolist()]
        below = await self._base.popular(n, excluded=hidden, max_per_genre=max_per_genre)
        above = await self._top.popular(n, excluded=excluded, max_per_genre=max_per_genre)
        facts = [*await self._base.facts(below.tolist()), *await self._top.facts(above.tolist())]
        return _most_popular(facts, max(n, 0), max_per_genre)

    async def genres(self) -> frozenset[str]:
        """Those of the base, whose items may be gone, and of what is laid over it."""
        return await self._base.genres() | await self._top.genres()

    def _hides(self, item_id: int) -> bool:
        return item_id in self._top_ids or item_id in self._removed_ids

    def _shown(self, hits: Hits) -> Hits:
        if not len(self._hidden_ids):
            return hits
        places = np.minimum(np.searchsorted(self._hidden_ids, hits.ids), len(self._hidden_ids) - 1)
        shown = self._hidden_ids[places] != hits.ids
        return hits if shown.all() else Hits(hits.ids[shown], hits.scores[shown])


def _merged(one: Hits, other: Hits, n: int) -> Hits:
    """The ``n`` best of both; of equal ones the smaller id."""
    ids, scores = np.concatenate([one.ids, other.ids]), np.concatenate([one.scores, other.scores])
    order = np.lexsort((ids, -scores))[: max(n, 0)]
    return Hits(ids[order], scores[order])


def _most_popular(facts: Sequence[ItemFacts], n: int, max_per_genre: int | None) -> Ids:
    # Each part kept within the limit by itself; what it left out, both together would leave out too.
    taken: list[int] = []
    n_of_genre: dict[str, int] = {}
    for each in sorted(facts, key=lambda each: (-each.popularity, each.item_id)):
        genre = each.genres[0].casefold() if each.genres else None
        if genre is not None and max_per_genre is not None:
            n_of_genre[genre] = n_of_genre.get(genre, 0) + 1
            if n_of_genre[genre] > max_per_genre:
                continue
        taken.append(each.item_id)
    return np.array(taken[:n], np.int64)
