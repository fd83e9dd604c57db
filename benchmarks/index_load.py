"""How long the index takes to load from MySQL or MariaDB and to follow changes there, and what memory it takes.

    python -m benchmarks.index_load --database-url mysql://root@127.0.0.1:3306 --n 100000

makes a database of its own on that server (``songs_ai_index_load``, dropped at the end), fills it with seeded songs and
clustered vectors, and prints tables.
"""

import argparse
import asyncio
import contextlib
import gc
import multiprocessing
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from config.catalogue_profile import load_profile
from core.embedding import HashingEmbedder
from core.ports.arrays import Floats
from services.clock import SystemClock
from services.database import Database, open_database, sync_engine
from services.embedding_blocks import EmbeddingBlocks
from services.embedding_store import SqlEmbeddingStore
from services.index_snapshot import SnapshotDirectory
from services.logs import configure_logging
from services.refreshing_index import RefreshingIndex
from services.schema import embedding, own_metadata
from tests.support import backend_tables

NAME = "songs_ai_index_load"
SONGS = load_profile("songs")
CHUNK = 20_000
CHANGES = (0, 10, 1_000, 20_000)


class Silent:
    """An ``IndexObserver`` that notes nothing."""

    def index_loaded(self, *, version: str, embedder_name: str, n_items: int, recall: float) -> None:
        """Another index is in force."""


class Given(HashingEmbedder):
    """Stands for the embedder that made the vectors: nothing is embedded here."""

    @property
    def name(self) -> str:
        """As the vectors were saved."""
        return "given"


def clustered(generator: np.random.Generator, centres: Floats, n: int) -> Floats:
    """Unit vectors around ``centres``."""
    dim = centres.shape[1]
    rows = centres[generator.integers(len(centres), size=n)] + generator.normal(size=(n, dim)) * 0.5 / np.sqrt(dim)
    unit: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


@contextlib.contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """The URL of an empty database, dropped at the end."""
    url = f"{server_url.rstrip('/')}/{NAME}"
    engine = sync_engine(f"{server_url.rstrip('/')}/mysql")

    def run(*statements: str) -> None:
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    run(f"DROP DATABASE IF EXISTS {NAME}", f"CREATE DATABASE {NAME} CHARACTER SET utf8mb4")
    try:
        yield url
    finally:
        run(f"DROP DATABASE {NAME}")
        engine.dispose()


def fill_songs(url: str, n: int) -> None:
    """Tables, and songs 1 to n with attributes as many as a real catalogue has."""
    engine = sync_engine(url)
    with engine.begin() as connection:
        backend_tables.backend_metadata.create_all(connection)
        own_metadata.create_all(connection)
    for start in range(1, n + 1, CHUNK):
        numbers = range(start, min(start + CHUNK, n + 1))
        rows = [
            {
                "song_id": number,
                "title_en": f"Title {number}",
                "genre": f"genre {number % 40}",
                "mood": f"mood {number % 5}",
                "lang": ("ko", "en", "ja")[number % 3],
                "artist": f"artist {number % 20_011}",
                "modified_at": "2026-01-01 00:00:00",
                "is_active": True,
            }
            for number in numbers
        ]
        with engine.begin() as connection:
            connection.execute(sa.insert(backend_tables.song), rows)
    engine.dispose()


async def fill_vectors(store: SqlEmbeddingStore, n: int, dim: int) -> None:
    """A vector for each song."""
    generator = np.random.default_rng(1)
    centres = generator.normal(size=(max(1, n // 500), dim)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    for start in range(0, n, CHUNK):
        ids = np.arange(start + 1, min(start + CHUNK, n) + 1)
        await store.save("given", ids, clustered(generator, centres, len(ids)), [b"0" * 16] * len(ids))


async def timed(step: Callable[[], Awaitable[object]]) -> float:
    """Seconds."""
    gc.collect()
    began_s = time.perf_counter()
    await step()
    return time.perf_counter() - began_s


async def rows_one_by_one(database: Database, n: int) -> None:
    """All vectors as rows: what loading was before there were blocks."""
    query = sa.select(embedding.c.item_id, embedding.c.vector_bytes).order_by(embedding.c.item_id)
    async with database.connect(n_round_trips=1000) as connection:
        result = await connection.stream(query)
        found = [row async for batch in result.partitions(1000) for row in batch]
    vectors = np.frombuffer(b"".join(row[1] for row in found), "<f2").reshape(n, -1)
    assert len(vectors) == n  # noqa: S101 - a benchmark of half the rows would be none


async def load_table(database: Database, store: SqlEmbeddingStore, n: int, repeats: int) -> None:
    """Ways of loading, alternating."""
    blocks = EmbeddingBlocks(database)
    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "vectors, row by row": lambda: rows_one_by_one(database, n),
        "vectors, from blocks": lambda: blocks.load("given"),
        "vectors and attributes (`load`)": lambda: store.load("given"),
        "`version`, asked at every refresh": lambda: store.version("given"),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, step in ways.items():
            times[way].append(await timed(step))
    print(f"\n| load of {n:,} | median s | all |\n|---|---|---|")
    for way, seconds in times.items():
        print(f"| {way} | {np.median(seconds):.2f} | {', '.join(f'{each:.2f}' for each in seconds)} |")


async def change(url: str, store: SqlEmbeddingStore, n: int, n_changed: int, dim: int, step: int) -> None:
    """Change songs here and there, and their vectors."""
    if not n_changed:
        return
    generator = np.random.default_rng([step, n_changed])
    ids = np.sort(generator.choice(n, n_changed, replace=False)) + 1
    engine = sync_engine(url)
    with engine.begin() as connection:
        for start in range(0, n_changed, 1000):
            listed = ",".join(map(str, ids[start : start + 1000].tolist()))
            connection.exec_driver_sql(
                f"UPDATE song SET genre = 'changed', modified_at = '2026-03-01 00:{step:02d}:00' "  # noqa: S608
                f"WHERE song_id IN ({listed})"
            )
    engine.dispose()
    await store.save("given", ids, clustered(generator, np.eye(dim, dtype=np.float32), n_changed), [b"1"] * n_changed)


async def refresh_table(url: str, store: SqlEmbeddingStore, directory: Path, n: int, dim: int) -> None:
    """From a snapshot that is there, refreshes with more and more changes, each over the one before."""
    index = indexed(store, directory, dim)
    built_s = await timed(index.load)
    other = indexed(store, directory, dim)
    mapped_s = await timed(other.load)
    print(f"\n| index of {n:,} | s |\n|---|---|")
    print(f"| loaded, built ({index.current().kind}) and written as a snapshot | {built_s:.2f} |")
    print(f"| mapped from the snapshot by another | {mapped_s:.3f} |")
    print(
        "\n| songs changed since the last refresh | in force after s | then a search ms (median of 50) |\n|---|---|---|"
    )
    for step, n_changed in enumerate(CHANGES):
        if n_changed * 5 > n:
            continue
        await change(url, store, n, n_changed, dim, step)
        seconds = await timed(lambda: caught_up(other, store))
        print(f"| {n_changed:,} | {seconds:.2f} | {await search_ms(other, dim):.2f} |")


async def caught_up(index: RefreshingIndex, store: SqlEmbeddingStore) -> None:
    """Refresh until what changed is in force: where it is much, the next base is made meanwhile."""
    await index.refresh()
    while index.current().version != await store.version("given"):
        await asyncio.sleep(0.2)
        await index.refresh()


def indexed(store: SqlEmbeddingStore, directory: Path, dim: int) -> RefreshingIndex:
    """An index that shares files in ``directory``."""
    return RefreshingIndex(
        store, Given(dim), refresh_s=30, clock=SystemClock(), observer=Silent(), snapshot_directory=directory
    )


async def search_ms(index: RefreshingIndex, dim: int) -> float:
    """Milliseconds of one query, 200 asked for."""
    queries = np.random.default_rng(9).normal(size=(50, 1, dim)).astype(np.float32)
    times: list[float] = []
    for query in queries:
        began_s = time.perf_counter()
        await index.current().search(query, 200)
        times.append(time.perf_counter() - began_s)
    return float(np.median(times)) * 1e3


def memory_mb() -> dict[str, float]:
    """This process's memory by kind, in MB (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    return {name: int(rest.split()[0]) / 1024 for name, rest in (line.split(":", 1) for line in lines)}


def hold_snapshot(directory: str, together: Barrier, dim: int) -> None:
    """Map the snapshot, search, and say what memory that takes while others do the same."""
    before = memory_mb()

    found = SnapshotDirectory(Path(directory), "given").newest()
    assert found is not None  # noqa: S101 - it was just written
    for query in np.random.default_rng(9).normal(size=(50, dim)).astype(np.float32):
        found.scan.search(query[None], 200)
    # All rows once, as hours of searches come across.
    for start in range(0, len(found.scan.rows), CHUNK):
        found.scan.rows[start : start + CHUNK].sum()
    together.wait()
    after = memory_mb()
    print(
        f"| {after['Rss'] - before['Rss']:,.0f} | {after['Pss'] - before['Pss']:,.0f} | "
        f"{after['Private_Dirty'] - before['Private_Dirty']:,.0f} |\n",
        end="",
        flush=True,
    )
    together.wait()


def memory_table(directory: Path, dim: int, n_processes: int = 2) -> None:
    """Processes that map one snapshot."""
    print(f"\n{n_processes} processes with one snapshot, MB above an idle one\n", flush=True)
    print("| RSS | PSS | private |\n|---|---|---|", flush=True)
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(n_processes)
    processes = [
        context.Process(target=hold_snapshot, args=(str(directory), together, dim)) for _ in range(n_processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Database, SqlEmbeddingStore]]:
    """The database and the store in it."""
    async with open_database(url, pool_size=4, timeout_s=60) as database:
        yield database, SqlEmbeddingStore(database, SONGS)


async def measure(url: str, directory: Path, n: int, dim: int, repeats: int) -> None:
    """Fill, then print the tables."""
    async with opened(url) as (database, store):
        fill_s = await timed(lambda: fill_vectors(store, n, dim))
        pack_s = await timed(lambda: store.pack("given"))
        print(f"{n:,} x {dim}: saved in {fill_s:.1f} s, packed in {pack_s:.1f} s")
        await load_table(database, store, n, repeats)
        await refresh_table(url, store, directory, n, dim)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url", required=True, help="a server, without a database")
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    configure_logging("WARNING", "console")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # tables show as they grow
    with fresh_database(arguments.database_url) as url, tempfile.TemporaryDirectory() as name:
        fill_songs(url, arguments.n)
        asyncio.run(measure(url, Path(name), arguments.n, arguments.dim, arguments.repeats))
        memory_table(Path(name), arguments.dim)


if __name__ == "__main__":
    main()
