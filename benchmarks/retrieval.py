"""Candidate generation side by side with what else there is, in one process and on one thread.

    .venv/bin/python -m benchmarks.retrieval [--tracks songs.csv] [--sizes 100000,1000000] [--dim 256]

Top 200 by cosine with 50 ids left out, of real songs and of seeded Gaussian clusters, easy (500 items in each) and hard
(50), with and without a predicate that keeps 10 %. A contestant that can be tuned takes the cheapest setting that
reaches a recall of 0.99, else its dearest. Times are medians of five runs in turn.
"""

import argparse
import asyncio
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from config.catalogue_profile import load_profile
from core.embedding import HashingEmbedder
from core.ports import Floats, Ids, IndexRows, Predicate
from services import migrations
from services.catalogue import SqlCatalogue
from services.coded_column import CodedColumn
from services.database import open_database
from services.embedding_store import SqlEmbeddingStore
from services.ingest_store import SqlIngestStore
from services.item_index import InMemoryItemIndex
from training.embed import embed_catalogue
from training.ingest import ingest

N, N_EXCLUDED, N_QUERIES, N_RUNS = 200, 50, 40, 5
CHUNK = 50_000
console = Console(width=130)

Halves = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Data:
    """Rows, the places that the predicate keeps, queries, and what each leaves out."""

    name: str
    rows: IndexRows
    genre: str
    queries: Floats
    excluded: Ids

    @property
    def vectors(self) -> Halves:
        return self.rows.vectors.astype(np.float16, copy=False)

    @property
    def kept(self) -> npt.NDArray[np.intp]:
        return np.flatnonzero([self.genre in genres for genres in self.rows.genres])


class Contestant(Protocol):
    """One way of searching; ``search`` answers with ids, which are places here."""

    name: str

    async def search(self, query: Floats, *, filtered: bool) -> Ids: ...


Parameters = faiss.SearchParameters | faiss.IndexRefineSearchParameters


# --- contestants ---


class Exact:
    name = "exact, numpy"

    def __init__(self, data: Data) -> None:
        self.rows, self.kept, self.excluded = data.vectors.astype(np.float32), data.kept, data.excluded
        self.slice = np.ascontiguousarray(self.rows[self.kept])
        self.excluded_of_slice = np.flatnonzero(np.isin(self.kept, self.excluded))

    async def search(self, query: Floats, *, filtered: bool) -> Ids:
        scores = (self.slice if filtered else self.rows) @ query
        scores[self.excluded_of_slice if filtered else self.excluded] = -np.inf
        best = np.argpartition(-scores, N)[:N]
        best = best[np.argsort(-scores[best])]
        return self.kept[best] if filtered else best


class Ours:
    def __init__(self, data: Data) -> None:
        self.index = InMemoryItemIndex(data.rows, "bench")
        self.name = f"ours ({self.index.kind}, own recall {self.index.recall:.3f})"
        self.predicate = Predicate(genres=frozenset({data.genre}))
        self.ids, self.excluded = data.rows.ids, data.rows.ids[data.excluded].tolist()

    async def search(self, query: Floats, *, filtered: bool) -> Ids:
        [hits] = await self.index.search(
            query[None], N, excluded=self.excluded, predicate=self.predicate if filtered else None
        )
        return np.searchsorted(self.ids, hits.ids)


class Faiss:
    """Over-asks, ten times as much where a predicate follows."""

    def __init__(self, name: str, index: faiss.Index, data: Data) -> None:
        self.name, self.index = name, index
        self.is_kept = np.zeros(len(data.rows.ids), dtype=np.bool_)
        self.is_kept[data.kept] = True
        self.is_left_out = np.zeros(len(data.rows.ids), dtype=np.bool_)
        self.is_left_out[data.excluded] = True
        self.parameters: dict[bool, Parameters] = {}

    async def search(self, query: Floats, *, filtered: bool) -> Ids:
        asked = (N + N_EXCLUDED) * (10 if filtered else 1)
        places = self.index.search(query[None], asked, params=self.parameters[filtered])[1][0]
        places = places[places >= 0]
        wanted = ~self.is_left_out[places]
        if filtered:
            wanted &= self.is_kept[places]
        found: Ids = places[wanted][:N]
        return found


Tunable = tuple[Faiss, list[Parameters]]


def ivf(data: Data) -> Tunable:
    dim = data.vectors.shape[1]
    index = faiss.index_factory(dim, f"IVF1024,PQ{dim // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
    fill(index, data.vectors, n_training=41_000)
    settings: list[Parameters] = []
    for n_probes, k_factor in product((16, 64, 256), (2, 4, 8)):
        lists, refine = faiss.SearchParametersIVF(), faiss.IndexRefineSearchParameters()
        lists.nprobe, refine.k_factor, refine.base_index_params = n_probes, k_factor, lists
        settings.append(refine)
    return Faiss("faiss IVF1024 FastScan, refined", index, data), settings


def hnsw(data: Data) -> Tunable:
    index = faiss.IndexHNSWFlat(data.vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    fill(index, data.vectors, n_training=0)
    settings: list[Parameters] = []
    for effort in (250, 500, 1000):
        parameters = faiss.SearchParametersHNSW()  # type: ignore[attr-defined]  # not in its stubs
        parameters.efSearch = effort
        settings.append(parameters)
    return Faiss("faiss HNSW32", index, data), settings


def fill(index: faiss.Index, vectors: Halves, *, n_training: int) -> None:
    if n_training:
        some = np.sort(np.random.default_rng(1).choice(len(vectors), min(n_training, len(vectors)), replace=False))
        index.train(vectors[some].astype(np.float32))
    for start in range(0, len(vectors), CHUNK):
        index.add(vectors[start : start + CHUNK].astype(np.float32))


async def tuned(contestant: Faiss, settings: Sequence[Parameters], data: Data, truth: "Truth") -> Faiss:
    for filtered in (False, True):
        for parameters in settings:
            contestant.parameters[filtered] = parameters
            if await recall(contestant, data, truth, filtered=filtered) >= 0.99:
                break
    return contestant


# --- measuring ---

Truth = dict[bool, list[set[int]]]


async def recall(contestant: Contestant, data: Data, truth: Truth, *, filtered: bool) -> float:
    shares = []
    for query, true in zip(data.queries, truth[filtered], strict=True):
        found = await contestant.search(query, filtered=filtered)
        shares.append(len(true.intersection(found.tolist())) / len(true))
    return float(np.mean(shares))


async def p50_ms(contestant: Contestant, data: Data, *, filtered: bool) -> float:
    times_s = []
    for query in data.queries:
        began_s = time.perf_counter()
        await contestant.search(query, filtered=filtered)
        times_s.append(time.perf_counter() - began_s)
    return 1000 * median(times_s)


def rss_mib() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def compare(data: Data) -> None:
    contestants: list[Contestant] = []
    costs: list[tuple[float, float]] = []
    truth: Truth = {}

    async def enter(build: Callable[[], Contestant | Tunable]) -> None:
        before_mib, began_s = rss_mib(), time.perf_counter()
        built = build()
        costs.append((time.perf_counter() - began_s, rss_mib() - before_mib))
        contestants.append(await tuned(*built, data, truth) if isinstance(built, tuple) else built)

    await enter(lambda: Exact(data))
    for filtered in (False, True):
        truth[filtered] = [set((await contestants[0].search(q, filtered=filtered)).tolist()) for q in data.queries]
    await enter(lambda: Ours(data))
    await enter(lambda: ivf(data))
    if len(data.rows.ids) <= 100_000:
        await enter(lambda: hnsw(data))

    n, dim = data.rows.vectors.shape
    table = Table("contestant", "p50 ms", "recall@200", "p50 ms, 10 %", "recall@200, 10 %", "build s", "MiB")
    table.title = f"{data.name}: {n:,} x {dim}, predicate keeps {100 * len(data.kept) / n:.0f} %"
    recalls = [
        [await recall(each, data, truth, filtered=filtered) for filtered in (False, True)] for each in contestants
    ]
    runs = [
        [[await p50_ms(each, data, filtered=filtered) for filtered in (False, True)] for each in contestants]
        for _ in range(N_RUNS)
    ]
    for place, contestant in enumerate(contestants):
        cells = [
            (f"{median(run[place][filtered] for run in runs):.2f}", f"{recalls[place][filtered]:.3f}")
            for filtered in (0, 1)
        ]
        table.add_row(contestant.name, *cells[0], *cells[1], f"{costs[place][0]:.1f}", f"{costs[place][1]:.0f}")
    console.print(table)


# --- data ---


def clusters(name: str, n: int, dim: int, size: int, seed: int) -> Data:
    """Unit vectors around random centres, 0.7 away from theirs; every tenth centre is of one genre."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(n // size, dim)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    homes = generator.integers(len(centres), size=n)
    vectors = np.empty((n, dim), dtype=np.float16)
    for start in range(0, n, CHUNK):
        of_chunk = homes[start : start + CHUNK]
        around = generator.standard_normal((len(of_chunk), dim), dtype=np.float32) * np.float32(0.7 / np.sqrt(dim))
        rows = centres[of_chunk] + around
        vectors[start : start + CHUNK] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    genres = CodedColumn([(f"genre {number}",) for number in range(10)], (homes % 10).astype(np.int32))
    nothing: CodedColumn[None] = CodedColumn([None], np.zeros(n, dtype=np.int32))
    rows_of_index = IndexRows(
        ids=np.arange(1, n + 1, dtype=np.int64),
        vectors=vectors,
        popularity=generator.random(n, dtype=np.float32),
        genres=genres,
        moods=CodedColumn([()], np.zeros(n, dtype=np.int32)),
        languages=nothing,
        creators=nothing,
        version="v1",
    )
    return with_queries(name, rows_of_index, "genre 3", seed)


def with_queries(name: str, rows: IndexRows, genre: str, seed: int) -> Data:
    """Queries are centroids of what one listener may like: a row and another, mixed with noise."""
    generator = np.random.default_rng([seed, 1])
    n, dim = rows.vectors.shape
    near = rows.vectors[generator.integers(n, size=N_QUERIES)].astype(np.float32)
    queries = near + generator.standard_normal((N_QUERIES, dim), dtype=np.float32) * np.float32(0.5 / np.sqrt(dim))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    excluded = generator.choice(n, N_EXCLUDED, replace=False)
    return Data(name, rows, genre, queries, np.sort(excluded))


async def songs(tracks: Path, dim: int) -> Data:
    """Real songs as the worker itself would load them."""
    profile = load_profile("songs")
    async with open_database("sqlite:///:memory:", pool_size=2, timeout_s=60) as database:
        await asyncio.to_thread(migrations.upgrade, database.sync_url)
        await ingest(tracks, SqlIngestStore(database))
        store, embedder = SqlEmbeddingStore(database, profile), HashingEmbedder(dim, text_columns=profile.item.text)
        await embed_catalogue(SqlCatalogue(database, profile), embedder, store, text_columns=profile.item.text)
        rows = await store.load(embedder.name)
    counts: dict[str, int] = {}
    for genres in rows.genres:
        for genre in genres:
            counts[genre] = counts.get(genre, 0) + 1
    tenth = min(counts, key=lambda genre: abs(counts[genre] - len(rows.ids) / 10))
    return with_queries("real songs", rows, tenth, seed=3)


def seeded(sizes: Sequence[int], dim: int) -> Iterator[Data]:
    for n in sizes:
        yield clusters("easy", n, dim, 500, seed=1)
        yield clusters("hard", n, dim, 50, seed=2)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path)
    parser.add_argument("--sizes", default="100000,1000000")
    parser.add_argument("--dim", type=int, default=256)
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1):
        if arguments.tracks:
            await compare(await songs(arguments.tracks, 128))
        for data in seeded([int(size) for size in arguments.sizes.split(",") if size], arguments.dim):
            await compare(data)


if __name__ == "__main__":
    asyncio.run(main())
