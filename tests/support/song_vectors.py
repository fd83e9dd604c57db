"""Songs with given vectors, in the tables of a database."""

from collections.abc import Sequence

import numpy as np

from core.ports.arrays import Floats
from models.catalogue import Item
from services.database import Database
from services.embedding_store import SqlEmbeddingStore
from tests.support.catalogue import SONGS


class GivenEmbedder:
    """An ``Embedder`` whose vectors are saved by the test itself."""

    def __init__(self, dim: int, name: str = "given-1") -> None:
        self.name, self.dim = f"{name}-{dim}", dim

    async def embed(self, items: Sequence[Item]) -> Floats:
        raise NotImplementedError


class Noted:
    """An ``IndexObserver`` that remembers the recall and the number of items of every index."""

    def __init__(self) -> None:
        self.recalls: list[float] = []
        self.sizes: list[int] = []

    def index_loaded(self, *, version: str, embedder_name: str, n_items: int, recall: float) -> None:
        assert version
        assert embedder_name
        self.recalls.append(recall)
        self.sizes.append(n_items)


async def save_vectors(database: Database, ids: Sequence[int], vectors: Floats, name: str = "given-1") -> None:
    """Store ``vectors``, float32 (n, dim), of the songs ``ids``."""
    store = SqlEmbeddingStore(database, SONGS)
    await store.save(f"{name}-{vectors.shape[1]}", np.array(ids, dtype=np.int64), vectors, [bytes([1]) * 32] * len(ids))
