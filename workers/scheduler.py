"""Scheduled tasks: every worker stands for leader, and the one that leads starts what is due.

APScheduler keeps the times; its own store lives in memory, so what was missed, and who may begin a run, is decided by
``TaskRuns``. A run may be begun again where its leader died in the middle: every task does nothing the second time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from core.errors import DependencyUnavailable
from core.ports.clock import Clock
from core.schedule import LeaderLease, TaskOutcome, TaskRuns, is_due
from models.log_event import LogEvent

log = structlog.get_logger()

TURNS_PER_LEASE = 3
"""How often in the time of a lease the leader prolongs it, and the others try whether it is free."""

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a task ended, and its last words."""

    outcome: TaskOutcome
    detail: str


Start = Callable[[str], Awaitable[Ended]]
"""Runs the task of that name to its end; cancelled, it stops it."""


class SchedulerObserver(Protocol):
    """Is told who leads and how tasks end."""

    def leading(self, *, leads: bool) -> None:
        """Whether this worker starts the tasks from now on."""

    def task_ended(self, task: str, *, outcome: str, seconds: float) -> None:
        """A run ended after so many seconds."""

    def task_succeeded(self, task: str, at: datetime) -> None:
        """When the newest run that succeeded ended."""


class Scheduler:
    """Starts tasks by their cron ``expressions`` while it holds the ``lease``, which lasts ``lease_s``."""

    def __init__(
        self,
        lease: LeaderLease,
        runs: TaskRuns,
        start: Start,
        *,
        expressions: Mapping[str, str],
        time_zone: str,
        lease_s: float,
        worker: str,
        clock: Clock,
        observer: SchedulerObserver,
    ) -> None:
        self._lease, self._runs, self._start = lease, runs, start
        self._zone = ZoneInfo(time_zone)
        self._triggers = {task: CronTrigger.from_crontab(each, self._zone) for task, each in expressions.items()}
        self._lease_s, self._worker = lease_s, worker
        self._clock, self._observer = clock, observer

    async def run(self) -> None:
        """Stand for leader, and lead, until cancelled; then let go, so that another need not wait."""
        try:
            while True:
                self._observer.leading(leads=False)
                if (fence := await self._elected()) is not None:
                    log.info(LogEvent.LEADER_ELECTED, worker=self._worker, fence=fence)
                    self._observer.leading(leads=True)
                    await self._lead(fence)
                    log.warning(LogEvent.LEADERSHIP_LOST, worker=self._worker, fence=fence)
                else:
                    await asyncio.sleep(self._lease_s / TURNS_PER_LEASE)
        finally:
            self._observer.leading(leads=False)
            with suppress(DependencyUnavailable):  # else it ends by itself
                await self._lease.let_go()

    async def _elected(self) -> int | None:
        try:
            known = await self._runs.last()
            return await self._lease.hold(above=max((run.fence for run in known.values()), default=0))
        except DependencyUnavailable as error:
            log.warning(LogEvent.LEASE_RENEWAL_FAILED, lease="leader", error=str(error))
            return None

    async def _lead(self, fence: int) -> None:
        """Return when the lease is lost, or could not be prolonged for as long as it lasts; tasks are stopped then."""
        term = _Term(fence, self._clock.monotonic_s() + self._lease_s)
        timer = AsyncIOScheduler(
            timezone=self._zone,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        try:
            await self._set(timer, term)
            timer.start()
            await self._keep(term)
        except DependencyUnavailable as error:
            log.warning(LogEvent.LEASE_RENEWAL_FAILED, lease="leader", error=str(error))
        finally:
            if timer.running:
                timer.shutdown(wait=False)
            await term.end()

    async def _set(self, timer: AsyncIOScheduler, term: "_Term") -> None:
        """Set the times of all tasks, and those that were missed to now."""
        now = self._clock.now()
        for task in self._triggers:
            await self._runs.add(task, now)
        # Before a run of this term: a leader of before that was paused must not begin the same one a moment earlier.
        await self._runs.take_over(term.fence)
        known = await self._runs.last()
        for task, trigger in self._triggers.items():
            run = known[task]
            if run.outcome is TaskOutcome.SUCCEEDED and run.ended_at:
                self._observer.task_succeeded(task, run.ended_at)
            at_once = {"next_run_time": now} if is_due(run, now, _next_after(trigger)) else {}
            timer.add_job(term.start, trigger, args=[self._run, task], id=task, **at_once)

    async def _keep(self, term: "_Term") -> None:
        """Prolong the lease until that fails: no answer that comes after its end is waited for."""
        while (left_s := term.held_until_s - self._clock.monotonic_s()) > 0:
            await asyncio.sleep(min(left_s, self._lease_s / TURNS_PER_LEASE))
            asked_s = self._clock.monotonic_s()
            try:
                async with asyncio.timeout(term.held_until_s - asked_s):
                    if await self._lease.hold(above=term.fence) != term.fence:
                        return
            except (DependencyUnavailable, TimeoutError) as error:
                log.warning(LogEvent.LEASE_RENEWAL_FAILED, lease="leader", error=str(error) or "no answer in time")
            else:
                term.held_until_s = asked_s + self._lease_s

    async def _run(self, task: str, fence: int) -> None:
        """One run; the row of a run that could not be recorded stays open, and a later term takes it up."""
        started_s = self._clock.monotonic_s()
        try:
            if not await self._runs.begin(task, at=self._clock.now(), fence=fence, worker=self._worker):
                return
            log.info(LogEvent.TASK_STARTED, task=task, fence=fence)
            ended = await self._started(task)
            seconds, at = self._clock.monotonic_s() - started_s, self._clock.now()
            await self._runs.end(task, at=at, fence=fence, outcome=ended.outcome, detail=ended.detail)
            self._tell(task, ended, seconds)
        except DependencyUnavailable as error:
            log.warning(LogEvent.TASK_NOT_RECORDED, task=task, fence=fence, error=str(error))

    async def _started(self, task: str) -> Ended:
        try:
            return await self._start(task)
        except Exception as error:
            log.exception(LogEvent.UNEXPECTED_ERROR_CAUGHT, task=task)
            return Ended(TaskOutcome.FAILED, f"{type(error).__name__}: {error}")

    def _tell(self, task: str, ended: Ended, seconds: float) -> None:
        tell = log.info if ended.outcome is TaskOutcome.SUCCEEDED else log.error
        tell(LogEvent.TASK_ENDED, task=task, outcome=ended.outcome, seconds=seconds, detail=ended.detail)
        self._observer.task_ended(task, outcome=ended.outcome, seconds=seconds)
        if ended.outcome is TaskOutcome.SUCCEEDED:
            self._observer.task_succeeded(task, self._clock.now())


class _Term:
    """The time in which one worker leads, known by its fence; tasks that are under way end with it."""

    def __init__(self, fence: int, held_until_s: float) -> None:
        self.fence = fence
        self.held_until_s = held_until_s
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def start(self, run: Callable[[str, int], Coroutine[None, None, None]], name: str) -> None:
        """Begin a task unless it is under way; it is ours to cancel and to wait for, which the library does not."""
        if name not in self._under_way:
            self._under_way[name] = asyncio.create_task(run(name, self.fence))
            self._under_way[name].add_done_callback(lambda _: self._under_way.pop(name))

    async def end(self) -> None:
        """Cancel what is under way, and return when it has ended."""
        under_way = list(self._under_way.values())
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)


def _next_after(trigger: CronTrigger) -> Callable[[datetime], datetime | None]:
    def next_after(instant: datetime) -> datetime | None:
        fires_at: datetime | None = trigger.get_next_fire_time(None, instant + _INSTANT)
        return fires_at

    return next_after
