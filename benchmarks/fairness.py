"""What a full batch queue costs those who wait: latency of interactive jobs with it and without it, in turns.

    .venv/bin/python -m benchmarks.fairness --tracks songs.csv [--strategy fast] [--rate 6] [--turns 4]

Interactive jobs arrive by a Poisson process of that rate (seeded; every turn draws its own), each of a member who has
nothing, as do the batch jobs, of which there are more in the queue than a turn can do. Latency runs from before the
publish to the ``finishedAt`` that the worker writes, both by the clock of one machine. Servers are found as for
``benchmarks.main_job``; it prints a table, with the ratios' 95 % by a bootstrap within each arm.
"""

import argparse
import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import aio_pika
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.main_job import PREFIX, cpu_s, fill, likes_of, open_site, song_ids
from tests.support.backend import Backend, Document, job_body, open_backend
from tests.support.llm_process import LLMProcess
from tests.support.worker_process import WorkerProcess, worker

BATCH_QUEUE = f"{PREFIX}.recommendation.batch.q"
PERCENTILES = (50, 95, 99)
BAR = 1.5
N_RESAMPLES = 2000
console = Console()


@dataclass
class Arm:
    """What was measured with a full batch queue, or with an empty one."""

    latencies_s: list[float] = field(default_factory=list)
    n_degraded: int = 0
    n_batch_done: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    model_cpu_s: float = 0.0


class Fairness:
    """One running worker, and what is asked of it."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        songs: Sequence[int],
        process: WorkerProcess,
        model: LLMProcess,
        backends: tuple[Backend, Backend],
    ) -> None:
        self._arguments, self._songs, self._process, self._model = arguments, songs, process, model
        self._interactive, self._batch = backends
        self._next_member = 1000
        self.arms = {True: Arm(), False: Arm()}

    async def turn(self, number: int, *, with_batch: bool, broker_url: str) -> None:
        batch = self._bodies(self._arguments.batch_jobs, "refresh") if with_batch else []
        batch_ids = await self._batch.publish(batch)
        if with_batch:
            await self._begun(batch_ids[0])
        arm, done_before = self.arms[with_batch], await self._n_done(batch_ids)
        started_s, cpu_before_s, model_before_s = time.monotonic(), cpu_s(self._process.pid), cpu_s(self._model.pid)
        await self._poisson(arm, seed=self._arguments.seed + number)
        arm.seconds += time.monotonic() - started_s
        arm.cpu_s += cpu_s(self._process.pid) - cpu_before_s
        arm.model_cpu_s += cpu_s(self._model.pid) - model_before_s
        n_done = await self._n_done(batch_ids)
        arm.n_batch_done += n_done - done_before
        if with_batch and n_done > len(batch_ids) - 10:
            raise SystemExit("the batch queue ran empty: raise --batch-jobs")
        await self._emptied(broker_url, batch_ids)

    async def _poisson(self, arm: Arm, *, seed: int) -> None:
        """Publish at the drawn instants, then wait for all."""
        chance, published = random.Random(seed), {}
        bodies = self._bodies(round(self._arguments.rate * self._arguments.seconds), "login")
        at_s = time.monotonic()
        for body in bodies:
            at_s += chance.expovariate(self._arguments.rate)
            await asyncio.sleep(max(0.0, at_s - time.monotonic()))
            published[body["jobId"]] = time.time()
            await self._interactive.publish([body])
        statuses = await self._interactive.wait(list(published), timeout_s=120, until={"succeeded"})
        for job_id, began_s in published.items():
            arm.latencies_s.append(datetime.fromisoformat(statuses[job_id]["finishedAt"]).timestamp() - began_s)
            arm.n_degraded += bool((await self._interactive.result(job_id))["degraded"])

    def _bodies(self, n: int, source: str) -> list[Document]:
        members = range(self._next_member, self._next_member + n)
        self._next_member += n
        likes = likes_of(members, self._songs, seed=members.start)
        return [job_body(*pair, strategy=self._arguments.strategy, source=source) for pair in likes.items()]

    async def _begun(self, job_id: str) -> None:
        await self._batch.wait([job_id], timeout_s=60)

    async def _n_done(self, job_ids: Sequence[str]) -> int:
        statuses = await self._batch.statuses(job_ids) if job_ids else {}
        return sum(fields.get("status") == "succeeded" for fields in statuses.values())

    async def _emptied(self, broker_url: str, job_ids: Sequence[str]) -> None:
        """Drop what waits in the batch queue, and wait for what runs."""
        async with await aio_pika.connect(broker_url) as connection, connection.channel() as channel:
            await (await channel.get_queue(BATCH_QUEUE)).purge()
        for _ in range(600):
            statuses = await self._batch.statuses(job_ids) if job_ids else {}
            if not any(fields.get("status") == "running" for fields in statuses.values()):
                return
            await asyncio.sleep(0.1)
        raise TimeoutError("batch jobs are still running")


def interval(with_s: Sequence[float], without_s: Sequence[float], measure: Callable[[np.ndarray], float]) -> str:
    """The ratio of ``measure`` in the two arms, and 95 % of its bootstrap."""
    chance = np.random.default_rng(1)
    arms = np.asarray(with_s), np.asarray(without_s)
    ratios = [
        measure(chance.choice(arms[0], len(arms[0]))) / measure(chance.choice(arms[1], len(arms[1])))
        for _ in range(N_RESAMPLES)
    ]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return f"{measure(arms[0]) / measure(arms[1]):.2f} ({low:.2f} to {high:.2f})"


def rows(arms: Mapping[bool, Arm]) -> list[tuple[str, ...]]:
    full, empty = arms[True], arms[False]

    def percentile(q: int) -> tuple[str, ...]:
        def measure(values: np.ndarray) -> float:
            return float(np.percentile(values, q))

        figures = [f"{1000 * measure(np.asarray(arm.latencies_s)):.0f} ms" for arm in (empty, full)]
        ratio = interval(full.latencies_s, empty.latencies_s, measure)
        return (f"published to succeeded: p{q}", *figures, ratio, f"{BAR}" if q == PERCENTILES[-1] else "")

    return [
        *(percentile(q) for q in PERCENTILES),
        ("interactive jobs, degraded", *(f"{len(a.latencies_s)}, {a.n_degraded}" for a in (empty, full)), "", "0"),
        ("batch jobs done a second", "", f"{full.n_batch_done / full.seconds:.1f}", "", "above 0"),
        ("worker's CPU", *(f"{a.cpu_s / a.seconds:.0%}" for a in (empty, full)), "", ""),
        ("the LLM server's CPU", *(f"{a.model_cpu_s / a.seconds:.0%}" for a in (empty, full)), "", "below 70%"),
        ("load of the machine", ", ".join(f"{load:.1f}" for load in os.getloadavg()), "", "", ""),
    ]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--strategy", default="default", help="fast: no LLM, so that only CPU time counts")
    parser.add_argument("--rate", type=float, default=6.0, help="interactive jobs a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=4, help="of each arm")
    parser.add_argument("--batch-jobs", type=int, default=600, help="in the queue at the begin of a turn")
    parser.add_argument("--batch-concurrency", type=int, default=4)
    parser.add_argument("--llm-delay-s", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="further settings of the worker")
    arguments = parser.parse_args()
    async with open_site(arguments.llm_delay_s) as (environment, model):
        environment["BATCH_CONCURRENCY"] = str(arguments.batch_concurrency)
        environment.update(each.split("=", 1) for each in arguments.set)
        fill(environment, arguments.tracks)
        arms = await measure(arguments, environment, model)
    table = Table("what", "batch queue empty", "full", "ratio", "bar")
    for row in rows(arms):
        table.add_row(*row)
    console.print(table)


async def measure(
    arguments: argparse.Namespace, environment: Mapping[str, str], model: LLMProcess
) -> Mapping[bool, Arm]:
    songs = song_ids(environment["DATABASE_URL"])
    urls = environment["BROKER_URL"], environment["REDIS_URL"], PREFIX
    async with (
        worker(environment) as process,
        open_backend(*urls) as interactive,
        open_backend(*urls, routing_key="recommendation.batch") as batch,
    ):
        fairness = Fairness(arguments, songs, process, model, (interactive, batch))
        warm_up = likes_of(range(1, 17), songs, seed=1)
        await interactive.wait(await interactive.publish(job_body(*pair) for pair in warm_up.items()), timeout_s=60)
        for number in range(arguments.turns):
            # Each arm goes first in every other turn.
            for with_batch in (bool(number % 2), not number % 2):
                await fairness.turn(number, with_batch=with_batch, broker_url=environment["BROKER_URL"])
        return fairness.arms


if __name__ == "__main__":
    asyncio.run(main())
