"""What counting costs: workers that differ in their metrics alone, on the same jobs, in turns.

    .venv/bin/python -m benchmarks.metrics_cost --tracks songs.csv [--rounds 6] [--jobs 60]

``shipped`` counts, ``silent`` does not, ``timed`` counts and clocks each call, less what the clock itself takes.
Servers are found as for the tests. The first two are compared by their CPU time, whose noise may be more than the
difference; the third one tells it. Ends with 1 where that is 2 % or more.
"""

import argparse
import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.main_job import console, cpu_s, fill, likes_of, open_site, song_ids
from benchmarks.metered_worker import N_CALLS, SPENT
from tests.support.backend import Backend, job_body, open_backend
from tests.support.worker_process import ROOT, WorkerProcess

PROGRAM = ROOT / "benchmarks" / "metered_worker.py"
KINDS = ("shipped", "silent", "timed")
BOUND = 0.02
SCRAPE_INTERVAL_S = 15


@dataclass
class Contestant:
    """One worker, on queues of its own; CPU ms a job, of each round of new and of unchanged jobs."""

    kind: str
    process: WorkerProcess
    backend: Backend
    new_ms: list[float] = field(default_factory=list)
    again_ms: list[float] = field(default_factory=list)
    counting: list[tuple[float, float]] = field(default_factory=list)

    async def round(self, likes: dict[int, list[int]]) -> None:
        """The same members twice: an LLM call each, then an answer from the cache."""
        for figures in (self.new_ms, self.again_ms):
            before_s, counted = cpu_s(self.process.pid), await self._counted()
            bodies = [job_body(*pair) for pair in likes.items()]
            await self.backend.wait(await self.backend.publish(bodies), 120, until={"succeeded"})
            figures.append(1000 * (cpu_s(self.process.pid) - before_s) / len(likes))
            after = await self._counted()
            self.counting.append(((after[0] - counted[0]) / len(likes), (after[1] - counted[1]) / len(likes)))

    async def _counted(self) -> tuple[float, float]:
        if self.kind != "timed":
            return 0.0, 0.0
        said = await self.process.metrics()
        return _value(said, SPENT), _value(said, N_CALLS)

    async def scrape_ms(self, n: int = 50) -> float:
        """CPU of one scrape."""
        async with self.process.client() as client:
            before_s = cpu_s(self.process.pid)
            for _ in range(n):
                (await client.get("/metrics")).raise_for_status()
        return 1000 * (cpu_s(self.process.pid) - before_s) / n


def _value(exposition: str, name: str) -> float:
    (value,) = re.findall(rf"^{name} (\S+)$", exposition, re.MULTILINE)
    return float(value)


@asynccontextmanager
async def contestants(environment: dict[str, str]) -> AsyncIterator[list[Contestant]]:
    """All of them, ready."""
    async with AsyncExitStack() as stack:
        found = []
        for kind in KINDS:
            settings = {**environment, "NAME_PREFIX": f"{environment['NAME_PREFIX']}-{kind}", "LEADER_LEASE_S": "0"}
            process = WorkerProcess(settings, (kind, "worker"), PROGRAM)
            stack.push_async_callback(process.kill)
            await process.start(180)
            urls = settings["BROKER_URL"], settings["REDIS_URL"], settings["NAME_PREFIX"]
            found.append(Contestant(kind, process, await stack.enter_async_context(open_backend(*urls))))
        yield found


async def measure(environment: dict[str, str], n_rounds: int, n_jobs: int) -> list[Contestant]:
    """Rounds of ``n_jobs`` members of each one's own, in an order that shifts; the first one warms up."""
    songs = song_ids(environment["DATABASE_URL"])
    async with contestants(environment) as all_of_them:
        for place in range(n_rounds + 1):
            shift = place % len(all_of_them)
            for contestant in (*all_of_them[shift:], *all_of_them[:shift]):
                first = 10_000 * (3 * place + KINDS.index(contestant.kind) + 1)
                await contestant.round(likes_of(range(first, first + n_jobs), songs, seed=place))
            if place == 0:
                for contestant in all_of_them:
                    contestant.new_ms, contestant.again_ms, contestant.counting = [], [], []
        told = all_of_them[0]
        console.print(f"a scrape: {await told.scrape_ms():.1f} ms of CPU, every {SCRAPE_INTERVAL_S} s")
    return all_of_them


def shares(timed: Contestant) -> tuple[float, float]:
    """Of a job's CPU, what counting takes, of new jobs and of unchanged ones."""
    new, again = ([1000 * spent_s for spent_s, _ in timed.counting[start::2]] for start in (0, 1))
    return median(new) / median(timed.new_ms), median(again) / median(timed.again_ms)


def table(rows: Sequence[Contestant]) -> Table:
    """What was measured."""
    printed = Table("metrics", "new jobs: CPU ms", "unchanged: CPU ms", "counting: calls a job, µs", title="CPU a job")
    for row in rows:
        cells = [f"{median(ms):.2f} ({min(ms):.2f} to {max(ms):.2f})" for ms in (row.new_ms, row.again_ms)]
        pairs = [row.counting[start::2] for start in (0, 1)]
        counting = "; ".join(
            f"{median(n for _, n in some):.0f}, {median(1e6 * spent_s for spent_s, _ in some):.0f}" for some in pairs
        )
        printed.add_row(row.kind, *cells, counting if row.kind == "timed" else "")
    return printed


async def run() -> bool:
    """Measure and print; whether it is within the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=60)
    asked = parser.parse_args()
    async with open_site(0.2) as (environment, _):
        fill(environment, asked.tracks)
        rows = await measure(environment, asked.rounds, asked.jobs)
    console.print(table(rows))
    new, again = shares(rows[KINDS.index("timed")])
    console.print(f"counting takes {100 * new:.2f} % of a new job's CPU, {100 * again:.2f} % of an unchanged one's")
    return max(new, again) < BOUND


if __name__ == "__main__":
    raise SystemExit(int(not asyncio.run(run())))
