"""How fast a fitted collaborative model finds candidates, and how many of the true ones.

    python -m benchmarks.collaborative_search --n 17493 200000 1000000 [--cluster 50] [--plain] [--memory]

takes models of seeded vectors as wide as those that are fitted (a regression and factors side by side): items in
clusters, as tastes are, and of very different lengths, as popular and unpopular ones are. A million items need some
8 GB while the codes are made. ``--plain`` sets plain faiss (``PQ{d/2}x4fs,RFlat`` over the same vectors) beside it, the
two asked in turn, with twice as many candidates again and again until it finds as many of the true ones.
"""

import argparse
import asyncio
import resource
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from core.collaborative import Block, CollaborativeModel, FactorBlock, LinearBlock, Ridge
from core.fitted_collaborative import FittedCollaborative
from core.ports.arrays import Floats
from core.ports.collaborative import FusionWeights
from core.ports.index import Hits
from services.collaborative_source import InMemoryCollaborativeSource

LINEAR_DIM, FACTOR_DIM = 192, 128
N_LISTENERS, N_LIKES = 200, 12
N_FOUND, N_EXCLUDED = 300, 60
CHUNK = 50_000
N_TRAINING = 16_384
K_FACTORS = (2, 4, 8, 16, 32, 64)
N_ROUNDS = 5
MANY_LIKES = (1, 12, 100, 500, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was measured of one size; times in milliseconds."""

    n: int
    build_s: float
    listener_ms: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    scores_ms: float
    recall: float
    own_recall: float
    plain: str


def clustered(n: int, dim: int, decay: float, seed: int, cluster: int) -> Floats:
    """Rows, float32 (n, dim), in clusters of ``cluster``; half of their lengths are .6 to 1.6 times the median.

    The dimension numbered i varies by ``(1 + i) ** -decay``, as principal axes do.
    """
    generator = np.random.default_rng([seed, n])
    centres = generator.normal(size=(max(n // cluster, 1), dim)).astype(np.float32) / np.float32(np.sqrt(dim))
    rows = np.empty((n, dim), np.float32)
    deviations = ((1 + np.arange(dim)) ** -decay).astype(np.float32)
    for start in range(0, n, CHUNK):
        size = min(CHUNK, n - start)
        noise = generator.normal(size=(size, dim)).astype(np.float32) * np.float32(0.5 / np.sqrt(dim))
        # The same items go together in both blocks.
        homes = np.arange(start, start + size) % len(centres)
        rows[start : start + size] = (
            (centres[homes] + noise) * deviations * generator.lognormal(sigma=0.7, size=(size, 1))
        )
    return rows


def model_of(n: int, cluster: int) -> FittedCollaborative:
    """As wide as a fitted one: 192 dimensions of the regression, 128 factors and the popularity."""
    vectors = clustered(n, LINEAR_DIM, 0.1, 0, cluster)
    linear = LinearBlock.of(vectors, vectors)
    factors = clustered(n, FACTOR_DIM, 0.25, 1, cluster)
    spectrum = np.einsum("nd,nd->d", factors, factors, dtype=np.float64)
    popularity = np.random.default_rng(n).zipf(1.5, n).clip(max=10**6).astype(np.float64)
    blocks: list[Block] = [linear, FactorBlock(factors, spectrum, Ridge(0.1, 1.0, 0.0))]
    model = CollaborativeModel(blocks, (1.0, 1.0), popularity)
    return FittedCollaborative(np.arange(1, n + 1, dtype=np.int64), model, FusionWeights(), "benchmark")


def likes_of(n: int, cluster: int) -> list[dict[int, float]]:
    """Of listeners of three tastes each."""
    generator = np.random.default_rng(n + 1)
    n_centres = max(n // cluster, 1)
    homes = generator.integers(n_centres, size=(N_LISTENERS, 3)).repeat(N_LIKES // 3, axis=1)
    places = homes + n_centres * generator.integers(n // n_centres, size=homes.shape)
    return [dict.fromkeys((row + 1).tolist(), 1.0) for row in places]


async def measure(n: int, cluster: int, plain: bool) -> Row:
    """One size, one listener after the other."""
    fitted = model_of(n, cluster)
    began_s = time.perf_counter()
    source = await asyncio.to_thread(InMemoryCollaborativeSource, fitted)
    build_s = time.perf_counter() - began_s
    listeners, found = [], []
    took: list[list[float]] = []
    cpu_s: list[float] = []
    generator = np.random.default_rng(2)
    content = generator.integers(1, n + 1, size=N_FOUND)
    for likes in likes_of(n, cluster):
        excluded = {*likes, *generator.integers(1, n + 1, size=N_EXCLUDED - len(likes)).tolist()}
        times = [time.perf_counter()]
        listener = source.listener(likes)
        assert listener is not None  # noqa: S101 - for the type checker
        times.append(time.perf_counter())
        began_cpu_s = time.process_time()
        hits = await source.search(listener, N_FOUND, excluded=excluded)
        times.append(time.perf_counter())
        cpu_s.append(time.process_time() - began_cpu_s)
        source.scores(listener, content)
        times.append(time.perf_counter())
        took.append((np.diff(times) * 1000).tolist())
        listeners.append(listener)
        found.append((hits, excluded))
    recall = recall_of(fitted, np.stack(listeners), found)
    return Row(
        n=n,
        build_s=build_s,
        listener_ms=float(np.median([times[0] for times in took])),
        p50_ms=float(np.median([times[1] for times in took])),
        p99_ms=float(np.percentile([times[1] for times in took], 99)),
        cpu_ms=float(np.median(cpu_s)) * 1000,
        scores_ms=float(np.median([times[2] for times in took])),
        recall=recall,
        own_recall=source.recall,
        plain=await beside_plain(fitted, source, np.stack(listeners), found) if plain else "",
    )


class PlainFaiss:
    """What faiss's own factory makes of the same vectors."""

    def __init__(self, fitted: FittedCollaborative) -> None:
        vectors = fitted.model.item_vectors
        self._fitted, self._dim = fitted, vectors.shape[1] + vectors.shape[1] % 2
        index = faiss.index_factory(self._dim, f"PQ{self._dim // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
        assert isinstance(index, faiss.IndexRefine)  # noqa: S101 - for the type checker
        self._index = index
        training = np.random.default_rng(0).choice(len(vectors), min(N_TRAINING, len(vectors)), replace=False)
        self._index.train(self._even(vectors[training]))
        for start in range(0, len(vectors), CHUNK):
            self._index.add(self._even(vectors[start : start + CHUNK]))

    def _even(self, vectors: Floats) -> Floats:
        return np.pad(vectors, ((0, 0), (0, self._dim - vectors.shape[1])))

    def search(self, listener: Floats, excluded: set[int], k_factor: float) -> Hits:
        self._index.k_factor = k_factor
        [scores], [places] = self._index.search(self._even(listener[None]), N_FOUND + len(excluded))
        ids = self._fitted.item_ids[places]
        kept = np.flatnonzero(~np.isin(ids, list(excluded)))[:N_FOUND]
        return Hits(ids=ids[kept], scores=scores[kept])


async def beside_plain(
    fitted: FittedCollaborative,
    source: InMemoryCollaborativeSource,
    listeners: Floats,
    found: Sequence[tuple[Hits, set[int]]],
) -> str:
    """Both, in turn: medians over rounds of the medians of a round, wall and CPU time, and the least wall time."""
    plain, recall = PlainFaiss(fitted), recall_of(fitted, listeners, found)
    of_plain = 0.0
    for k_factor in K_FACTORS:
        hits = [plain.search(own, excluded, k_factor) for own, (_, excluded) in zip(listeners, found, strict=True)]
        excluded_sets = [excluded for _, excluded in found]
        of_plain = recall_of(fitted, listeners, list(zip(hits, excluded_sets, strict=True)))
        if of_plain >= recall:
            break
    took = np.empty((2, N_ROUNDS, len(listeners), 2))
    for turn in range(N_ROUNDS):
        for place, (own, (_, excluded)) in enumerate(zip(listeners, found, strict=True)):
            began = time.perf_counter(), time.process_time()
            await source.search(own, N_FOUND, excluded=excluded)
            between = time.perf_counter(), time.process_time()
            plain.search(own, excluded, k_factor)
            took[0, turn, place] = np.subtract(between, began)
            took[1, turn, place] = np.subtract((time.perf_counter(), time.process_time()), between)
    medians, least = np.median(np.median(took, axis=2), axis=1) * 1000, took[..., 0].min(axis=(1, 2)) * 1000
    return "; ".join(
        f"{name}: wall {wall:.2f} (least {low:.2f}), CPU {cpu:.2f}, recall {share:.4f}"
        for name, (wall, cpu), low, share in zip(
            ("ours", f"plain faiss, {k_factor} x"), medians, least, (recall, of_plain), strict=True
        )
    )


async def memory_of(source: InMemoryCollaborativeSource, likes: Mapping[int, float]) -> int:
    """Bytes that one listener takes at the most: folded in, searched for, and what content found scored."""
    content = np.arange(1, N_FOUND + 1)
    tracemalloc.start()
    try:
        listener = source.listener(likes)
        assert listener is not None  # noqa: S101 - for the type checker
        await source.search(listener, N_FOUND, excluded=set(likes))
        source.scores(listener, content)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def measure_memory(n: int, cluster: int) -> str:
    """Of a model of ``n`` items, all of which are scored, and of listeners of more and more likes."""
    fitted = model_of(n, cluster)
    source = InMemoryCollaborativeSource(fitted, exact_below=n + 1)
    await memory_of(source, {1: 1.0})  # what is made once is none of a listener's
    sizes = [(n_likes, await memory_of(source, dict.fromkeys(range(1, n_likes + 1), 1.0))) for n_likes in MANY_LIKES]
    listeners = ", ".join(f"{size / 1000:.0f} kB of {n_likes} likes" for n_likes, size in sizes)
    stored, held = len(fitted.to_bytes()) / n, fitted.model.nbytes / n
    return f"{n} items: {stored:.0f} bytes an item stored, {held:.0f} in memory; one listener: {listeners}"


def recall_of(fitted: FittedCollaborative, listeners: Floats, found: Sequence[tuple[Hits, set[int]]]) -> float:
    """The mean share of the true best that was found, with nothing that was left out."""
    _, places = faiss.knn(listeners, fitted.model.item_vectors, N_FOUND + N_EXCLUDED, metric=faiss.METRIC_INNER_PRODUCT)
    shares = []
    for of_one, (hits, excluded) in zip(fitted.item_ids[places], found, strict=True):
        true = of_one[~np.isin(of_one, list(excluded))][:N_FOUND]
        shares.append(np.isin(true, hits.ids).mean())
    return float(np.mean(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[17_493, 200_000], help="numbers of items")
    parser.add_argument("--cluster", type=int, default=500, help="items in a cluster")
    parser.add_argument("--plain", action="store_true", help="set plain faiss beside it")
    parser.add_argument("--memory", action="store_true", help="measure that alone, at the first of these numbers")
    arguments = parser.parse_args()
    if arguments.memory:
        print(asyncio.run(measure_memory(arguments.n[0], arguments.cluster)))
        return
    print(f"{N_FOUND} candidates, {N_EXCLUDED} left out, {LINEAR_DIM + FACTOR_DIM + 1} dimensions, one thread; ms")
    print(
        f"{'items':>9} {'built s':>8} {'fold in':>8} {'p50':>7} {'p99':>7} {'CPU':>7} "
        f"{'scores':>7} {'recall':>7} {'its own':>7}"
    )
    with threadpool_limits(1):
        for n in arguments.n:
            row = asyncio.run(measure(n, arguments.cluster, arguments.plain))
            print(
                f"{row.n:>9} {row.build_s:>8.1f} {row.listener_ms:>8.2f} {row.p50_ms:>7.2f} "
                f"{row.p99_ms:>7.2f} {row.cpu_ms:>7.2f} {row.scores_ms:>7.2f} {row.recall:>7.4f} {row.own_recall:>7.4f}"
            )
            if row.plain:
                print(row.plain)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2:.1f} GB")


if __name__ == "__main__":
    main()
