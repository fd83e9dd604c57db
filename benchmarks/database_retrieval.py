"""Candidate generation inside the database beside that in memory, in one process.

    .venv/bin/python -m benchmarks.database_retrieval [--tracks songs.csv] [--sizes 100000] [--sets easy,hard] \
        [--dim 256] --server mysql://root@127.0.0.1:3306/ [--server mysql://root@127.0.0.1:3307/ ...]

Top 200 by cosine with 50 ids left out, with and without a predicate that keeps 10 %, as ``benchmarks.retrieval`` asks
for them. On each server a database of its own is made, and dropped in the end; a server that has a vector index runs
by sign codes too. Three runs in turn, one query at a time: p50 is the median of their medians, p95 is of all times.
Look at the server's settings as well: MariaDB keeps 16 MiB of vectors at hand unless ``mhnsw_max_cache_size`` says
otherwise.
"""

import argparse
import asyncio
import os
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

import faiss
import numpy as np
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import make_url
from threadpoolctl import threadpool_limits

from benchmarks.retrieval import Data, N, clusters, songs
from config.catalogue_profile import load_profile
from core.ports.arrays import Floats
from core.ports.index import ItemIndex, Predicate
from models.catalogue import Item
from services import migrations
from services.clock import SystemClock
from services.database import Database, open_database, sync_engine
from services.database_index import DatabaseItemIndex, RefreshingDatabaseIndex
from services.embedding_store import SqlEmbeddingStore
from services.item_codes import NATIVE, SIGN_CODES, has_vector_index
from services.item_index import InMemoryItemIndex
from tests.support import backend_tables

N_RUNS, BATCH = 3, 2000
TIMEOUT_S = 120.0
PROFILE = load_profile("songs")
console = Console(width=150)


class GivenVectors:
    """An ``Embedder`` whose vectors are in the store already."""

    def __init__(self, dim: int) -> None:
        self.name, self.dim = f"given-1-{dim}", dim

    async def embed(self, items: Sequence[Item]) -> Floats:
        raise NotImplementedError


class Silent:
    """An ``IndexObserver`` that is not interested."""

    def index_loaded(self, *, version: str, embedder_name: str, n_items: int, recall: float) -> None:
        """Say nothing."""


@asynccontextmanager
async def filled(server: str, data: Data) -> AsyncIterator[Database]:
    """A database on ``server`` that holds the songs and their vectors."""
    url = make_url(server).set(drivername="mysql+pymysql")
    name = f"songs_ai_bench_{time.time_ns()}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"ssl_disabled": True})
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        own = url.set(drivername="mysql", database=name).render_as_string(hide_password=False)
        await asyncio.to_thread(insert_songs, own, data)
        async with open_database(own, pool_size=4, timeout_s=TIMEOUT_S) as database:
            await save_vectors(database, data)
            yield database
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
        engine.dispose()


def insert_songs(url: str, data: Data) -> None:
    migrations.upgrade(url)
    engine = sync_engine(url)
    with engine.begin() as connection:
        backend_tables.create_absent(connection)
    with engine.begin() as connection:
        for start in range(0, len(data.rows.ids), BATCH):
            rows = [
                {"song_id": item_id, "genre": ", ".join(genres), "is_active": True}
                for item_id, genres in zip(
                    data.rows.ids[start : start + BATCH].tolist(), data.rows.genres[start : start + BATCH], strict=True
                )
            ]
            connection.execute(sa.insert(backend_tables.song), rows)
    engine.dispose()


async def save_vectors(database: Database, data: Data) -> None:
    store, vectors = SqlEmbeddingStore(database, PROFILE), data.vectors
    name = GivenVectors(vectors.shape[1]).name
    for start in range(0, len(vectors), BATCH):
        ids = data.rows.ids[start : start + BATCH]
        await store.save(name, ids, vectors[start : start + BATCH].astype(np.float32), [b""] * len(ids))


async def loaded(database: Database, data: Data, method: str) -> tuple[DatabaseItemIndex, float]:
    """The index, and how many seconds it took to make."""
    provider = RefreshingDatabaseIndex(
        database,
        PROFILE,
        SqlEmbeddingStore(database, PROFILE),
        GivenVectors(data.vectors.shape[1]),
        refresh_s=30,
        clock=SystemClock(),
        observer=Silent(),
        method=method,
    )
    began_s = time.perf_counter()
    await provider.load()
    return provider.current(), time.perf_counter() - began_s


async def server_version(database: Database) -> str:
    async with database.connect() as connection:
        return str((await connection.execute(sa.select(sa.func.version()))).scalar_one())


async def found_by(index: ItemIndex, data: Data, *, filtered: bool) -> list[set[int]]:
    return [set((await one(index, data, query, filtered=filtered)).tolist()) for query in data.queries]


async def one(index: ItemIndex, data: Data, query: Floats, *, filtered: bool) -> np.ndarray:
    excluded: Collection[int] = data.rows.ids[data.excluded].tolist()
    predicate = Predicate(genres=frozenset({data.genre})) if filtered else None
    [hits] = await index.search(query[None], N, excluded=excluded, predicate=predicate)
    return hits.ids


async def times_ms(index: ItemIndex, data: Data, *, filtered: bool) -> list[float]:
    times = []
    for query in data.queries:
        began_s = time.perf_counter()
        await one(index, data, query, filtered=filtered)
        times.append(1000 * (time.perf_counter() - began_s))
    return times


def truth(data: Data, *, filtered: bool) -> list[set[int]]:
    kept = data.kept if filtered else np.arange(len(data.rows.ids))
    kept = kept[~np.isin(kept, data.excluded)]
    scores = data.queries @ data.vectors[kept].astype(np.float32).T
    return [set(data.rows.ids[kept[best]].tolist()) for best in np.argsort(-scores, axis=1, kind="stable")[:, :N]]


async def compare(data: Data, servers: Sequence[str]) -> None:
    contestants: list[tuple[str, ItemIndex, str, float]] = []
    began_s = time.perf_counter()
    memory = InMemoryItemIndex(data.rows, "bench")
    await one(memory, data, data.queries[0], filtered=True)
    await memory.settle()
    contestants.append((f"memory, {memory.kind}", memory, "", time.perf_counter() - began_s))
    async with AsyncExitStack() as stack:
        for server in servers:
            database = await stack.enter_async_context(filled(server, data))
            version = await server_version(database)
            for method in (SIGN_CODES, NATIVE) if has_vector_index(version) else (SIGN_CODES,):
                index, seconds = await loaded(database, data, method)
                contestants.append((f"{method}, {version}", index, f"{index.width:,}", seconds))
        console.print(await table_of(data, contestants))


async def table_of(data: Data, contestants: Sequence[tuple[str, ItemIndex, str, float]]) -> Table:
    columns = ("p50, p95 ms", "recall@200")
    table = Table("where", *columns, *(f"{column}, 10 %" for column in columns), "width", "build s")
    n, dim = data.rows.vectors.shape
    table.title = f"{data.name}: {n:,} x {dim}, predicate keeps {100 * len(data.kept) / n:.0f} %"
    true = {filtered: truth(data, filtered=filtered) for filtered in (False, True)}
    runs = [
        [
            [await times_ms(index, data, filtered=filtered) for filtered in (False, True)]
            for _, index, _, _ in contestants
        ]
        for _ in range(N_RUNS)
    ]
    for place, (name, index, width, seconds) in enumerate(contestants):
        cells = []
        for filtered in (False, True):
            found = await found_by(index, data, filtered=filtered)
            shares = [
                len(of_query & hits) / len(of_query) for of_query, hits in zip(true[filtered], found, strict=True)
            ]
            cells += [_p50_p95([run[place][filtered] for run in runs]), f"{np.mean(shares):.3f}"]
        table.add_row(name, *cells, width, f"{seconds:.1f}")
    table.caption = "load in the last minute {:.1f}, in the last 15 {:.1f}".format(*os.getloadavg()[::2])
    return table


def _p50_p95(runs: Sequence[Sequence[float]]) -> str:
    return f"{median(map(median, runs)):.1f}, {np.percentile(np.concatenate(runs), 95):.1f}"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path)
    parser.add_argument("--sizes", default="100000")
    parser.add_argument("--sets", default="easy,hard", help="clusters of 500, clusters of 50")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--server", action="append", default=[], help="mysql://user:password@host:port/")
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1):
        if arguments.tracks:
            await compare(await songs(arguments.tracks, arguments.dim), arguments.server)
        for size in (int(text) for text in arguments.sizes.split(",") if text):
            if "easy" in arguments.sets:
                await compare(clusters("easy", size, arguments.dim, 500, seed=1), arguments.server)
            if "hard" in arguments.sets:
                await compare(clusters("hard", size, arguments.dim, 50, seed=2), arguments.server)


if __name__ == "__main__":
    asyncio.run(main())
