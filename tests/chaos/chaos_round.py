"""One round of chaos: jobs flow, faults come one by one, everything comes to rest, and the invariants are checked."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.chaos.faults import FAULTS, Scene
from tests.chaos.invariants import Findings, check
from tests.chaos.load import Load
from tests.chaos.site import ChaosSite
from tests.chaos.vitals import Vitals, vitals
from tests.support.waiting import until

_WARM_UP_JOBS = 60
_PROGRESS_WITHIN_S = 60.0
_REST_WITHIN_S = 180.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a round does: at least ``n_jobs`` jobs, at most ``n_outstanding`` at once, and these faults in this order.

    ``seed`` (and ``part``, where it has several) decides everything about the jobs, whom a fault hits and how long it
    holds on; not how processes interleave.
    """

    seed: int
    n_jobs: int
    faults: Sequence[str]
    n_outstanding: int = 60
    part: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What a round came to."""

    findings: Findings
    n_publishes: int
    took_s: float
    before: Sequence[Vitals]
    after: Sequence[Vitals]


class ChaosFailure(AssertionError):
    """An invariant was broken; the sentence holds the seed."""


async def play(site: ChaosSite, plan: Plan, tell: Tell) -> Report:
    """Play ``plan``; raises ``ChaosFailure`` where an invariant does not hold or work does not go on after a fault."""
    started_s = time.monotonic()
    load = Load(site, Random(f"jobs {plan.seed} {plan.part}"), n_outstanding=plan.n_outstanding)
    scene = Scene(site, load, Random(f"faults {plan.seed} {plan.part}"))
    try:
        async with _flowing(load):
            await _until_over(load, _WARM_UP_JOBS, _PROGRESS_WITHIN_S)
            before = [vitals(worker.pid) for worker in site.workers]
            for number, name in enumerate(plan.faults):
                await _suffer(scene, name, tell, f"{number + 1}/{len(plan.faults)}")
            while load.ledger.n_valid < plan.n_jobs:
                await _until_over(load, load.n_over + 1, _PROGRESS_WITHIN_S)
        await _at_rest(load)
        _all_alive(site)
        findings = await check(site, load, before)
    except (TimeoutError, AssertionError) as error:
        raise ChaosFailure(f"seed {plan.seed}: {error}\n{_last_words(site)}") from error
    if findings.faults:
        shown = "\n".join(findings.faults[:40])
        raise ChaosFailure(f"seed {plan.seed}: {len(findings.faults)} faults\n{shown}\n{findings}")
    after = [vitals(worker.pid) for worker in site.workers]
    return Report(findings, load.ledger.n_publishes, time.monotonic() - started_s, before, after)


@contextlib.asynccontextmanager
async def _flowing(load: Load) -> AsyncIterator[None]:
    """Jobs are published within the block, and the last of them are confirmed at its end."""
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        try:
            yield
        finally:
            load.stopping.set()


async def _suffer(scene: Scene, name: str, tell: Tell, place: str) -> None:
    started_s = time.monotonic()
    await FAULTS[name](scene)
    mended_s = time.monotonic()
    await _until_over(scene.load, scene.load.n_over + 1, _PROGRESS_WITHIN_S)
    _all_alive(scene.site)
    tell(
        f"{place} {name}: {mended_s - started_s:.1f} s, a job ended {time.monotonic() - mended_s:.1f} s later; "
        f"{scene.load.n_over} of {len(scene.load.ledger.jobs)} jobs over"
    )


def _all_alive(site: ChaosSite) -> None:
    for worker in site.workers:
        assert worker.is_running, f"a worker died by itself:\n{worker.log[-6000:]}"


async def _until_over(load: Load, n: int, within_s: float) -> None:
    async def reached() -> bool:
        return load.n_over >= n

    await until(reached, within_s=within_s)


async def _at_rest(load: Load) -> None:
    async def all_over() -> bool:
        load.read()
        return not load.unfinished

    try:
        await until(all_over, within_s=_REST_WITHIN_S)
    except TimeoutError as error:
        left = [f"{each.key}: {' '.join(load.history(each))}" for each in load.unfinished]
        raise AssertionError(f"{len(left)} jobs never ended:\n" + "\n".join(left[:20])) from error


def _last_words(site: ChaosSite) -> str:
    return "\n".join(f"--- worker {place}\n{worker.log[-1500:]}" for place, worker in enumerate(site.workers))
