"""Nearest neighbours among the rows of an index: an exact scan, and faiss FastScan that checks its own recall.

FastScan (Andre et al., "Quicker ADC", 2019) keeps four bits for every two dimensions and looks distances up within
registers; what comes out on top is compared again with the rows themselves. Where rows lie in clusters, most of them
need not be looked at: then the codes are kept in inverted lists, of which a query probes a few. Which of the two, how
many lists, and how many more candidates than asked for are compared again (``k_factor``) is found out on a sample.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from core.ports import Floats

Places = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float32] | npt.NDArray[np.float16]
Found = tuple[Places, Floats]
"""Places, best first, and their cosines, rounded."""

# Below this a scan of everything takes no longer than FastScan with all that goes with it.
EXACT_BELOW = 20_000
RECALL_AIM = 0.99
# Equal vectors must tie wherever they stand, though sums of their products are taken in different orders.
_SCORE_DECIMALS = 6

_AT = 200
_N_SAMPLED = 96
_K_FACTORS = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
_N_PROBES = (4, 8, 16, 32, 64)
_MAX_LISTS = 1024
_ROWS_PER_LIST = 96
# Coarser than the aim: what the lists lose cannot be won back by comparing more candidates.
_LISTS_AIM = 0.995
_N_TRAINING = 16_384
_N_LISTS_TRAINING = 40_960
_CHUNK = 32_768
# Asked for besides, so that what ties at the end of a list is cut by place and not by chance.
_SPARE = 16


class VectorScan(Protocol):
    """Searches one immutable set of rows."""

    @property
    def kind(self) -> str:
        """``exact``, ``fastscan`` or ``fastscan_lists``."""

    @property
    def recall(self) -> float:
        """Recall@200 against an exact scan, on a sample of queries."""

    @property
    def rows(self) -> Rows:
        """The rows as they are kept, (n, dim)."""

    @property
    def n_steps(self) -> int:
        """About how many multiplications one query takes, for comparing times."""

    def search(self, units: Floats, n: int) -> list[Found]:
        """The ``n`` rows nearest to each of ``units``, float32 (k, dim); of equal ones the foremost."""


class ExactScan:
    """Compares the queries with every row."""

    kind = "exact"
    recall = 1.0

    def __init__(self, rows: Rows) -> None:
        self.rows: Floats = np.asarray(rows, dtype=np.float32)

    @property
    def n_steps(self) -> int:
        """One for each number."""
        return self.rows.size

    def search(self, units: Floats, n: int) -> list[Found]:
        """As ``VectorScan.search``."""
        scores = np.round(units @ self.rows.T, _SCORE_DECIMALS)
        return [(best := _best(each, n), np.clip(each[best], -1, 1)) for each in scores]


class FastScan:
    """An approximate scan of codes, compared again with the rows, which are kept as float16."""

    def __init__(self, codes: faiss.Index, rows: faiss.IndexScalarQuantizer, tuning: "Tuning") -> None:
        self._codes, self._rows, self.tuning = codes, rows, tuning
        self._refined = faiss.IndexRefine(codes, rows)
        self._mapped: npt.NDArray[np.uint8] | None = None

    @classmethod
    def read(cls, rows: npt.NDArray[np.uint8], codes: npt.NDArray[np.uint8], tuning: "Tuning") -> "FastScan":
        """What ``write_rows`` and ``write_codes`` wrote; the rows are used where they lie, the codes are copied."""
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(rows), len(rows))  # type: ignore[attr-defined]  # not in its stubs
        kept = faiss.read_index(reader)
        assert isinstance(kept, faiss.IndexScalarQuantizer)  # noqa: S101 - for the type checker
        scan = cls(faiss.deserialize_index(codes), kept, tuning)
        # The array must live as long as faiss looks into it.
        scan._mapped = rows
        return scan

    def write_rows(self, write: Callable[[bytes], object]) -> None:
        """The rows, in faiss's format."""
        _write(self._rows, write)

    def write_codes(self, write: Callable[[bytes], object]) -> None:
        """The codes, in faiss's format."""
        _write(self._codes, write)

    @property
    def kind(self) -> str:
        """``fastscan`` or ``fastscan_lists``."""
        return "fastscan_lists" if self.tuning.n_probes else "fastscan"

    @property
    def recall(self) -> float:
        """Recall@200 against an exact scan, on a sample of queries."""
        return self.tuning.recall

    @property
    def n_steps(self) -> int:
        """Codes are looked up at some ten times the pace of multiplying, if they are looked at at all."""
        dim, n_looked_at = self._rows.d, self._rows.ntotal
        if isinstance(self._codes, faiss.IndexIVF):
            n_looked_at = n_looked_at * self.tuning.n_probes // self._codes.nlist
        return n_looked_at * dim // 10

    @property
    def rows(self) -> Rows:
        """What faiss keeps, seen as an array, float16 (n, dim)."""
        n, dim = self._rows.ntotal, self._rows.d
        view: Rows = faiss.rev_swig_ptr(self._rows.codes.data(), n * dim * 2).view(np.float16).reshape(n, dim)
        return view

    def search(self, units: Floats, n: int) -> list[Found]:
        """As ``VectorScan.search``."""
        # OpenMP's limit is each thread's own. Jobs need the other cores.
        faiss.omp_set_num_threads(1)
        asked = min(n + _SPARE, self._refined.ntotal)
        scores, places = self._refined.search(
            np.ascontiguousarray(units, dtype=np.float32), asked, params=self.tuning.parameters(asked)
        )
        return [_ordered(*each, n) for each in zip(places, scores, strict=True)]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a ``FastScan`` searches, and what recall that gave; ``n_probes`` is 0 without inverted lists."""

    k_factor: float
    n_probes: int
    recall: float = 0.0

    def parameters(self, n: int) -> faiss.IndexRefineSearchParameters:
        """For a search of ``n``; few are asked for among as many candidates as 200 would be."""
        parameters = faiss.IndexRefineSearchParameters()
        parameters.k_factor = self.k_factor * max(1.0, _AT / max(n, 1))
        if self.n_probes:
            lists = faiss.SearchParametersIVF()
            # As many lists as hold that many more.
            lists.nprobe = -(-self.n_probes * max(n, _AT) // _AT)
            parameters.base_index_params = lists
        return parameters


def build_scan(
    rows: Rows, *, asked_like: Rows | None = None, exact_below: int = EXACT_BELOW, seed: int = 0
) -> VectorScan:
    """The scan for ``rows``, (n, dim) of unit length: exact where they are few, or where nothing else finds enough.

    ``asked_like`` holds rows of other items too, where queries are as likely to be near those. Takes some 40 s for a
    million rows of 256 dimensions. The same rows give the same scan.
    """
    if len(rows) < exact_below or rows.shape[1] % 2:
        return ExactScan(rows)
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1, user_api="blas"):
        sample = _Sample(rows, rows if asked_like is None else asked_like, seed)
        codes = _codes(rows, sample, seed)
        kept = _kept_rows(rows)
        tuning = _tune(codes, kept, sample)
    return FastScan(codes, kept, tuning) if tuning else ExactScan(rows)


class _Sample:
    """Queries like a listener's interests, means of something and one of its neighbours, and their true neighbours."""

    def __init__(self, rows: Rows, asked_like: Rows, seed: int) -> None:
        generator = np.random.default_rng([seed, len(rows)])
        ones = asked_like[generator.integers(len(asked_like), size=_N_SAMPLED)].astype(np.float32)
        near, _ = _exact_neighbours(rows, ones, _AT)
        others = rows[generator.permuted(near, axis=1)[:, 0]].astype(np.float32)
        lengths = np.linalg.norm(ones + others, axis=1, keepdims=True)
        self.queries: Floats = np.divide(ones + others, lengths, out=np.zeros_like(ones), where=lengths > 0)
        self.true_places, self.true_scores = _exact_neighbours(rows, self.queries, _AT)

    def recall(self, scores: Floats) -> float:
        """Of found ``scores`` (n_queries, n): the mean share that reaches the score of the 200th true neighbour."""
        # By score: of rows that tie at the end any will do.
        reached = scores >= self.true_scores.min(axis=1, keepdims=True) - 10**-_SCORE_DECIMALS
        return float(np.minimum(reached.sum(axis=1) / self.true_scores.shape[1], 1).mean())


def _exact_neighbours(rows: Rows, queries: Floats, n: int) -> tuple[Places, Floats]:
    heap = faiss.ResultHeap(len(queries), min(n, len(rows)), keep_max=True)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK].astype(np.float32)
        scores = queries @ chunk.T
        best = np.argpartition(-scores, min(n, scores.shape[1]) - 1, axis=1)[:, :n]
        heap.add_result(np.take_along_axis(scores, best, axis=1), best + start)
    heap.finalize()
    return heap.I, heap.D


def _codes(rows: Rows, sample: _Sample, seed: int) -> faiss.Index:
    """The codes of ``rows``, in inverted lists where few of those hold the neighbours of a query."""
    dim = rows.shape[1]
    lists = _inverted_lists(rows, sample, seed)
    n_bits = 4
    codes = (
        faiss.IndexPQFastScan(dim, dim // 2, n_bits, faiss.METRIC_INNER_PRODUCT)
        if lists is None
        else faiss.IndexIVFPQFastScan(lists, dim, lists.ntotal, dim // 2, n_bits, faiss.METRIC_INNER_PRODUCT)
    )
    codes.pq.cp.seed = seed + 1
    codes.train(_some(rows, _N_TRAINING, seed))
    for start in range(0, len(rows), _CHUNK):
        codes.add(rows[start : start + _CHUNK].astype(np.float32))
    return codes


def _inverted_lists(rows: Rows, sample: _Sample, seed: int) -> faiss.IndexFlatIP | None:
    """Centroids, if probing a few of their lists is enough; found out before any row is put into them."""
    n_lists = min(_MAX_LISTS, len(rows) // _ROWS_PER_LIST)
    if n_lists <= 2 * _N_PROBES[-1]:
        return None
    kmeans = faiss.Kmeans(rows.shape[1], n_lists, niter=6, spherical=True, seed=seed + 1, min_points_per_centroid=1)
    kmeans.train(_some(rows, _N_LISTS_TRAINING, seed))
    centroids = np.asarray(kmeans.centroids, dtype=np.float32)
    homes = np.argmax(rows[sample.true_places.ravel()].astype(np.float32) @ centroids.T, axis=1)
    probed = np.argsort(-(sample.queries @ centroids.T), axis=1)[:, : _N_PROBES[-1]]
    inside = (homes.reshape(sample.true_places.shape)[:, :, None] == probed[:, None, :]).any(axis=2)
    if inside.mean() < _LISTS_AIM:
        return None
    lists = faiss.IndexFlatIP(rows.shape[1])
    lists.add(centroids)
    return lists


def _kept_rows(rows: Rows) -> faiss.IndexScalarQuantizer:
    kept = faiss.IndexScalarQuantizer(rows.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    kept.train(rows[:1].astype(np.float32))
    for start in range(0, len(rows), _CHUNK):
        kept.add(rows[start : start + _CHUNK].astype(np.float32))
    return kept


def _tune(codes: faiss.Index, rows: faiss.IndexScalarQuantizer, sample: _Sample) -> Tuning | None:
    """The first way of searching, from the cheapest on, that finds enough; None where none does."""
    probes = _N_PROBES if isinstance(codes, faiss.IndexIVFPQFastScan) else (0,)
    refined = faiss.IndexRefine(codes, rows)
    for n_probes, k_factor in sorted(product(probes, _K_FACTORS), key=lambda pair: (pair[0] or 1) * (4 + pair[1])):
        scores, _ = refined.search(sample.queries, _AT, params=Tuning(k_factor, n_probes).parameters(_AT))
        recall = sample.recall(scores)
        if recall >= RECALL_AIM:
            return Tuning(k_factor, n_probes, recall)
    return None


def _write(index: faiss.Index, write: Callable[[bytes], object]) -> None:
    faiss.write_index(index, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]  # not in its stubs


def _some(rows: Rows, n: int, seed: int) -> Floats:
    places = np.random.default_rng([seed, n]).choice(len(rows), min(n, len(rows)), replace=False)
    return rows[np.sort(places)].astype(np.float32)


def _best(scores: Floats, n: int) -> Places:
    """The places of the ``n`` highest scores, highest first; of equal ones the foremost."""
    n = min(n, len(scores))
    if n <= 0:
        return np.zeros(0, dtype=np.int64)
    lowest = np.partition(scores, len(scores) - n)[len(scores) - n]
    reaching = np.flatnonzero(scores >= lowest)
    return reaching[np.argsort(-scores[reaching], kind="stable")[:n]]


def _ordered(places: Places, scores: Floats, n: int) -> Found:
    found = places >= 0
    places, scores = places[found], np.round(scores[found], _SCORE_DECIMALS)
    order = np.lexsort((places, -scores))[:n]
    return places[order], np.clip(scores[order], -1, 1)
