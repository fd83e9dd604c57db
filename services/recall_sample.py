"""Queries such as listeners' interests, their true neighbours, and what share of these a search finds.

An interest may be one like, the mean of like ones or, of a listener with many tastes, that of unlike ones: so there are
vectors, means of a vector and a neighbour of it, and means of any two, as many of each kind.
"""

from collections.abc import Sequence

import numpy as np

from core.ports.arrays import Floats, Ids

AT = 200
N_OF_A_KIND = 32
# Of items that tie with the last true neighbour any will do.
_SPARE = 100
_TIE = 1e-6


class Nearest:
    """The ``n`` items nearest to each query among those that have passed by: ``ids`` and ``scores`` (n_queries, n)."""

    def __init__(self, queries: Floats, n: int) -> None:
        self._queries, self._n = queries, n
        self.ids: Ids = np.zeros((len(queries), 0), dtype=np.int64)
        self.scores: Floats = np.zeros((len(queries), 0), dtype=np.float32)

    def look_at(self, ids: Ids, units: Floats) -> None:
        """``ids`` int64 (m,) with vectors ``units`` float32 (m, dim)."""
        scores = np.concatenate([self.scores, self._queries @ units.T], axis=1)
        of_scores = np.concatenate([self.ids, np.broadcast_to(ids, (len(self._queries), len(ids)))], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self._n]
        self.scores, self.ids = np.take_along_axis(scores, best, 1), np.take_along_axis(of_scores, best, 1)


class RecallSample:
    """``queries`` float32 (3 x 32, dim), each kind together, and the items that have been found to be their nearest."""

    def __init__(self, queries: Floats, nearest: Nearest) -> None:
        self.queries = queries
        self._n_true = min(AT, nearest.ids.shape[1])
        lowest = nearest.scores[:, self._n_true - 1 : self._n_true] - _TIE
        self._true = [set(ids[near].tolist()) for ids, near in zip(nearest.ids, nearest.scores >= lowest, strict=True)]

    def recall(self, found: Sequence[Sequence[int]]) -> float:
        """Of the ids found for each query: the mean share of its true neighbours, of the kind that fares worst."""
        shares = [min(len(true.intersection(ids)), self._n_true) for true, ids in zip(self._true, found, strict=True)]
        of_kinds = np.array(shares, dtype=np.float64).reshape(3, -1).mean(axis=1) / self._n_true
        return float(of_kinds.min())


N_TRUE = AT + _SPARE
"""How many nearest a ``RecallSample`` wants."""


def interests(ones: Floats, neighbours: Floats, others: Floats) -> Floats:
    """The three kinds of queries, unit vectors, float32 (3 n, dim), of vectors float32 (n, dim)."""
    mixed = np.concatenate([ones, ones + neighbours, ones + others])
    lengths = np.linalg.norm(mixed, axis=1, keepdims=True)
    unit: Floats = np.divide(mixed, lengths, out=np.zeros_like(mixed), where=lengths > 0)
    return unit
