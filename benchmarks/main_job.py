"""The main job under load, as operations would see it: real servers, a real worker process, an LLM that takes 2 s.

    .venv/bin/python -m benchmarks.main_job --tracks songs.csv [--members 200] [--llm-delay-s 2]

Servers come from ``TEST_BROKER_URL``, ``TEST_DATABASE_URL`` and ``TEST_REDIS_URL``, else from containers or private
processes, as for the tests. It prints a table; figures of record are in ``docs/benchmarks.md``.
"""

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import pymysql
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import make_url

from tests.support.backend import Backend, Document, faults_of, job_body, open_backend
from tests.support.empty_stores import empty_database, empty_logical_database
from tests.support.llm_process import LLMProcess
from tests.support.servers import Kind, Need, Servers
from tests.support.worker_process import ROOT, WorkerProcess, worker

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PREFIX = f"bench-{os.getpid()}"
console = Console()


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    figure: str
    bar: str = ""


def cpu_s(pid: int) -> float:
    """Seconds of CPU that the process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def rss_mib(pid: int) -> float:
    """Resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def song_ids(database_url: str) -> list[int]:
    url = make_url(database_url)
    with (
        contextlib.closing(
            pymysql.connect(
                host=url.host or "127.0.0.1",
                port=url.port or 3306,
                user=url.username,
                password=url.password or "",
                database=url.database,
            )
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT song_id FROM song ORDER BY song_id")
        return [row[0] for row in cursor.fetchall()]


def run(environment: dict[str, str], *command: str) -> float:
    started_s = time.monotonic()
    subprocess.run([sys.executable, "main.py", *command], cwd=ROOT, env={**os.environ, **environment}, check=True)
    return time.monotonic() - started_s


@contextlib.contextmanager
def given_servers() -> Iterator[tuple[str, str, str]]:
    """URLs of a RabbitMQ, an empty database and an empty Redis database."""
    servers = Servers()
    try:
        needs = [Need(kind) for kind in (Kind.RABBITMQ, Kind.MYSQL, Kind.REDIS)]
        servers.begin(needs, console.print)
        amqp, mysql, redis = (servers.wait(need).url for need in needs)
        with empty_database(mysql) as database_url, empty_logical_database(redis) as redis_url:
            yield amqp, database_url, redis_url
    finally:
        servers.close()


@contextlib.asynccontextmanager
async def open_site(llm_delay_s: float) -> AsyncIterator[tuple[dict[str, str], LLMProcess]]:
    """The environment of a worker with servers of its own, and the LLM that it asks."""
    with given_servers() as (amqp_url, database_url, redis_url):
        async with LLMProcess(delay_s=llm_delay_s) as model:
            environment = {
                "BROKER_URL": amqp_url,
                "DATABASE_URL": database_url,
                "REDIS_URL": redis_url,
                "OPENAI_BASE_URL": model.url,
                "OPENAI_API_KEY": "none",
                "NAME_PREFIX": PREFIX,
                "LOG_LEVEL": "WARNING",
            }
            yield environment, model


def fill(environment: dict[str, str], tracks: Path) -> list[Row]:
    """Put the songs of ``tracks`` and their vectors into the database; how long each step took."""
    steps: list[tuple[str, ...]] = [("migrate",), ("ingest", str(tracks.resolve())), ("embed",)]
    return [Row(f"main.py {step[0]}", f"{run(environment, *step):.1f} s") for step in steps]


def likes_of(members: Sequence[int], songs: Sequence[int], seed: int) -> dict[int, list[int]]:
    """Different likes for everybody: eight neighbours in the catalogue and four from anywhere."""
    chance = random.Random(seed)
    likes = {}
    for member in members:
        start = chance.randrange(len(songs) - 40)
        likes[member] = [*chance.sample(songs[start : start + 40], 8), *chance.sample(songs, 4)]
    return likes


class Bench:
    """What is measured against one running worker."""

    def __init__(self, backend: Backend, model: LLMProcess, songs: Sequence[int], worker: WorkerProcess) -> None:
        self.backend, self.model, self.songs, self.worker = backend, model, songs, worker
        self.rows: list[Row] = []

    async def round(self, what: str, bodies: list[Document], *, bar: str, calls: str) -> None:
        """Publish all at once, wait for all, look at every result."""
        calls_before, cpu_before_s, started_s = await self.model.n_calls(), cpu_s(self.worker.pid), time.monotonic()
        job_ids = await self.backend.publish(bodies)
        statuses = await self.backend.wait(job_ids, timeout_s=120)
        took_s, cpu_used_s = time.monotonic() - started_s, cpu_s(self.worker.pid) - cpu_before_s
        n_calls = await self.model.n_calls() - calls_before
        n_succeeded = sum(fields["status"] == "succeeded" for fields in statuses.values())
        faults = [fault for body in bodies for fault in await self._faults(body)]
        self.rows += [
            Row(f"{what}: time", f"{took_s:.2f} s", bar),
            Row(f"{what}: succeeded / LLM calls", f"{n_succeeded} of {len(bodies)} / {n_calls}", calls),
            Row(f"{what}: liked, repeated or unknown songs", str(len(faults)), "0"),
            Row(f"{what}: own CPU per job", f"{1000 * cpu_used_s / len(bodies):.1f} ms", "at most 40 ms"),
        ]

    async def closed_loop(self, likes: dict[int, list[int]], *, in_flight: int, llm_delay_s: float) -> None:
        """Publish the next job when one has succeeded; latency from publishing to ``succeeded``."""
        waiting, latencies_s = iter(likes.items()), []

        async def client() -> None:
            for member, favorites in waiting:
                started_s = time.monotonic()
                await self.backend.wait(await self.backend.publish([job_body(member, favorites)]), timeout_s=60)
                latencies_s.append(time.monotonic() - started_s)

        await asyncio.gather(*(client() for _ in range(in_flight)))
        cuts = quantiles(latencies_s, n=100)
        figure = f"p50 {1000 * (cuts[49] - llm_delay_s):.0f} ms, p95 {1000 * (cuts[94] - llm_delay_s):.0f} ms"
        self.rows.append(
            Row(f"{in_flight} in flight: delivery to succeeded, beside the LLM's {llm_delay_s:g} s", figure)
        )

    async def _faults(self, body: Document) -> list[str]:
        return faults_of(await self.backend.result(body["jobId"]), body["favoriteSongIds"], set(self.songs))


async def measure(arguments: argparse.Namespace, environment: dict[str, str], model: LLMProcess) -> list[Row]:
    songs = song_ids(environment["DATABASE_URL"])
    rows = [Row("songs in the catalogue", f"{len(songs):,}")]
    async with (
        worker(environment) as process,
        open_backend(environment["BROKER_URL"], environment["REDIS_URL"], PREFIX) as backend,
    ):
        rows.append(Row("worker's memory at start", f"{rss_mib(process.pid):.0f} MiB"))
        bench = Bench(backend, model, songs, process)
        warm_up = likes_of(range(1, 9), songs, seed=1)
        await backend.wait(await backend.publish(job_body(*pair) for pair in warm_up.items()), timeout_s=60)

        n = arguments.members
        likes = likes_of(range(1000, 1000 + n), songs, seed=2)
        waves = -(-n // 64) * arguments.llm_delay_s
        await bench.round(
            f"{n} members", [job_body(*pair) for pair in likes.items()], bar=f"12 s ({waves:g} s of LLM)", calls=f"{n}"
        )
        await bench.round("the same again", [job_body(*pair) for pair in likes.items()], bar="3 s", calls="0")
        fourfold = likes_of(range(5000, 5050), songs, seed=3)
        bodies = [job_body(*pair) for pair in fourfold.items() for _ in range(4)]
        await bench.round("50 new members, four jobs each at once", bodies, bar="", calls="at most 50")
        await bench.closed_loop(
            likes_of(range(7000, 7080), songs, seed=4), in_flight=8, llm_delay_s=arguments.llm_delay_s
        )
        rows.append(Row("worker's memory at the end", f"{rss_mib(process.pid):.0f} MiB"))
        usage = await model.mean_usage()
        tokens = Row("tokens per call (o200k_base): prompt / completion", usage, "3,000 / 700 in English")
        return [rows[0], *rows[1:2], *bench.rows, *rows[2:], tokens]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--members", type=int, default=200)
    parser.add_argument("--llm-delay-s", type=float, default=2.0)
    arguments = parser.parse_args()
    async with open_site(arguments.llm_delay_s) as (environment, model):
        rows = [*fill(environment, arguments.tracks), *await measure(arguments, environment, model)]
    table = Table("what", "figure", "bar")
    for row in rows:
        table.add_row(row.what, row.figure, row.bar)
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
