"""Nearest neighbours among the rows of an index: an exact scan, and faiss FastScan that checks its own recall.

FastScan (Andre et al., "Quicker ADC", 2019) keeps four bits for every two dimensions and looks distances up within
registers; what comes out on top is compared again with the rows themselves. Where rows lie in clusters, most of them
need not be looked at: then the codes are kept in inverted lists, of which a query probes a few. Whether that is
cheaper, and with how many lists, is reckoned by a model of what each step costs; how many more candidates than asked
for are compared again (``k_factor``) is found out on a sample.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import NamedTuple, Protocol

import faiss
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from core.ports.arrays import Floats
from services.recall_sample import AT, interests

Places = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float32] | npt.NDArray[np.float16]
Doubles = npt.NDArray[np.float64]
Found = tuple[Places, Floats]
"""Places, best first, and their cosines, rounded."""
Codes = faiss.IndexPQFastScan | faiss.IndexIVFPQFastScan

# Below this a scan of everything takes no longer than FastScan with all that goes with it.
EXACT_BELOW = 20_000
# Rows times dimensions: a part's codes need no training, and so pay as soon as its rows outgrow a core's own cache.
_PART_EXACT_BELOW = 600_000
RECALL_AIM = 0.99
# A sample's mean is off by some 0.001, and the worst of three is rather too low.
_SAMPLE_AIM = 0.991
# Of the true neighbours, in the lists that are probed: what these lose, no comparing of more candidates wins back.
_LISTS_AIM = 0.998
# Likewise of those that are long enough to be held.
_LENGTHS_AIM = 0.998
# Fewer are not worth leaving any out: whoever has most of the best excluded wants what comes after them.
_LEAST_HELD = 20_000
# Equal vectors must tie wherever they stand, though sums of their products are taken in different orders.
_SCORE_STEP = 2.0**-20
# Of numbers from 8 to 16 it is the step of float32.
_ROUNDING = np.float32(12)
# A rounded score and a place are sorted as one number: the place in its lower bits.
_PLACE_BITS = 2**32 - 1

_CACHE_LINE = 64
_TINY = 1e-12

_N_OF_A_KIND = 64
_K_FACTORS = (2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0, 28.0, 32.0)
_N_LISTS = (64, 256, 1024)
_ROWS_PER_LIST = 256
_N_BITS = 4
_N_TRAINING = 16_384
_N_LISTS_TRAINING = 40_960
_CHUNK = 32_768
# Few, so that whoever waits for the interpreter waits for no long copy.
_GATHERED_CHUNK = 4096
# Asked for besides, so that what ties at the end of a list is cut by place and not by chance.
_SPARE = 16

# What the steps of a search take, measured on one core with AVX-512; only their ratios matter for what is chosen.
_CALL_US = 60.0
_LIST_US = 1.6
_MULTIPLY_US = 1e-4
_LOOK_UP_US = 1.25e-5
_GATHER_US = 4e-3


class VectorScan(Protocol):
    """Searches one immutable set of rows."""

    @property
    def kind(self) -> str:
        """``exact``, ``fastscan`` or ``fastscan_lists``."""

    @property
    def recall(self) -> float:
        """Recall@200 against an exact scan, on a sample of queries: the mean of the kind of them that fares worst."""

    @property
    def rows(self) -> Rows:
        """The rows as they are kept, (n, dim)."""

    @property
    def cost_us(self) -> float:
        """About how long one query takes, by a model of its steps."""

    @property
    def n_bytes(self) -> int:
        """Memory for the rows and their codes."""

    def search(self, units: Floats, n: int, n_besides: int = 0) -> list[Found]:
        """The ``n + n_besides`` rows nearest to each of ``units``, float32 (k, dim); of equal ones the foremost.

        ``n`` of them will be used: the others take the places of those that are not wanted.
        """

    def part(self, places: Places) -> "VectorScan":
        """A scan of the rows at ``places`` alone, for queries from everywhere."""


class ExactScan:
    """Compares the queries with every row."""

    kind = "exact"
    recall = 1.0

    def __init__(self, rows: Rows) -> None:
        self.rows = _aligned(rows)

    @property
    def cost_us(self) -> float:
        """As ``VectorScan.cost_us``."""
        return self.rows.size * _MULTIPLY_US

    @property
    def n_bytes(self) -> int:
        """As ``VectorScan.n_bytes``."""
        return self.rows.nbytes

    def search(self, units: Floats, n: int, n_besides: int = 0) -> list[Found]:
        """As ``VectorScan.search``."""
        # One by one: a product of few rows by many takes longer, and might be rounded otherwise than one alone.
        return [_best(self.rows @ unit, n + n_besides) for unit in units]

    def part(self, places: Places) -> "ExactScan":
        """As ``VectorScan.part``."""
        return ExactScan(self.rows[places])


class FastScan:
    """An approximate scan of codes, compared again with the rows, which are kept as float16."""

    def __init__(self, codes: Codes, rows: faiss.IndexScalarQuantizer, tuning: "Tuning") -> None:
        self._codes, self._rows, self.tuning = codes, rows, tuning
        self._refined = faiss.IndexRefine(codes, rows)
        self._mapped: npt.NDArray[np.uint8] | None = None

    @classmethod
    def read(cls, rows: npt.NDArray[np.uint8], codes: npt.NDArray[np.uint8], tuning: "Tuning") -> "FastScan":
        """What ``write_rows`` and ``write_codes`` wrote; the rows are used where they lie, the codes are copied."""
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(rows), len(rows))  # type: ignore[attr-defined]  # not in its stubs
        kept, of_kept = faiss.read_index(reader), faiss.deserialize_index(codes)
        # For the type checker.
        assert isinstance(kept, faiss.IndexScalarQuantizer)  # noqa: S101
        assert isinstance(of_kept, Codes)  # noqa: S101
        scan = cls(of_kept, kept, tuning)
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
        """As ``VectorScan.recall``."""
        return self.tuning.recall

    @property
    def cost_us(self) -> float:
        """As ``VectorScan.cost_us``."""
        n, dim = self._rows.ntotal, self._rows.d
        compared_us = _CALL_US + self.tuning.k_factor * AT * dim * _MULTIPLY_US
        if not isinstance(self._codes, faiss.IndexIVF):
            return compared_us + n * dim * _LOOK_UP_US
        n_lists, n_probes = self._codes.nlist, self.tuning.n_probes
        return compared_us + _lists_us(dim, n_lists, n_probes, n * n_probes / n_lists)

    @property
    def n_bytes(self) -> int:
        """As ``VectorScan.n_bytes``."""
        return self.rows.nbytes + self._rows.ntotal * self._codes.pq.code_size

    @property
    def rows(self) -> Rows:
        """What faiss keeps, seen as an array, float16 (n, dim)."""
        n, dim = self._rows.ntotal, self._rows.d
        view: Rows = faiss.rev_swig_ptr(self._rows.codes.data(), n * dim * 2).view(np.float16).reshape(n, dim)
        return view

    def search(self, units: Floats, n: int, n_besides: int = 0) -> list[Found]:
        """As ``VectorScan.search``."""
        # OpenMP's limit is each thread's own. Jobs need the other cores.
        faiss.omp_set_num_threads(1)
        asked = min(n + n_besides + _SPARE, self._refined.ntotal)
        parameters = _parameters(self.tuning, n, n_besides + _SPARE)
        found = []
        # On one thread a query alone takes less time than its share of several.
        for unit in units:
            [scores], [places] = self._refined.search(unit[None], asked, params=parameters)
            found.append(_ordered(places, scores, n + n_besides))
        return found

    def part(self, places: Places) -> VectorScan:
        """As ``VectorScan.part``, by the codes of the whole, which need no training."""
        rows = self.rows[places]
        if rows.size < _PART_EXACT_BELOW:
            return ExactScan(rows)
        with _one_thread():
            codes = _plain_codes(rows.shape[1])
            codes.pq, codes.is_trained = self._codes.pq, True
            return _tuned([_Way(codes)], rows, _Sample(rows, self.rows, seed=0))


class GatheredScan:
    """Compares the queries with some rows where they lie: nothing is built or copied, but each search reads them all.

    It stands in for a part while its codes are made.
    """

    kind = "exact"
    recall = 1.0

    def __init__(self, rows: Rows, places: Places) -> None:
        self._rows, self._places = rows, places

    @property
    def rows(self) -> Rows:
        """As ``VectorScan.rows``; copied at each call."""
        return self._rows[self._places]

    @property
    def cost_us(self) -> float:
        """As ``VectorScan.cost_us``."""
        return self._places.size * int(self._rows.shape[1]) * _GATHER_US

    @property
    def n_bytes(self) -> int:
        """As ``VectorScan.n_bytes``; the rows are another scan's."""
        return self._places.nbytes

    def search(self, units: Floats, n: int, n_besides: int = 0) -> list[Found]:
        """As ``VectorScan.search``."""
        scores = np.empty((len(units), len(self._places)), dtype=np.float32)
        for start in range(0, len(self._places), _GATHERED_CHUNK):
            chunk = self._rows[self._places[start : start + _GATHERED_CHUNK]].astype(np.float32)
            for own, unit in zip(scores, units, strict=True):
                np.dot(chunk, unit, out=own[start : start + len(chunk)])
        return [_best(own, n + n_besides) for own in scores]

    def part(self, places: Places) -> "GatheredScan":
        """As ``VectorScan.part``."""
        return GatheredScan(self._rows, self._places[places])


def part_at_once(scan: VectorScan, places: Places) -> VectorScan:
    """A scan of the rows of ``scan`` at ``places`` that takes no building: the part, or what stands in for it."""
    if isinstance(scan, FastScan) and len(places) * scan.rows.shape[1] >= _PART_EXACT_BELOW:
        return GatheredScan(scan.rows, places)
    return scan.part(places)


class Tuning(NamedTuple):
    """How a ``FastScan`` searches, and what recall that gave; ``n_probes`` is 0 without inverted lists."""

    k_factor: float
    n_probes: int
    recall: float = 0.0


@lru_cache(maxsize=64)
def _parameters(tuning: Tuning, n: int, n_besides: int) -> faiss.IndexRefineSearchParameters:
    """For ``n``, among ``k_factor`` times as many candidates as these or 200, and for so many candidates besides."""
    enough = max(n, AT)
    parameters = faiss.IndexRefineSearchParameters()
    parameters.k_factor = (tuning.k_factor * enough + n_besides) / max(n + n_besides, 1)
    if tuning.n_probes:
        lists = faiss.SearchParametersIVF()
        # As many lists as hold that many more.
        lists.nprobe = -(-tuning.n_probes * enough // AT)
        parameters.base_index_params = lists
    return parameters


def build_scan(rows: Rows, *, exact_below: int = EXACT_BELOW, seed: int = 0) -> VectorScan:
    """The scan for ``rows``, (n, dim) of unit length: exact where they are few, or where nothing else finds enough.

    Takes some 40 s for a million rows of 256 dimensions. The same rows give the same scan.
    """
    if len(rows) < exact_below or rows.shape[1] % 2:
        return ExactScan(rows)
    with _one_thread():
        sample = _Sample(rows, rows, seed)
        return _tuned(_ways(rows, sample, seed), rows, sample)


def build_products_scan(
    rows: Rows, queries: Floats, *, aims: Sequence[float] = (_SAMPLE_AIM,), seed: int = 0
) -> tuple[VectorScan, Places]:
    """A scan for inner products with ``rows``, (n, even dim), no longer than 1, and where those that it holds stand.

    The places rise. Left out are rows so short that they are hardly ever among the best. ``queries``, (k * 64, dim) of
    unit length, 64 of each kind, stand for what will be asked; enough is the first of ``aims``, from high to low, that
    codes can reach. The recall of the scan is that among all ``rows``.
    """
    with _one_thread():
        sample = _Sample(rows, rows, seed, queries)
        squares = _square_lengths(rows)
        places = _long_enough(squares, sample)
        held = rows[places]
        # Long rows are what is found, however few: codes must fit them.
        training = _some(held, _N_TRAINING, seed, squares[places])
        codes = _trained(_plain_codes(rows.shape[1]), training, seed)
        scan = _tuned([_Way(codes)], held, sample, aims)
    return (scan, places) if isinstance(scan, FastScan) else (ExactScan(rows), np.arange(len(rows)))


def _long_enough(squares: Doubles, sample: "_Sample") -> Places:
    """Where the longest rows stand, as many as hold enough of the true neighbours of every kind of query."""
    longest_first = np.argsort(-squares, kind="stable")
    ranks = np.empty_like(longest_first)
    ranks[longest_first] = np.arange(len(squares))
    of_kinds = ranks[sample.true_places].reshape(-1, _N_OF_A_KIND * sample.true_places.shape[1])
    n_held = 1 + int(np.quantile(of_kinds, _LENGTHS_AIM, axis=1, method="higher").max())
    return np.sort(longest_first[: max(n_held, _LEAST_HELD)])


class _Sample:
    """Queries such as listeners' interests, and their true neighbours.

    An interest may be one like, the mean of like ones or, of a listener with many tastes, that of unlike ones: rows
    of ``asked_like``, means of such a row and a neighbour of it, and means of two of them, as many of each kind.
    """

    def __init__(self, rows: Rows, asked_like: Rows, seed: int, queries: Floats | None = None) -> None:
        self.queries = _drawn_interests(rows, asked_like, seed) if queries is None else queries
        self.true_places, self._true_scores = _exact_neighbours(rows, self.queries, AT)

    def recall(self, scores: Floats) -> float:
        """Of found ``scores`` (n_queries, n): the mean share that reaches the score of the 200th true neighbour."""
        # By score: of rows that tie at the end any will do.
        reached = scores >= self._true_scores.min(axis=1, keepdims=True) - _SCORE_STEP
        return self.worst(np.minimum(reached.sum(axis=1) / self._true_scores.shape[1], 1))

    def worst(self, shares: npt.NDArray[np.floating]) -> float:
        """Of shares per query the mean of each kind, and the least of these."""
        return float(shares.reshape(-1, _N_OF_A_KIND).mean(axis=1).min())


def _drawn_interests(rows: Rows, asked_like: Rows, seed: int) -> Floats:
    generator = np.random.default_rng([seed, len(rows)])
    ones, others = asked_like[generator.integers(len(asked_like), size=(2, _N_OF_A_KIND))].astype(np.float32)
    near, _ = _exact_neighbours(rows, ones, AT)
    neighbours = rows[generator.permuted(near, axis=1)[:, 0]].astype(np.float32)
    return interests(ones, neighbours, others)


class _Way(NamedTuple):
    """Trained codes without any rows yet, and how many of their lists to probe if there are lists."""

    codes: Codes
    n_probes: int = 0


def _ways(rows: Rows, sample: _Sample, seed: int) -> Iterator[_Way]:
    """The ways of keeping codes, the one that should be cheapest first."""
    dim, training = rows.shape[1], _some(rows, _N_TRAINING, seed)
    chosen = _inverted_lists(rows, sample, seed)
    if chosen:
        lists, n_probes = chosen
        codes = faiss.IndexIVFPQFastScan(lists, dim, lists.ntotal, dim // 2, _N_BITS, faiss.METRIC_INNER_PRODUCT)
        yield _Way(_trained(codes, training, seed), n_probes)
    yield _Way(_trained(_plain_codes(dim), training, seed))


def _plain_codes(dim: int) -> faiss.IndexPQFastScan:
    return faiss.IndexPQFastScan(dim, dim // 2, _N_BITS, faiss.METRIC_INNER_PRODUCT)


def _trained(codes: Codes, training: Floats, seed: int) -> Codes:
    codes.pq.cp.seed = seed + 1
    codes.train(training)
    return codes


def _inverted_lists(rows: Rows, sample: _Sample, seed: int) -> tuple[faiss.IndexFlatIP, int] | None:
    """Centroids of lists and how many to probe, if that is cheaper than to look at every row.

    It is found out before any row is put into them: from where the centroids lie to the sample's true neighbours.
    """
    n, dim = rows.shape
    training = _some(rows, _N_LISTS_TRAINING, seed)
    cheapest_us, chosen = n * dim * _LOOK_UP_US, None
    for n_lists in _N_LISTS:
        if n_lists * _ROWS_PER_LIST > n:
            break
        kmeans = faiss.Kmeans(dim, n_lists, niter=6, spherical=True, seed=seed + 1, min_points_per_centroid=1)
        kmeans.train(training)
        centroids = np.asarray(kmeans.centroids, dtype=np.float32)
        sizes = np.bincount(_homes(training, centroids), minlength=n_lists) * (n / len(training))
        n_probes, n_looked_at = _probes(rows, centroids, sizes, sample)
        cost_us = _lists_us(dim, n_lists, n_probes, n_looked_at)
        if cost_us >= cheapest_us:
            break
        cheapest_us, chosen = cost_us, (centroids, n_probes)
    if chosen is None:
        return None
    lists = faiss.IndexFlatIP(dim)
    lists.add(chosen[0])
    return lists, chosen[1]


def _probes(rows: Rows, centroids: Floats, sizes: npt.NDArray[np.float64], sample: _Sample) -> tuple[int, float]:
    """How many lists hold enough of the true neighbours of every kind of query, and about how many rows in all."""
    n_lists, (n_queries, n_true) = len(centroids), sample.true_places.shape
    nearest_first = np.argsort(-(sample.queries @ centroids.T), axis=1)
    ranks = np.argsort(nearest_first, axis=1)
    homes = _homes(rows[sample.true_places.ravel()].astype(np.float32), centroids).reshape(n_queries, n_true)
    of_neighbours = np.take_along_axis(ranks, homes, axis=1)
    for n_probes in range(1, n_lists):
        if sample.worst((of_neighbours < n_probes).mean(axis=1)) >= _LISTS_AIM:
            return n_probes, float(sizes[nearest_first[:, :n_probes]].sum(axis=1).mean())
    return n_lists, float(sizes.sum())


def _homes(rows: Floats, centroids: Floats) -> Places:
    nearest: Places = np.argmax(rows @ centroids.T, axis=1)
    return nearest


def _lists_us(dim: int, n_lists: int, n_probes: int, n_looked_at: float) -> float:
    """To find the nearest lists and to look through them."""
    return n_lists * dim * _MULTIPLY_US + n_probes * _LIST_US + n_looked_at * dim * _LOOK_UP_US


def _tuned(ways: Iterable[_Way], rows: Rows, sample: _Sample, aims: Sequence[float] = (_SAMPLE_AIM,)) -> VectorScan:
    """The scan by the first of ``ways`` that finds enough; ``rows`` are those of the sample, or some of them."""
    kept = faiss.IndexScalarQuantizer(rows.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    kept.train(rows[:1].astype(np.float32))
    _fill(kept, rows)
    for codes, n_probes in ways:
        _fill(codes, rows)
        tuning = _tuning(faiss.IndexRefine(codes, kept), n_probes, sample, aims)
        if tuning:
            return FastScan(codes, kept, tuning)
    return ExactScan(rows)


def _tuning(refined: faiss.IndexRefine, n_probes: int, sample: _Sample, aims: Sequence[float]) -> Tuning | None:
    """The least ``k_factor`` that finds enough; None where none does. More candidates never find less."""

    @cache
    def recall(k_factor: float) -> float:
        scores, _ = refined.search(sample.queries, AT, params=_parameters(Tuning(k_factor, n_probes), AT, 0))
        return sample.recall(scores)

    for aim in aims:
        place = bisect_left(_K_FACTORS, aim, key=recall)
        if place < len(_K_FACTORS):
            return Tuning(_K_FACTORS[place], n_probes, recall(_K_FACTORS[place]))
    return None


def _fill(index: faiss.Index, rows: Rows) -> None:
    for start in range(0, len(rows), _CHUNK):
        index.add(rows[start : start + _CHUNK].astype(np.float32))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Jobs need the other cores. (OpenMP's limit is each thread's own.)"""
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1, user_api="blas"):
        yield


def _exact_neighbours(rows: Rows, queries: Floats, n: int) -> tuple[Places, Floats]:
    heap = faiss.ResultHeap(len(queries), min(n, len(rows)), keep_max=True)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK].astype(np.float32)
        scores = queries @ chunk.T
        best = np.argpartition(-scores, min(n, scores.shape[1]) - 1, axis=1)[:, :n]
        heap.add_result(np.take_along_axis(scores, best, axis=1), best + start)
    heap.finalize()
    return heap.I, heap.D


def _write(index: faiss.Index, write: Callable[[bytes], object]) -> None:
    faiss.write_index(index, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]  # not in its stubs


def _square_lengths(rows: Rows) -> Doubles:
    starts = range(0, len(rows), _CHUNK)
    squares = [np.square(rows[start : start + _CHUNK], dtype=np.float32).sum(axis=1) for start in starts]
    # Rows of no length may be drawn too, where there is nothing else.
    return np.concatenate(squares).astype(np.float64) + _TINY


def _some(rows: Rows, n: int, seed: int, weights: Doubles | None = None) -> Floats:
    """Some ``n`` of ``rows``, the likelier the more they weigh."""
    shares = None if weights is None else weights / weights.sum()
    places = np.random.default_rng([seed, n]).choice(len(rows), min(n, len(rows)), replace=False, p=shares)
    return rows[np.sort(places)].astype(np.float32)


def _aligned(rows: Rows) -> Floats:
    """``rows`` at 32 bits, copied to where a cache line begins: in a core's own cache products take a sixth less."""
    n_bytes = 4 * rows.size
    room = np.empty(n_bytes + _CACHE_LINE, dtype=np.uint8)
    start = -room.ctypes.data % _CACHE_LINE
    aligned: Floats = room[start : start + n_bytes].view(np.float32).reshape(rows.shape)
    aligned[:] = rows
    return aligned


def _best(scores: Floats, n: int) -> Found:
    """The places of the ``n`` highest scores once rounded, highest first, and these; of equal ones the foremost."""
    n = min(n, len(scores))
    if n <= 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    keys = _keys(np.arange(len(scores)), scores)
    keys.partition(n - 1)
    return _found(np.sort(keys[:n]))


def _ordered(places: Places, scores: Floats, n: int) -> Found:
    """The first ``n`` by falling rounded score, then place; faiss says -1, at the end, where there are no more."""
    if places[-1] < 0:
        places, scores = places[places >= 0], scores[places >= 0]
    return _found(np.sort(_keys(places, scores))[:n])


def _keys(places: Places, scores: Floats) -> Places:
    """``places`` made into numbers that rise as rounded scores fall and, where these are equal, as places rise.

    The upper half of each (on machines that faiss has wheels for) is a float32 that is rounded to a score's step by how
    large it is; such floats are ordered as the integers of the same bits are.
    """
    np.minimum(np.maximum(scores, -1, out=scores), 1, out=scores)
    np.subtract(_ROUNDING, scores, out=places.view(np.float32)[1::2])
    return places


def _found(keys: Places) -> Found:
    return keys & _PLACE_BITS, _ROUNDING - keys.view(np.float32)[1::2]
