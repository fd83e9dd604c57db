"""Candidate generation side by side with what else there is, in one process and on one thread.

    .venv/bin/python -m benchmarks.retrieval [--tracks songs.csv] [--sizes 100000,1000000] [--dim 256]

Top 200 by cosine with 50 ids left out, of real songs and of seeded Gaussian clusters, easy (500 items in each) and hard
(50), with and without a predicate that keeps 10 %. Half of the queries lie near an item (like), half between two items
drawn at random (unlike). Everyone is given a query, the ids to leave out and whether the predicate holds, and
answers with ids and cosines, best first. A contestant that can be tuned takes the cheapest of its settings that
reaches a recall of 0.99 on each half of these very queries, else its dearest; ours knows only its own sample. Times are
medians of five runs in turn. "ratio" is ours to the fastest of the others that reach 0.99.
"""

import argparse
import asyncio
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
from core.ports.arrays import Floats, Ids
from core.ports.index import IndexRows, Predicate
from services import migrations
from services.catalogue import SqlCatalogue
from services.coded_column import CodedColumn
from services.database import open_database
from services.embedding_store import SqlEmbeddingStore
from services.ingest_store import SqlIngestStore
from services.item_index import InMemoryItemIndex
from training.embed import embed_catalogue
from training.ingest import ingest, layouts_of

N, N_EXCLUDED, N_QUERIES, N_RUNS = 200, 50, 40, 5
AIM = 0.99
CHUNK = 50_000
console = Console(width=150)

Halves = npt.NDArray[np.float16]
Shares = tuple[float, float]
"""Recall of queries near an item, and of those between two."""


@dataclass(frozen=True, slots=True)
class Data:
    """Rows, the genre that the predicate asks for, queries (those between two items last), and ids to leave out."""

    name: str
    rows: IndexRows
    genre: str
    queries: Floats
    excluded: list[int]

    @property
    def vectors(self) -> Halves:
        return self.rows.vectors.astype(np.float16, copy=False)

    @property
    def kept(self) -> npt.NDArray[np.intp]:
        return np.flatnonzero([self.genre in genres for genres in self.rows.genres])


class Contestant(Protocol):
    """One way of searching; ``search`` answers with ids and cosines, best first."""

    name: str

    async def search(self, query: Floats, excluded: list[int], *, filtered: bool) -> tuple[Ids, Floats]: ...


Parameters = faiss.SearchParameters | faiss.IndexRefineSearchParameters


# --- contestants ---


class Exact:
    """Rows at 32 bits, those that the predicate keeps once more by themselves."""

    name = "exact, numpy"

    def __init__(self, data: Data) -> None:
        rows = data.vectors.astype(np.float32)
        self.parts = {False: (rows, data.rows.ids), True: (rows[data.kept], data.rows.ids[data.kept])}

    async def search(self, query: Floats, excluded: list[int], *, filtered: bool) -> tuple[Ids, Floats]:
        rows, ids = self.parts[filtered]
        scores = rows @ (query / np.linalg.norm(query))
        scores[places_of(excluded, ids)] = -np.inf
        best = np.argpartition(scores, len(scores) - N)[-N:]
        best = best[np.argsort(-scores[best])]
        return ids[best], scores[best]


class Ours:
    def __init__(self, data: Data) -> None:
        self.index = InMemoryItemIndex(data.rows, "bench")
        self.name = f"ours ({self.index.kind}, own recall {self.index.recall:.3f})"
        self.predicate = Predicate(genres=frozenset({data.genre}))

    async def search(self, query: Floats, excluded: list[int], *, filtered: bool) -> tuple[Ids, Floats]:
        predicate = self.predicate if filtered else None
        [hits] = await self.index.search(query[None], N, excluded=excluded, predicate=predicate)
        return hits.ids, hits.scores


@dataclass(slots=True)
class Part:
    """An index, the ids of its rows, and which of these to keep of what it finds, where not all."""

    index: faiss.Index
    ids: Ids
    settings: Sequence[Parameters]
    is_kept: npt.NDArray[np.bool_] | None = None
    parameters: Parameters | None = None

    def search(self, query: Floats, excluded: list[int]) -> tuple[Ids, Floats]:
        """Asks for what is left out besides; ten times as much where not all is kept."""
        asked = (N + N_EXCLUDED) * (1 if self.is_kept is None else 10)
        unit = (query / np.linalg.norm(query))[None]
        [scores], [places] = self.index.search(unit, min(asked, self.index.ntotal), params=self.parameters)
        wanted = (places >= 0) & ~np.isin(places, places_of(excluded, self.ids))
        if self.is_kept is not None:
            wanted &= self.is_kept[places]
        places = places[wanted][:N]
        return self.ids[places], scores[wanted][:N]


@dataclass(slots=True)
class Faiss:
    """One index for everything, and the same or another for what the predicate keeps."""

    name: str
    parts: dict[bool, Part]

    async def search(self, query: Floats, excluded: list[int], *, filtered: bool) -> tuple[Ids, Floats]:
        return self.parts[filtered].search(query, excluded)


def fastscan(data: Data) -> Faiss:
    """Every code is looked at; what the predicate keeps has codes of its own."""

    def part(vectors: Halves, ids: Ids) -> Part:
        dim = vectors.shape[1]
        index = faiss.index_factory(dim, f"PQ{dim // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
        fill(index, vectors, n_training=16_000)
        return Part(index, ids, [refined(k_factor) for k_factor in (2, 3, 4, 6, 8, 12, 16, 24)])

    kept, ids = data.kept, data.rows.ids
    return Faiss(
        "faiss PQ FastScan, refined", {False: part(data.vectors, ids), True: part(data.vectors[kept], ids[kept])}
    )


def ivf(data: Data) -> Faiss:
    dim = data.vectors.shape[1]
    index = faiss.index_factory(dim, f"IVF1024,PQ{dim // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
    fill(index, data.vectors, n_training=41_000)
    settings = []
    for n_probes, k_factor in product((4, 8, 16, 64, 256, 1024), (2, 4, 8)):
        lists = faiss.SearchParametersIVF()
        lists.nprobe = n_probes
        settings.append(refined(k_factor, lists))
    return over_asked("faiss IVF1024 FastScan, refined", index, settings, data)


def hnsw(data: Data) -> Faiss:
    index = faiss.IndexHNSWFlat(data.vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    fill(index, data.vectors, n_training=0)
    settings: list[Parameters] = []
    for effort in (250, 500, 1000, 2000):
        parameters = faiss.SearchParametersHNSW()  # type: ignore[attr-defined]  # not in its stubs
        parameters.efSearch = effort
        settings.append(parameters)
    return over_asked("faiss HNSW32", index, settings, data)


def over_asked(name: str, index: faiss.Index, settings: Sequence[Parameters], data: Data) -> Faiss:
    is_kept = np.zeros(len(data.rows.ids), dtype=np.bool_)
    is_kept[data.kept] = True
    ids = data.rows.ids
    return Faiss(name, {False: Part(index, ids, settings), True: Part(index, ids, settings, is_kept)})


def refined(k_factor: float, base: faiss.SearchParameters | None = None) -> faiss.IndexRefineSearchParameters:
    parameters = faiss.IndexRefineSearchParameters()
    parameters.k_factor = k_factor
    if base is not None:
        parameters.base_index_params = base
    return parameters


def fill(index: faiss.Index, vectors: Halves, *, n_training: int) -> None:
    if n_training:
        some = np.sort(np.random.default_rng(1).choice(len(vectors), min(n_training, len(vectors)), replace=False))
        index.train(vectors[some].astype(np.float32))
    for start in range(0, len(vectors), CHUNK):
        index.add(vectors[start : start + CHUNK].astype(np.float32))


def places_of(wanted: list[int], ids: Ids) -> npt.NDArray[np.intp]:
    """Where those of ``wanted`` that are among ``ids``, which rise, stand in them."""
    places = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    found: npt.NDArray[np.intp] = places[ids[places] == wanted]
    return found


async def tune(contestant: Faiss, data: Data, truth: "Truth") -> None:
    for filtered, part in contestant.parts.items():
        for parameters in part.settings:
            part.parameters = parameters
            if min(await recalls(contestant, data, truth, filtered=filtered)) >= AIM:
                break


# --- measuring ---

Truth = dict[bool, list[set[int]]]


async def recalls(contestant: Contestant, data: Data, truth: Truth, *, filtered: bool) -> Shares:
    shares = []
    for query, true in zip(data.queries, truth[filtered], strict=True):
        ids, _ = await contestant.search(query, data.excluded, filtered=filtered)
        shares.append(len(true.intersection(ids.tolist())) / len(true))
    half = len(shares) // 2
    return float(np.mean(shares[:half])), float(np.mean(shares[half:]))


async def p50_ms(contestant: Contestant, data: Data, *, filtered: bool) -> float:
    times_s = []
    for query in data.queries:
        began_s = time.perf_counter()
        await contestant.search(query, data.excluded, filtered=filtered)
        times_s.append(time.perf_counter() - began_s)
    return 1000 * median(times_s)


def rss_mib() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(slots=True)
class Entry:
    """A contestant and what was measured of it, without the predicate and with it."""

    contestant: Contestant
    build_s: float
    mib: float
    first_filtered_s: float = 0.0
    recalls: dict[bool, Shares] = field(default_factory=dict)
    runs_ms: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})

    def p50_ms(self, *, filtered: bool) -> float:
        return median(self.runs_ms[filtered])


async def compare(data: Data) -> None:
    console.print(table(data, await measured(data)))


async def measured(data: Data) -> list[Entry]:
    builds: list[Callable[[Data], Contestant]] = [Exact, Ours, fastscan, ivf]
    if len(data.rows.ids) <= 100_000:
        builds.append(hnsw)
    entries: list[Entry] = []
    truth: Truth = {}
    for build in builds:
        entries.append(entry := entered(build, data))
        # The first is exact.
        truth = truth or {filtered: await found_by(entry.contestant, data, filtered) for filtered in (False, True)}
        await make_ready(entry, data, truth)
        for filtered in (False, True):
            entry.recalls[filtered] = await recalls(entry.contestant, data, truth, filtered=filtered)
    for _, entry, filtered in product(range(N_RUNS), entries, (False, True)):
        entry.runs_ms[filtered].append(await p50_ms(entry.contestant, data, filtered=filtered))
    return entries


async def found_by(contestant: Contestant, data: Data, filtered: bool) -> list[set[int]]:
    found = [await contestant.search(query, data.excluded, filtered=filtered) for query in data.queries]
    return [set(ids.tolist()) for ids, _ in found]


async def make_ready(entry: Entry, data: Data, truth: Truth) -> None:
    """Tune what is tuned by hand, and note how long the first search by a predicate takes."""
    if isinstance(entry.contestant, Faiss):
        await tune(entry.contestant, data, truth)
    began_s = time.perf_counter()
    await entry.contestant.search(data.queries[0], data.excluded, filtered=True)
    entry.first_filtered_s = time.perf_counter() - began_s
    if isinstance(entry.contestant, Ours):
        await entry.contestant.index.settle()


def entered(build: Callable[[Data], Contestant], data: Data) -> Entry:
    before_mib, began_s = rss_mib(), time.perf_counter()
    contestant = build(data)
    build_s = time.perf_counter() - began_s
    return Entry(contestant, build_s, rss_mib() - before_mib)


def table(data: Data, entries: Sequence[Entry]) -> Table:
    n, dim = data.rows.vectors.shape
    columns = ("p50 ms", "recall like, unlike", "ratio")
    made = Table("contestant", *columns, *(f"{column}, 10 %" for column in columns), "build s", "MiB", "first 10 % s")
    made.title = f"{data.name}: {n:,} x {dim}, predicate keeps {100 * len(data.kept) / n:.0f} %"
    for entry in entries:
        cells = []
        for filtered in (False, True):
            like, unlike = entry.recalls[filtered]
            cells += [f"{entry.p50_ms(filtered=filtered):.3f}", f"{like:.3f}, {unlike:.3f}"]
            cells += [f"{ratio(entry, entries, filtered=filtered):.2f}" if isinstance(entry.contestant, Ours) else ""]
        made.add_row(
            entry.contestant.name, *cells, f"{entry.build_s:.1f}", f"{entry.mib:.0f}", f"{entry.first_filtered_s:.3f}"
        )
    return made


def ratio(ours: Entry, entries: Sequence[Entry], *, filtered: bool) -> float:
    """Ours to the fastest of the others that find enough."""
    others = [entry for entry in entries if entry is not ours and min(entry.recalls[filtered]) >= AIM]
    return ours.p50_ms(filtered=filtered) / min(entry.p50_ms(filtered=filtered) for entry in others)


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
    """Half of the queries a row mixed with noise, half the mean of two rows, as an interest of unlike likes is."""
    generator = np.random.default_rng([seed, 1])
    n, dim = rows.vectors.shape
    ones, others = rows.vectors[generator.integers(n, size=(2, N_QUERIES))].astype(np.float32)
    noise = generator.standard_normal((N_QUERIES // 2, dim), dtype=np.float32) * np.float32(0.5 / np.sqrt(dim))
    others[: N_QUERIES // 2] = noise
    queries = ones + others
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    excluded = rows.ids[generator.choice(n, N_EXCLUDED, replace=False)]
    return Data(name, rows, genre, queries, excluded.tolist())


async def songs(tracks: Path, dim: int) -> Data:
    """Real songs as the worker itself would load them."""
    profile = load_profile("songs")
    async with open_database("sqlite:///:memory:", pool_size=2, timeout_s=60) as database:
        await asyncio.to_thread(migrations.upgrade, database.sync_url)
        await ingest(tracks, SqlIngestStore(database, profile), layouts_of(profile))
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
            await compare(await songs(arguments.tracks, arguments.dim))
        for data in seeded([int(size) for size in arguments.sizes.split(",") if size], arguments.dim):
            await compare(data)


if __name__ == "__main__":
    asyncio.run(main())
