"""How long the event loop is held up while many jobs search a large index at once, beside an idle loop.

    .venv/bin/python -m benchmarks.loop_lag [--items 1000000] [--dim 256] [--jobs 64] [--seconds 10] [--size 50]
        [--llm-delay-s 2]

A job takes the likes of a made-up listener, makes a profile, retrieves and ranks, waits as long as an LLM
would take, and begins anew.
"""

import argparse
import asyncio
import time
from statistics import quantiles

import numpy as np
import uvloop
from threadpoolctl import threadpool_limits

from benchmarks.retrieval import clusters, console
from core.profile import ProfileConfig, build_profile
from core.ranking import RankingConfig, rank
from core.retrieval import retrieve
from services.item_index import InMemoryItemIndex

TICK_S = 0.005


async def job(index: InMemoryItemIndex, generator: np.random.Generator) -> None:
    """One recommendation, without its database and its LLM."""
    likes = generator.choice(len(index), 12, replace=False) + 1
    ids, vectors = await index.vectors(likes.tolist())
    profile = build_profile(ids, vectors, np.ones(len(ids), dtype=np.float32), ProfileConfig())
    retrieved = await retrieve(profile, index, 300, set(likes.tolist()))
    rank(retrieved, 110, RankingConfig())


async def lags_ms(seconds: float) -> list[float]:
    """By how much a sleep of 5 ms lasted longer."""
    lags = []
    until_s = time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < until_s:
        await asyncio.sleep(TICK_S)
        lags.append(1000 * (time.perf_counter() - began_s - TICK_S))
    return lags


async def jobs_without_end(index: InMemoryItemIndex, seed: int, llm_delay_s: float, done: list[float]) -> None:
    generator = np.random.default_rng(seed)
    while True:
        await asyncio.sleep(llm_delay_s * generator.uniform(0.5, 1.5))
        began_s = time.perf_counter()
        await job(index, generator)
        done.append(1000 * (time.perf_counter() - began_s))


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
    arguments = parser.parse_args()
    index = InMemoryItemIndex(clusters("", arguments.items, arguments.dim, arguments.size, seed=2).rows, "bench")
    console.print(f"{len(index):,} x {arguments.dim}: {index.kind}, own recall {index.recall:.3f}")
    tell("idle loop's lag", await lags_ms(arguments.seconds))
    done: list[float] = []
    running = [
        asyncio.create_task(jobs_without_end(index, seed, arguments.llm_delay_s, done))
        for seed in range(arguments.jobs)
    ]
    tell(f"{arguments.jobs} jobs in flight, loop's lag", await lags_ms(arguments.seconds))
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    tell(f"{len(done) / arguments.seconds:.0f} jobs a second, each", done)


if __name__ == "__main__":
    with threadpool_limits(1):
        uvloop.run(main())
