"""Rows of an index, made from a few vectors."""

from collections.abc import Sequence

import numpy as np

from core.ports.index import IndexRows


def make_rows(
    vectors: Sequence[Sequence[float]],
    *,
    ids: Sequence[int] | None = None,
    popularity: Sequence[float] | None = None,
    genres: Sequence[tuple[str, ...]] | None = None,
    moods: Sequence[tuple[str, ...]] | None = None,
    languages: Sequence[str | None] | None = None,
    version: str = "v1",
) -> IndexRows:
    """Items 1, 2, 3 ... with ``vectors`` made unit ones, each by a creator of its own."""
    n = len(vectors)
    raw = np.array(vectors, dtype=np.float32).reshape(n, len(vectors[0]) if n else 0)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    return IndexRows(
        ids=np.array(ids if ids is not None else range(1, n + 1), dtype=np.int64),
        vectors=np.divide(raw, lengths, out=np.zeros_like(raw), where=lengths > 0),
        popularity=np.array(popularity if popularity is not None else [0.0] * n, dtype=np.float32),
        genres=genres or [()] * n,
        moods=moods or [()] * n,
        languages=languages or [None] * n,
        creators=[f"creator {place}" for place in range(n)],
        version=version,
    )
