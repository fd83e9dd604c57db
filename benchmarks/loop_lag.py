"""How long the event loop is held up while many jobs search a large index at once, beside an idle loop.

    .venv/bin/python -m benchmarks.loop_lag [--items 1000000] [--dim 256] [--jobs 64] [--seconds 10] [--size 50]
        [--llm-delay-s 2] [--without-turns]

A job takes the likes of a made-up listener, makes a profile, retrieves and ranks, waits as long as an LLM
would take, and begins anew. Beside them the first searches by three predicates are made, whose scans are built in the
background, and a whole index is. Then all jobs begin at the same moment, ten times. Lag is by how much longer than
asked for a sleep of 1 ms takes, whoever else loads the machine; "without waiting for a core" is less what Linux says
that the loop's thread was ready and got none; CPU is what that thread worked meanwhile, of which at most 1 ms did
not hold the sleep up.
"""

import argparse
import asyncio
import gc
import time
from collections.abc import Awaitable
from pathlib import Path
from statistics import quantiles

import numpy as np
import uvloop
from threadpoolctl import threadpool_limits

from benchmarks.retrieval import clusters, console
from core.ports.index import Predicate
from core.profile import ProfileConfig, build_profile
from core.ranking import RankingConfig, rank
from core.retrieval import retrieve
from core.turns import Turns
from services.item_index import InMemoryItemIndex
from services.vector_scan import build_scan

TICK_S = 0.001
N_BURSTS = 10
N_SLICES = 3


class NoTurns(Turns):
    """Everyone goes on at once."""

    async def turn(self) -> None:
        """At once."""


async def job(index: InMemoryItemIndex, generator: np.random.Generator, turns: Turns) -> None:
    """One recommendation, without its database and its LLM; turns as in the pipeline."""
    likes = generator.choice(len(index), 12, replace=False) + 1
    await turns.turn()
    ids, vectors = await index.vectors(likes.tolist())
    profile = build_profile(ids, vectors, np.ones(len(ids), dtype=np.float32), ProfileConfig())
    retrieved = await retrieve(profile, index, 300, set(likes.tolist()))
    await turns.turn()
    rank(retrieved, 110, RankingConfig())


class Watch:
    """Sleeps 1 ms again and again; keeps how much longer it took, and its thread's CPU time meanwhile."""

    def __init__(self) -> None:
        self.lags_ms: list[float] = []
        self.own_ms: list[float] = []
        self.cpu_ms: list[float] = []

    async def run(self) -> None:
        while True:
            waited_ms, began_s, cpu_began_s = waited_for_core_ms(), time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_S)
            self.cpu_ms.append(1000 * (time.thread_time() - cpu_began_s))
            self.lags_ms.append(1000 * (time.perf_counter() - began_s - TICK_S))
            self.own_ms.append(self.lags_ms[-1] - (waited_for_core_ms() - waited_ms))


def waited_for_core_ms() -> float:
    """How long this thread has been ready to run, and did not, in all its life."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e6


async def watched(what: str, work: Awaitable[object]) -> None:
    watch = Watch()
    watching = asyncio.create_task(watch.run())
    await work
    watching.cancel()
    tell(f"{what}, lag", watch.lags_ms)
    tell(f"{what}, without waiting for a core", watch.own_ms)
    tell(f"{what}, CPU", watch.cpu_ms)


async def jobs_without_end(
    index: InMemoryItemIndex, seed: int, llm_delay_s: float, turns: Turns, done: list[float]
) -> None:
    generator = np.random.default_rng(seed)
    while True:
        await asyncio.sleep(llm_delay_s * generator.uniform(0.5, 1.5))
        began_s = time.perf_counter()
        await job(index, generator, turns)
        done.append(1000 * (time.perf_counter() - began_s))


async def bursts(index: InMemoryItemIndex, n_jobs: int, turns: Turns) -> None:
    generators = [np.random.default_rng([1, seed]) for seed in range(n_jobs)]
    for _ in range(N_BURSTS):
        await asyncio.gather(*(job(index, generator, turns) for generator in generators))


async def new_slices(index: InMemoryItemIndex) -> None:
    """First searches by predicates that keep a tenth, each until the scan of its own is there."""
    _, some = await index.vectors([1])
    for number in range(N_SLICES):
        await index.search(some, 300, predicate=Predicate(genres=frozenset({f"genre {number}"})))
        await index.settle()


def tell(what: str, values: list[float]) -> None:
    cuts = quantiles(values, n=100)
    console.print(f"{what}: p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms, longest {max(values):.2f} ms")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--size", type=int, default=50, help="items in a cluster")
    parser.add_argument("--llm-delay-s", type=float, default=2.0)
    parser.add_argument("--without-turns", action="store_true")
    arguments = parser.parse_args()
    turns = NoTurns() if arguments.without_turns else Turns()
    rows = clusters("", arguments.items, arguments.dim, arguments.size, seed=2).rows
    index = InMemoryItemIndex(rows, "bench")
    console.print(f"{len(index):,} x {arguments.dim}: {index.kind}, own recall {index.recall:.3f}")
    # As the worker does once it has loaded everything.
    gc.collect()
    gc.freeze()
    await watched("idle loop", asyncio.sleep(arguments.seconds))
    done: list[float] = []
    running = [
        asyncio.create_task(jobs_without_end(index, seed, arguments.llm_delay_s, turns, done))
        for seed in range(arguments.jobs)
    ]
    await watched(f"{arguments.jobs} jobs in flight", asyncio.sleep(arguments.seconds))
    n_done = len(done)
    await watched("and slices built", new_slices(index))
    await watched("and an index built", asyncio.to_thread(build_scan, rows.vectors))
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    tell(f"{n_done / arguments.seconds:.0f} jobs a second, each", done[:n_done])
    await watched(f"{arguments.jobs} jobs begun at once", bursts(index, arguments.jobs, turns))


if __name__ == "__main__":
    with threadpool_limits(1):
        uvloop.run(main())
