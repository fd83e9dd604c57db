"""Embeddings, and the index of them that candidates are found in.

The docstrings are the contract that every adapter is tested by. Where a method names no other error, the only one that
it raises is ``DependencyUnavailable``.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.ports.arrays import Floats, Ids
from core.ports.catalogue import ItemsMark
from models.catalogue import Item, ItemFacts


class Embedder(Protocol):
    """Turns items into unit vectors."""

    @property
    def name(self) -> str:
        """Kind, version and dimension, such as ``hashing-2-256``: vectors of two names never mix."""

    @property
    def dim(self) -> int:
        """Length of the vectors."""

    async def embed(self, items: Sequence[Item]) -> Floats:
        """Unit vectors, float32, shape (len(items), dim), in order; an item without content gets the zero vector."""


class WishEmbedder(Protocol):
    """Turns what a listener wishes for into a vector among those of an ``Embedder``'s items."""

    async def embed_wish(self, text: str, item: Item) -> Floats:
        """A unit vector, float32 (dim,), of ``text`` in the listener's words and of ``item``, which would fulfil it.

        The zero vector where neither says anything that the embedder reads.
        """


@dataclass(frozen=True, slots=True)
class Hits:
    """What a search found, best first: ``ids`` int64 (n,), ``scores`` float32 (n,), cosines from -1 to 1."""

    ids: Ids
    scores: Floats


@dataclass(frozen=True, slots=True)
class Predicate:
    """A filter over catalogue attributes; empty fields do not filter."""

    genres: frozenset[str] = frozenset()
    moods: frozenset[str] = frozenset()
    languages: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Whether it filters at all."""
        return bool(self.genres or self.moods or self.languages)


class ItemIndex(Protocol):
    """One immutable snapshot of all embeddings; a job uses one snapshot from its beginning to its end."""

    @property
    def version(self) -> str:
        """Changes whenever any vector or the set of items does."""

    @property
    def embedder_name(self) -> str:
        """The ``Embedder.name`` that made the vectors."""

    def __len__(self) -> int:
        """Number of items."""

    async def vectors(self, item_ids: Sequence[int]) -> tuple[Ids, Floats]:
        """The ids among ``item_ids`` that the index holds, in order, and their vectors, float32 (n, dim)."""

    async def facts(self, item_ids: Sequence[int]) -> list[ItemFacts]:
        """What the first stage ranks by, in the order of ``item_ids``, of which the index must hold every one."""

    async def search(
        self, queries: Floats, n: int, *, excluded: Collection[int] = (), predicate: Predicate | None = None
    ) -> list[Hits]:
        """For each of ``queries`` (float32 (k, dim), need not be unit vectors) the ``n`` items nearest by cosine.

        The same queries find the same, whatever else is searched for at the moment.
        """

    async def popular(self, n: int, *, excluded: Collection[int] = (), max_per_genre: int | None = None) -> Ids:
        """The ``n`` most popular items, int64, most popular first; at most so many of one (first) genre."""

    async def genres(self) -> frozenset[str]:
        """Every genre that an item has, as the catalogue or its index spells it; cheap when asked again."""


class IndexProvider(Protocol):
    """Holds the index in force; refreshing swaps it whole."""

    def current(self) -> ItemIndex:
        """The newest complete snapshot; raises ``DependencyUnavailable`` before the first one is loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexMark:
    """Up to where an ``EmbeddingStore`` was read: which store it was, its last change of a vector, and the items."""

    origin: int
    change_no: int
    items: ItemsMark


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRows:
    """What an index is built of: all active items that have a vector, in order of id.

    ``ids`` int64 (n,); ``vectors`` float32 or float16 (n, dim), unit length; ``popularity`` float32 (n,), 0 to 1;
    ``genres``, ``moods``, ``languages``, ``creators``: one entry an item. ``version`` identifies this content, and
    ``mark`` lets the store tell what has changed since.
    """

    ids: Ids
    vectors: Floats | npt.NDArray[np.float16]
    popularity: Floats
    genres: Sequence[tuple[str, ...]]
    moods: Sequence[tuple[str, ...]]
    languages: Sequence[str | None]
    creators: Sequence[str | None]
    version: str
    mark: IndexMark | None = None


@dataclass(frozen=True, slots=True)
class IndexChanges:
    """``rows``: new or changed items, with the version and the mark of what they lead to; ``removed``: ids, rising."""

    rows: IndexRows
    removed: Ids


class EmbeddingStore(Protocol):
    """The vectors that MySQL holds, beside the items' attributes that an index needs."""

    async def version(self, embedder_name: str) -> str:
        """Cheap: a string that changes when ``load`` would return something else."""

    async def load(self, embedder_name: str) -> IndexRows:
        """Everything of that embedder."""

    async def changes(self, embedder_name: str, mark: IndexMark, max_items: int) -> IndexChanges | None:
        """What is not as it was at ``mark``, where that is at most ``max_items`` items; None: ``load`` it all.

        An item may be among them that is as it was.
        """

    async def pack(self, embedder_name: str) -> int:
        """Bring the copy that ``load`` reads fastest up to date; how many vectors that wrote."""

    async def content_hashes(self, embedder_name: str, item_ids: Collection[int] | None = None) -> dict[int, bytes]:
        """The hash of the content that each stored vector (those of ``item_ids``) was made from, by item id."""

    async def save(self, embedder_name: str, ids: Ids, vectors: Floats, content_hashes: Sequence[bytes]) -> None:
        """Insert or replace vectors, float32 (len(ids), dim), in one transaction."""

    async def delete(self, embedder_name: str, item_ids: Collection[int]) -> None:
        """Remove the vectors of items that are gone."""
