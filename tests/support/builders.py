"""Small makers of domain objects, so that a test names only what it is about."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from core.ports.arrays import Floats, Ids
from core.ports.index import Hits, Predicate
from models.catalogue import Item, ItemFacts
from models.recommendation import Candidate, Evidence, RecommendationType


def make_item(
    item_id: int,
    *,
    title: str | None = None,
    creator: str | None = "Artist",
    genres: Sequence[str] = ("pop",),
    moods: Sequence[str] = (),
    popularity: float = 0.5,
) -> Item:
    name = title or f"Title {item_id}"
    columns = {"title_en": name, "title_kr": None, "title_jp": None, "artist": creator, "genre": ", ".join(genres)}
    return Item(
        item_id=item_id,
        titles={"en": name},
        creator=creator,
        genres=tuple(genres),
        moods=tuple(moods),
        popularity=popularity,
        columns=columns,
    )


def facts_of(item: Item) -> ItemFacts:
    return ItemFacts(item.item_id, item.creator, item.genres, item.moods, item.popularity)


def make_candidate(
    item: Item, score: float = 0.5, kind: RecommendationType = RecommendationType.SIMILAR, near: Sequence[Item] = ()
) -> Candidate:
    evidence = Evidence(similarity=score, near=tuple(near), near_similarity=(score,) * len(near))
    return Candidate(item=item, score=score, kind=kind, evidence=evidence)


class ArrayIndex:
    """An index over given vectors that searches by brute force: the oracle of the retrieval tests."""

    version = "v1"
    embedder_name = "given-1"

    def __init__(
        self,
        vectors: Mapping[int, Sequence[float]],
        popularity: Mapping[int, float] | None = None,
        items: Mapping[int, Item] | None = None,
    ) -> None:
        self._ids = np.array(sorted(vectors), dtype=np.int64)
        rows = np.array([vectors[item_id] for item_id in sorted(vectors)], dtype=np.float32).reshape(
            len(vectors), -1 if vectors else 0
        )
        self._rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        self._popularity = popularity or {}
        self._items = items or {}

    def __len__(self) -> int:
        return len(self._ids)

    async def vectors(self, item_ids: Sequence[int]) -> tuple[Ids, Floats]:
        place = {int(item_id): row for row, item_id in enumerate(self._ids)}
        known = [item_id for item_id in item_ids if item_id in place]
        return np.array(known, dtype=np.int64), self._rows[[place[item_id] for item_id in known]]

    async def facts(self, item_ids: Sequence[int]) -> list[ItemFacts]:
        return [facts_of(self._items[item_id]) if self._items else ItemFacts(item_id) for item_id in item_ids]

    async def search(
        self, queries: Floats, n: int, *, excluded: Collection[int] = (), predicate: Predicate | None = None
    ) -> list[Hits]:
        allowed = {int(item_id) for item_id in self._ids if _keeps(predicate, self._items.get(int(item_id)))}
        refused = {*excluded, *(set(self._ids.tolist()) - allowed)}
        return [self._search(query, n, refused) for query in queries]

    async def genres(self) -> frozenset[str]:
        return frozenset(genre for item in self._items.values() for genre in item.genres)

    def _search(self, query: Floats, n: int, excluded: Collection[int]) -> Hits:
        scores = self._rows @ query
        order = [row for row in np.argsort(-scores, kind="stable") if int(self._ids[row]) not in excluded][:n]
        return Hits(self._ids[order], scores[order].astype(np.float32))

    async def popular(self, n: int, *, excluded: Collection[int] = (), max_per_genre: int | None = None) -> Ids:
        ranked = sorted(self._ids.tolist(), key=lambda item_id: (-self._popularity.get(item_id, 0.0), item_id))
        return np.array([item_id for item_id in ranked if item_id not in excluded][:n], dtype=np.int64)


def _keeps(predicate: Predicate | None, item: Item | None) -> bool:
    """Whether ``predicate`` lets an item through; an index that knows no items filters nothing."""
    if not predicate or item is None:
        return True
    asked = ((predicate.genres, item.genres), (predicate.moods, item.moods))
    return all(not wanted or any(tag.casefold() in wanted for tag in tags) for wanted, tags in asked)
