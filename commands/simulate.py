"""The command that simulates listeners: into the table of events, into files, onto the queues, or round the loop."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from threadpoolctl import threadpool_limits

from commands.demo import fill_catalogue
from commands.running import need_a_broker, offline_step, run, start
from commands.screen import (
    MISCONFIGURED,
    STANDARD_OUTPUT,
    for_machines,
    progress_bar,
    say,
    stop,
    tell_all,
    tell_json,
    telling,
)
from config.settings import Settings
from core.event_codec import encode_event
from core.fitted_collaborative import MODEL_KIND
from core.ports.clock import Clock
from core.submission import submit
from models.catalogue import Item
from models.event import Event
from models.job import Job
from services.clock import StandingClock
from services.interaction_log import SqlInteractionLog
from services.simulated_events import SqlSimulatedEvents
from training.simulator.as_events import PREFIX
from training.simulator.assumptions import Assumptions
from training.simulator.bulk import Plan, write_histories
from training.simulator.files import INTERACTIONS, ITEMS, write_interactions, write_items
from training.simulator.history import histories
from training.simulator.live import Pace, Replay, replay
from training.simulator.rounds import ROUND_DAYS, Arm, LoopPlan, LoopReport, run_rounds
from training.simulator.world import World
from workers.broker import OutgoingMessage
from workers.runtime.parts import Parts, embedded, open_parts

# Files are the same whenever they are written.
_FILES_START = datetime(2026, 1, 1, tzinfo=UTC)
WITHOUT, EVENTS_ALONE, EVERY_FIT, WITH = "without the loop", "events, no refit", "every fit in force", "with the loop"

_Told = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the command was asked for; ``start`` is None where nobody said a day."""

    n_members: int
    n_days: int
    seed: int
    first_member: int
    start: datetime | None
    files: tuple[Path, ...]
    n_items: int

    def plan(self, start: datetime) -> Plan:
        return Plan(
            n_members=self.n_members,
            n_days=self.n_days,
            seed=self.seed,
            start=self.start or start,
            first_member=self.first_member,
        )

    def ending_today(self) -> Plan:
        return self.plan(_midnight() - timedelta(days=self.n_days))


def simulate(
    *,
    members: int,
    days: int,
    seed: int,
    first_member: int,
    start: datetime | None,
    remove: bool,
    out: Path | None,
    judge: bool,
    live: bool,
    rate: float,
    max_events: int | None,
    jobs: bool,
    loop: bool,
    rounds: int,
    json_out: Path | None,
    file: list[Path] | None,
    items: int,
) -> None:
    """Simulate listeners whose tastes are known, over the catalogue that there is, or over one of their own."""
    if sum((out is not None, live, loop, remove)) > 1:
        stop("one of --out, --live, --loop and --remove at a time", MISCONFIGURED)
    asked = _Asked(
        n_members=members,
        n_days=days,
        seed=seed,
        first_member=first_member,
        start=None if start is None else start.replace(tzinfo=UTC),
        files=tuple(file or ()),
        n_items=items,
    )
    with for_machines(json_out == STANDARD_OUTPUT):
        if out is not None:
            told = _to_files(asked, out, judge=judge)
        elif loop:
            told = _round_the_loop(asked, rounds)
        elif live:
            pace = Pace(events_per_s=rate, max_events=max_events, with_jobs=jobs)
            told = _of_site(partial(_live, asked, pace))
        else:
            told = _of_site(_remove if remove else partial(_into_table, asked))
    if json_out == STANDARD_OUTPUT:
        tell_json(told)
    elif json_out is not None:
        json_out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _of_site(step: Callable[[Settings], Awaitable[_Told]]) -> _Told:
    found: list[_Told] = []

    async def keep(settings: Settings) -> None:
        found.append(await step(settings))

    run(keep)
    return found[0]


def _midnight() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


async def _items_of(parts: Parts) -> list[Item]:
    return [item async for batch in parts.catalogue.stream() for item in batch]


# --- into the table of events ---


async def _into_table(asked: _Asked, settings: Settings) -> _Told:
    async with open_parts(settings) as parts:
        await parts.catalogue.check()
        world = World.of(await _items_of(parts), Assumptions())
        clock = parts.clock
        with progress_bar() as bar:
            task = bar.add_task("members", total=asked.n_members)
            began_s = clock.monotonic_s()

            def show(n_members: int, n_events: int) -> None:
                per_s = n_events / max(clock.monotonic_s() - began_s, 1e-9)
                bar.update(task, completed=n_members, description=f"members ({n_events:,} events, {per_s:,.0f}/s)")

            written = await write_histories(world, asked.ending_today(), SqlSimulatedEvents(parts.database), show)
            took_s = clock.monotonic_s() - began_s
        say(
            f"{written.n_events:,} events of {asked.n_members:,} members are there; {written.n_written:,} written in "
            f"{took_s:.1f} s" + (f", {written.n_members_before:,} members before" if written.n_members_before else "")
        )
    return {
        "n_members": asked.n_members,
        "n_events": written.n_events,
        "n_written": written.n_written,
        "n_members_before": written.n_members_before,
        "seconds": round(took_s, 3),
    }


async def _remove(settings: Settings) -> _Told:
    async with open_parts(settings) as parts:
        n = await SqlSimulatedEvents(parts.database).remove(PREFIX)
    say(f"{n:,} simulated events removed")
    return {"n_removed": n}


# --- into files ---


@asynccontextmanager
async def _own_site(asked: _Asked, settings: Settings, clock: Clock | None = None) -> AsyncIterator[Parts]:
    """A site in a directory of its own, with the catalogue that was asked for."""
    with TemporaryDirectory(prefix="songs-ai-simulation-") as directory:
        async with open_parts(embedded(settings, Path(directory)), clock) as parts:
            await fill_catalogue(parts, asked.files, asked.seed, asked.n_items)
            yield parts


def _to_files(asked: _Asked, directory: Path, *, judge: bool) -> _Told:
    """Fits outside of any event loop, where Ctrl-C ends it at once."""
    found: list[Item] = []

    async def read(settings: Settings) -> None:
        async with _own_site(asked, settings) as parts:
            found.extend(await _items_of(parts))

    run(read, log_level="WARNING")
    world, plan = World.of(found, Assumptions()), asked.plan(_FILES_START)
    directory.mkdir(parents=True, exist_ok=True)
    write_items(directory / ITEMS, found)
    with threadpool_limits(1, user_api="blas"), progress_bar() as bar:
        task = bar.add_task("members", total=plan.n_members)
        pasts = histories(world, plan.n_members, plan.n_days, plan.seed, first_member=plan.first_member)
        parts = (past.happenings for past in bar.track(pasts, task_id=task))
        n = write_interactions(directory / INTERACTIONS, parts, plan.start)
    say(f"{n:,} pairs of {plan.n_members:,} members: `python main.py evaluate {directory}`")
    judged = _judge(directory, world, plan) if judge else []
    return {"directory": str(directory), "n_members": plan.n_members, "n_pairs": n, "judged": judged}


def _judge(directory: Path, world: World, plan: Plan) -> list[str]:
    recovery = offline_step("simulator.recovery")
    with threadpool_limits(1, user_api="blas"), telling() as tell:
        found = list(recovery.recovered(directory, world, simulation_seed=plan.seed, n_days=plan.n_days, tell=tell))
    tell_all(found)
    return found


# --- onto the queues ---


class _BrokerPublisher:
    """A ``Publisher`` of a worker's broker."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def publish_event(self, event: Event) -> None:
        exchange = self._parts.broker.topology.events.exchange
        message = OutgoingMessage(exchange=exchange, routing_key=f"event.{event.type}", body=encode_event(event))
        await self._parts.broker.publish(message)

    async def submit_job(self, job: Job) -> None:
        await submit(job, results=self._parts.results, publisher=self._parts.publisher)


async def _live(asked: _Asked, pace: Pace, settings: Settings) -> _Told:
    need_a_broker(settings, "no worker can take what is published")
    async with open_parts(settings) as parts:
        await parts.catalogue.check()
        world, plan = World.of(await _items_of(parts), Assumptions()), asked.ending_today()
        found = await asyncio.to_thread(Replay.of, world, plan)
        await start(parts.broker)
        with progress_bar() as bar:
            total = min(len(found.happenings), pace.max_events or len(found.happenings))
            task = bar.add_task("events", total=total)
            n_events, n_jobs = await replay(
                found,
                plan,
                plan.prefix(world),
                _BrokerPublisher(parts),
                parts.clock,
                pace,
                lambda events, jobs: bar.update(task, completed=events, description=f"events ({jobs:,} jobs)"),
            )
    say(f"{n_events:,} events and {n_jobs:,} jobs published")
    return {"n_events": n_events, "n_jobs": n_jobs}


# --- round the loop ---


class _EmbeddedSite:
    """A ``Site`` in this process, on a database of its own; ``every_fit`` puts worse versions in force too."""

    def __init__(self, parts: Parts, clock: StandingClock, seed: int, *, every_fit: bool = False) -> None:
        self._parts, self._clock, self._seed, self._every_fit = parts, clock, seed, every_fit
        self._fit, self._observations = offline_step("fit"), offline_step("observations")
        self._shown: defaultdict[int, set[int]] = defaultdict(set)

    async def items(self) -> Sequence[Item]:
        return await _items_of(self._parts)

    def go_to(self, now: datetime) -> None:
        self._clock.set(now)

    async def hear(self, events: Sequence[Event]) -> None:
        await SqlSimulatedEvents(self._parts.database).add(events)

    async def refit(self) -> str:
        parts = self._parts
        log = SqlInteractionLog(parts.database, parts.profile)
        observed = await self._observations.observe(log, parts.embeddings, parts.embedder.name)
        active = await self._fit.active_of(parts.models)
        report = await asyncio.to_thread(
            self._fit.fit_on,
            observed,
            active=active,
            budget_s=0.0,
            seed=self._seed,
            shown_to=lambda member_ids: {each: self._shown[each] for each in member_ids},
        )
        kept = await self._fit.keep(parts.models, report)
        if self._every_fit:
            await parts.models.activate(MODEL_KIND, kept.version)
        await parts.collaborative.refresh()
        return str(kept)

    async def recommend(self, member_id: int, n: int) -> Sequence[int]:
        job = Job(job_id=f"round-{member_id}", member_id=member_id, top_k=n, source="simulated")
        documents = await self._parts.pipeline.recommend(job, _no_report)
        result: Mapping[str, Any] = orjson.loads(documents.result)
        shown = [row[self._parts.profile.id_field] for row in result["candidates"][:n]]
        self._shown[member_id].update(shown)
        return shown


async def _no_report(_percent: int) -> None:
    """Nobody waits to see how far a job is."""


def _round_the_loop(asked: _Asked, n_rounds: int) -> _Told:
    plan = LoopPlan(
        n_members=asked.n_members,
        n_rounds=n_rounds,
        seed=asked.seed,
        n_days=asked.n_days,
        start=asked.start or _midnight() - timedelta(days=asked.n_days + n_rounds * ROUND_DAYS),
    )
    found: list[LoopReport] = []

    async def step(settings: Settings) -> None:
        async with AsyncExitStack() as stack:

            async def site(*, every_fit: bool = False) -> _EmbeddedSite:
                clock = StandingClock(plan.start)
                parts = await stack.enter_async_context(_own_site(asked, settings, clock))
                await parts.index.load()
                await parts.collaborative.load()
                return _EmbeddedSite(parts, clock, asked.seed, every_fit=every_fit)

            without, events_alone, closed = await site(), await site(), await site()
            world = World.of(await without.items(), Assumptions())
            every_fit = await site(every_fit=True)
            arms = (
                Arm(WITHOUT, without, hears=False, refits=False),
                Arm(EVENTS_ALONE, events_alone, hears=True, refits=False),
                Arm(EVERY_FIT, every_fit, hears=True, refits=True),
                Arm(WITH, closed, hears=True, refits=True),
            )
            found.append(await run_rounds(world, plan, arms, tell))

    with telling() as tell:
        run(step, log_level="ERROR")
    tell_all(found[0])
    return found[0].document()
