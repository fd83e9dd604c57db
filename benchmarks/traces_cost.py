"""What traces cost: workers that differ in their traces alone, on the same jobs, in turns.

    .venv/bin/python -m benchmarks.traces_cost --tracks songs.csv [--rounds 6] [--jobs 60]

``off`` makes none, ``unsampled`` is asked by its publisher not to, ``on`` sends every span to a collector in this
process. Servers are found as for the tests. What is compared is the workers' own CPU time, threads included.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.main_job import console, cpu_s, fill, likes_of, open_site, song_ids
from tests.support.backend import Backend, job_body, open_backend
from tests.support.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.support.worker_process import WorkerProcess

KINDS = ("off", "unsampled", "on")
UNSAMPLED = f"00-{'7' * 32}-{'8' * 16}-00"


@dataclass
class Contestant:
    """One worker, on queues of its own; CPU ms a job, of each round of new and of unchanged jobs."""

    kind: str
    process: WorkerProcess
    backend: Backend
    new_ms: list[float] = field(default_factory=list)
    again_ms: list[float] = field(default_factory=list)

    async def round(self, likes: Mapping[int, list[int]]) -> None:
        """The same members twice: an LLM call each, then an answer from the cache."""
        trace_id = UNSAMPLED if self.kind == "unsampled" else None
        for figures in (self.new_ms, self.again_ms):
            before_s = cpu_s(self.process.pid)
            bodies = [job_body(*pair, traceId=trace_id) for pair in likes.items()]
            await self.backend.wait(await self.backend.publish(bodies), 120, until={"succeeded"})
            figures.append(1000 * (cpu_s(self.process.pid) - before_s) / len(likes))


@asynccontextmanager
async def contestants(environment: Mapping[str, str], collector: OtlpReceiver) -> AsyncIterator[list[Contestant]]:
    """All of them, ready."""
    async with AsyncExitStack() as stack:
        found = []
        for kind in KINDS:
            settings = {**environment, "NAME_PREFIX": f"{environment['NAME_PREFIX']}-{kind}", "LEADER_LEASE_S": "0"}
            settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = "" if kind == "off" else collector.url
            process = WorkerProcess(settings)
            stack.push_async_callback(process.kill)
            await process.start(180)
            urls = settings["BROKER_URL"], settings["REDIS_URL"], settings["NAME_PREFIX"]
            found.append(Contestant(kind, process, await stack.enter_async_context(open_backend(*urls))))
        yield found


async def measure(environment: Mapping[str, str], n_rounds: int, n_jobs: int) -> tuple[list[Contestant], float]:
    """Rounds of ``n_jobs`` members of each one's own, in an order that shifts, the first to warm up."""
    songs = song_ids(environment["DATABASE_URL"])
    async with otlp_receiver() as collector, contestants(environment, collector) as all_of_them:
        for place in range(n_rounds + 1):
            shift = place % len(all_of_them)
            for contestant in (*all_of_them[shift:], *all_of_them[:shift]):
                first = 10_000 * (3 * place + KINDS.index(contestant.kind) + 1)
                await contestant.round(likes_of(range(first, first + n_jobs), songs, seed=place))
            if place == 0:
                for contestant in all_of_them:
                    contestant.new_ms, contestant.again_ms = [], []
    return all_of_them, len(collector.spans) / (2 * n_jobs * (n_rounds + 1))


def table(rows: Sequence[Contestant]) -> Table:
    """What was measured, and against the first row pair by pair of the same round."""
    printed = Table("traces", "new jobs: CPU ms", "more", "unchanged: CPU ms", "more", title="CPU a job")
    for row in rows:
        cells = []
        for mine, theirs in ((row.new_ms, rows[0].new_ms), (row.again_ms, rows[0].again_ms)):
            more = median(a / b - 1 for a, b in zip(mine, theirs, strict=True))
            cells += [f"{median(mine):.2f} ({min(mine):.2f} to {max(mine):.2f})", f"{100 * more:+.1f} %"]
        printed.add_row(row.kind, *cells)
    return printed


async def run() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=60)
    asked = parser.parse_args()
    async with open_site(0.2) as (environment, _):
        fill(environment, asked.tracks)
        rows, n_spans = await measure(environment, asked.rounds, asked.jobs)
    console.print(table(rows))
    console.print(f"{n_spans:.1f} spans a job")


if __name__ == "__main__":
    asyncio.run(run())
