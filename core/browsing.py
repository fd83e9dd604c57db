"""The catalogue as people look at it: found by name, one item, and what is like it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.item_versions import VersionFinder
from core.ports.arrays import Floats
from core.ports.catalogue import ChangingCatalogue, ItemSearch
from core.ports.index import IndexProvider, ItemIndex
from models.catalogue import Item
from models.recommendation import Candidate, Evidence, RecommendationType

MAX_FOUND = 200
"""How many items one search finds at the most, and how many are like another, all pages together."""

_VERSIONS_PER_WORK = 3


@dataclass(frozen=True, slots=True)
class FoundItem:
    """``score``: of a search by name; of items that are like another, the cosine (-1 to 1)."""

    item: Item
    score: float


@dataclass(frozen=True, slots=True)
class FoundPage:
    """A part of what was found; ``next_offset`` is where the next one begins, None after the last."""

    items: Sequence[FoundItem]
    next_offset: int | None


class ItemBrowser:
    """Looks items up, complete and active at this moment. Every method may raise ``DependencyUnavailable``."""

    def __init__(
        self, *, catalogue: ChangingCatalogue, search: ItemSearch, index: IndexProvider, versions: VersionFinder
    ) -> None:
        self._catalogue = catalogue
        self._search = search
        self._index = index
        self._versions = versions

    async def search(self, text: str, limit: int, offset: int = 0) -> FoundPage:
        """The items from ``offset`` on whose names match ``text`` best, at most ``limit``."""
        end = min(offset + limit, MAX_FOUND)
        hits = await self._search.search(text, min(end + 1, MAX_FOUND))
        shown = hits[offset:end]
        items = {item.item_id: item for item in await self._catalogue.complete_items([hit.item_id for hit in shown])}
        found = [FoundItem(items[hit.item_id], hit.score) for hit in shown if hit.item_id in items]
        return FoundPage(found, end if len(hits) > end else None)

    async def item(self, item_id: int) -> Item | None:
        """The item, or None where there is none, or none any more."""
        return next(iter(await self._catalogue.complete_items([item_id])), None)

    async def similar(self, item_id: int, limit: int, offset: int = 0) -> FoundPage | None:
        """The items from ``offset`` on that are most like it, at most ``limit``, one of each work.

        None where the index does not hold it.
        """
        end = min(offset + limit, MAX_FOUND)
        index = self._index.current()
        known, vectors = await index.vectors([item_id])
        if not len(known):
            return None
        most = MAX_FOUND * _VERSIONS_PER_WORK
        n_looked_at = min((end + 1) * _VERSIONS_PER_WORK, most)
        kept, n_hits = await self._works_near(index, vectors, item_id, n_looked_at)
        if len(kept) <= end and n_hits == n_looked_at < most:  # versions crowd out the rest
            kept, _ = await self._works_near(index, vectors, item_id, most)
        return FoundPage(kept[offset:end], end if len(kept) > end else None)

    async def _works_near(
        self, index: ItemIndex, vectors: Floats, item_id: int, n: int
    ) -> tuple[Sequence[FoundItem], int]:
        """Of the ``n`` items nearest to ``vectors``, one of each work, at most ``MAX_FOUND``; how many there were."""
        (hits,) = await index.search(vectors, n, excluded=[item_id])
        ids = hits.ids.tolist()
        items = {item.item_id: item for item in await self._catalogue.complete_items([item_id, *ids])}
        cosines = np.clip(hits.scores, -1.0, 1.0).tolist()
        near = [_near(items[each], cosine) for each, cosine in zip(ids, cosines, strict=True) if each in items]
        owned = [items[item_id]] if item_id in items else []
        kept = self._versions.without_versions(near, owned)[:MAX_FOUND]
        return [FoundItem(each.item, each.score) for each in kept], len(ids)


def _near(item: Item, cosine: float) -> Candidate:
    evidence = Evidence(similarity=cosine, popularity=item.popularity)
    return Candidate(item=item, score=cosine, kind=RecommendationType.SIMILAR, evidence=evidence)
