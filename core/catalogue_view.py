"""The catalogue as a whole, to look at: how much there is of what, and a map of its embeddings."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.ports.arrays import Floats
from core.ports.catalogue import ChangingCatalogue
from core.ports.index import IndexProvider, ItemIndex
from models.catalogue import Item, ItemFacts

N_BINS = 10
MAX_POINTS = 3000
_AT_ONCE = 1000
_N_CREATORS, _N_POPULAR = 20, 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueView:
    """``genres`` and ``creators``: names and how many items have them, most first; an item may have several genres.

    ``popularity``: how many items lie in each tenth of the scale from 0 to 1. ``popular``: the most popular items, no
    more than a few of one genre.
    """

    n_items: int
    genres: Sequence[tuple[str, int]]
    creators: Sequence[tuple[str, int]]
    popularity: Sequence[int]
    popular: Sequence[Item]


@dataclass(frozen=True, slots=True)
class MapPoint:
    """An item at a place of the map; both coordinates run from -1 to 1."""

    item: Item
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class CatalogueMap:
    """The embeddings in two dimensions; ``explained``: the share of their variance that each of the two tells."""

    points: Sequence[MapPoint]
    explained: tuple[float, float]


class CatalogueViewer:
    """Counts and maps the items of the index in force, once for each version. Raises ``DependencyUnavailable``."""

    def __init__(self, catalogue: ChangingCatalogue, index: IndexProvider) -> None:
        self._catalogue = catalogue
        self._index = index
        self._one_at_a_time = asyncio.Lock()
        self._view: tuple[str, CatalogueView] | None = None
        self._map: tuple[tuple[str, int], CatalogueMap] | None = None

    async def view(self) -> CatalogueView:
        """The whole catalogue, counted."""
        async with self._one_at_a_time:
            index = self._index.current()
            if self._view is None or self._view[0] != index.version:
                self._view = index.version, await self._counted(index)
            return self._view[1]

    async def map(self, n: int) -> CatalogueMap:
        """``n`` items, from the most popular to the least at equal steps, by the two principal components of all."""
        async with self._one_at_a_time:
            index = self._index.current()
            wanted = (index.version, min(n, MAX_POINTS))
            if self._map is None or self._map[0] != wanted:
                self._map = wanted, await self._mapped(index, wanted[1])
            return self._map[1]

    async def _counted(self, index: ItemIndex) -> CatalogueView:
        ids = (await index.popular(len(index))).tolist()
        genres: Counter[str] = Counter()
        creators: Counter[str] = Counter()
        bins = np.zeros(N_BINS, dtype=np.int64)
        for start in range(0, len(ids), _AT_ONCE):
            facts = await index.facts(ids[start : start + _AT_ONCE])
            genres.update(genre for each in facts for genre in each.genres)
            creators.update(each.creator for each in facts if each.creator)
            bins += _histogram(facts)
        shown = (await index.popular(_N_POPULAR, max_per_genre=max(2, _N_POPULAR // max(len(genres), 1)))).tolist()
        items = {item.item_id: item for item in await self._catalogue.complete_items(shown)}
        return CatalogueView(
            n_items=len(ids),
            genres=genres.most_common(),
            creators=creators.most_common(_N_CREATORS),
            popularity=bins.tolist(),
            popular=[items[item_id] for item_id in shown if item_id in items],
        )

    async def _mapped(self, index: ItemIndex, n: int) -> CatalogueMap:
        ranked = await index.popular(len(index))
        chosen = np.unique(np.linspace(0, len(ranked) - 1, min(n, len(ranked))).astype(np.int64))
        ids, vectors = await index.vectors(ranked[chosen].tolist())
        places, explained = await asyncio.to_thread(principal_plane, vectors)
        items = await self._catalogue.items(ids.tolist())
        points = zip(ids.tolist(), places.tolist(), strict=True)
        return CatalogueMap([MapPoint(items[each], x, y) for each, (x, y) in points if each in items], explained)


def principal_plane(vectors: Floats) -> tuple[npt.NDArray[np.float64], tuple[float, float]]:
    """The rows on their first two principal components, scaled into -1 to 1, and the variance that each explains.

    Of each axis the sign is such that its greatest coordinate is positive: the same rows give the same map.
    """
    rows = vectors.astype(np.float64) - (vectors.mean(axis=0) if len(vectors) else 0)
    if min(rows.shape) < 2 or not rows.any():  # noqa: PLR2004 - a plane has two dimensions
        return np.zeros((len(rows), 2)), (0.0, 0.0)
    _, spans, axes = np.linalg.svd(rows, full_matrices=False)
    places = rows @ axes[:2].T
    furthest = np.abs(places).argmax(axis=0)
    reach = places[furthest, [0, 1]]
    variance = spans**2 / (spans**2).sum()
    return places / np.where(reach == 0, 1.0, reach), (float(variance[0]), float(variance[1]))


def _histogram(facts: Iterable[ItemFacts]) -> npt.NDArray[np.int64]:
    found = np.histogram([each.popularity for each in facts], bins=N_BINS, range=(0, 1))[0]
    counted: npt.NDArray[np.int64] = found.astype(np.int64)
    return counted
