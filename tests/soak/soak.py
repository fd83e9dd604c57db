"""One soak: a warm-up, a rest, hours or minutes of mixed load that are measured, and a rest again."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from random import Random

import httpx
import pymysql
from redis.exceptions import RedisError

from tests.chaos.vitals import cpu_s, vitals
from tests.soak.figures import AtRest, Sample, Window, cpu_ms_a_job, verdict, windows_of
from tests.soak.load import MixedLoad, Tally
from tests.soak.site import SoakSite
from tests.support.waiting import until
from tests.support.worker_process import WorkerProcess

REST_S = 12.0
BURST = 150
_REST_EVERY_S = 1.0
_EMPTY_WITHIN_S = 120.0
_TASKS = "songs_ai_event_loop_tasks "
_LOOK_S = 30.0
_NOT_ANSWERED = (TimeoutError, httpx.TransportError, RedisError, pymysql.err.OperationalError)

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, in seconds, and which jobs: those of the ``seed``."""

    measured_s: float
    warm_up_s: float
    sample_every_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a soak came to; ``faults`` is empty where nothing grew and nothing was wrong.

    ``cpu_ms`` is what a job cost in the first third, and in the last.
    """

    samples: Sequence[Sample]
    windows: Sequence[Window]
    cpu_ms: tuple[float, float]
    rest: tuple[AtRest, AtRest]
    tally: Tally
    measured_s: float
    faults: Sequence[str]


async def soak(site: SoakSite, plan: Plan, stopping: asyncio.Event, tell: Tell) -> Report:
    """Play ``plan``, which ends early, and well, once ``stopping`` is set."""
    load = MixedLoad(site, Random(plan.seed))
    async with load.running():
        await load.burst(BURST)
        await _unless(stopping, plan.warm_up_s)
    before = await at_rest(site)
    tell(f"at rest after {len(load.tally.ended):,} jobs of warm-up: {before}")
    began_s, began_at_s = time.monotonic(), time.time()
    samples: list[Sample] = []
    async with load.running(), sampling(site, samples, plan.sample_every_s, tell):
        await _unless(stopping, plan.measured_s)
    measured_s = time.monotonic() - began_s
    after = await at_rest(site)
    windows = windows_of(load.tally.ended, began_at_s)
    cpu_ms = cpu_ms_a_job(samples, load.tally.ended, began_at_s)
    faults = [*load.tally.wrong, *_bugs(site.workers), *verdict(samples, windows, cpu_ms, (before, after))]
    return Report(samples, windows, cpu_ms, (before, after), load.tally, measured_s, faults)


async def _unless(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()


@contextlib.asynccontextmanager
async def sampling(site: SoakSite, samples: list[Sample], every_s: float, tell: Tell) -> AsyncIterator[None]:
    """Add to ``samples`` inside of the block, one at its begin."""
    began_s = time.monotonic()

    async def sample_for_ever() -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                async with asyncio.timeout(_LOOK_S):
                    samples.append(await take(site, time.monotonic() - began_s))
            except _NOT_ANSWERED as error:
                # Too busy to be looked at: an hour's run does not end for it.
                tell(f"no sample: {error!r}")
            else:
                tell(shown(samples[-1]))

    samples.append(await take(site, 0.0))
    task = asyncio.create_task(sample_for_ever())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


async def take(site: SoakSite, at_s: float) -> Sample:
    """What is held at this moment."""
    return Sample(
        at_s=at_s,
        workers=[vitals(worker.pid) for worker in site.workers],
        n_tasks=await asyncio.gather(*(_n_tasks(worker) for worker in site.workers)),
        cpu_s=sum(cpu_s(worker.pid) for worker in site.workers),
        load=os.getloadavg()[0],
        n_redis_connections=await site.n_redis_connections(),
        n_mysql_connections=await site.n_mysql_connections(),
    )


async def _n_tasks(worker: WorkerProcess) -> int:
    lines = (await worker.metrics()).splitlines()
    return int(float(next(line for line in lines if line.startswith(_TASKS)).removeprefix(_TASKS)))


async def at_rest(site: SoakSite) -> AtRest:
    """What is held while no queue holds a job, after what closes by itself had its time."""

    async def is_empty() -> bool:
        return await site.n_waiting() == 0

    await until(is_empty, within_s=_EMPTY_WITHIN_S)
    samples = []
    for n in range(round(REST_S / _REST_EVERY_S)):
        await asyncio.sleep(_REST_EVERY_S)
        samples.append(await take(site, n * _REST_EVERY_S))
    return AtRest.least(samples, n_broker_channels=await site.n_broker_channels())


def shown(sample: Sample) -> str:
    """A line for whoever watches."""
    memory = ", ".join(f"{each.rss_mb:.0f}" for each in sample.workers)
    sockets = ", ".join(str(each.n_sockets) for each in sample.workers)
    tasks = ", ".join(map(str, sample.n_tasks))
    return (
        f"{sample.at_s / 60:5.1f} min: {memory} MB; {sockets} sockets; {tasks} tasks; "
        f"{sample.n_redis_connections} connections at Redis, {sample.n_mysql_connections} at MySQL"
    )


def _bugs(workers: Sequence[WorkerProcess]) -> list[str]:
    """Workers that died, and lines that only a bug writes."""
    faults = [f"worker {n} died:\n{each.log[-4000:]}" for n, each in enumerate(workers, start=1) if not each.is_running]
    lines = [line for each in workers for line in each.log.splitlines()]
    bugs = [line for line in lines if "unexpected_error_caught" in line or line.startswith("Traceback")]
    return [*faults, *(f"in the log: {line[:2000]}" for line in bugs[:5])]
