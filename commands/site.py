"""The commands on a whole site: ``schedule``, ``clean-up`` and ``digest``, which the leader also starts by itself."""

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

import structlog
from apscheduler.triggers.cron import CronTrigger
from rich.table import Table

from commands.running import run, start, unseen_servers
from commands.screen import for_machines, progress_bar, say, tell_all, tell_json, under_way
from config.schedule import TASK_NAMES
from config.settings import MEMORY_URL, Settings
from core.errors import ConfigurationError, DependencyUnavailable
from core.fitted_collaborative import MODEL_KIND
from core.schedule import TaskRun
from models.log_event import LogEvent
from models.notice import Notice, NoticeKind
from services.call_budgets import spend_today_usd
from services.event_log import SqlEventLog
from services.logs import mask_secrets
from services.task_runs import SqlTaskRuns
from workers.runtime.parts import Parts, open_parts

log = structlog.get_logger()

_T = TypeVar("_T")

# What a digest asks of its servers; the rest is worth reading without one that is away, and soon.
_ANSWER_S = 5.0
_BROKER_S = 3.0


def schedule(*, as_json: bool) -> None:
    """Say when each scheduled task runs, and how it last ended; a worker that leads starts them."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            last, now = await SqlTaskRuns(parts.database).last(), parts.clock.now()
        rows = [_planned(task, settings, last.get(task), now) for task in TASK_NAMES]
        if as_json:
            tell_json([asdict(row) for row in rows])
        else:
            tell_all([_table(rows, ZoneInfo(settings.time_zone))])

    run(step)


def clean_up(*, as_json: bool) -> None:
    """Delete what is kept no longer: old events, and versions of models beyond those that are kept."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            oldest = parts.clock.now() - timedelta(days=settings.event_retention_days)
            n_events = await _delete_events(SqlEventLog(parts.database), oldest)
            log.info(LogEvent.EVENTS_CLEANED_UP, n_events=n_events, before=oldest.isoformat())
            say(f"{n_events} events deleted, of more than {settings.event_retention_days} days ago")
            with under_way("versions of models"):
                pruned = await parts.models.prune(settings.model_versions_kept)
            say(f"{len(pruned)} versions of models deleted: {', '.join(f'{k} {v}' for k, v in pruned) or 'none'}")
        if as_json:
            versions = [{"kind": kind, "version": version} for kind, version in pruned]
            tell_json({"n_events": n_events, "events_before": oldest, "versions": versions})

    with for_machines(as_json):
        run(step)


async def _delete_events(events: SqlEventLog, oldest: datetime) -> int:
    with progress_bar() as progress:
        n_all = None if progress.disable else await events.n_before(oldest)
        task = progress.add_task("events", total=n_all, visible=bool(n_all))
        return await events.delete_before(oldest, lambda n: progress.update(task, completed=n))


def digest(*, as_json: bool, tell: bool) -> None:
    """Say in a few lines how the site is: queues, dead letters, model, spend, and tasks that failed.

    A server that is away is a line of it, and then its error ends the command.
    """

    async def step(settings: Settings) -> None:
        troubles: dict[str, _Trouble] = {}
        async with open_parts(settings) as parts:
            found = await _digest(parts, troubles)
            if tell:
                await parts.notices.tell(Notice(kind=NoticeKind.DIGEST, text="\n".join(found)))
        if as_json:
            tell_json(asdict(found))
        else:
            tell_all(found)
        for server in found.troubles:
            raise troubles[server]

    run(step)


# --- schedule ---


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """A row of ``schedule``; ``next_at`` is None for a task that does not run by itself."""

    task: str
    cron: str
    next_at: datetime | None
    started_at: datetime | None
    seconds: float | None
    outcome: str
    detail: str


def _planned(task: str, settings: Settings, last: TaskRun | None, now: datetime) -> _Planned:
    cron = settings.schedule.expressions.get(task, "")
    took = last.ended_at - last.started_at if last and last.started_at and last.ended_at else None
    return _Planned(
        task=task,
        cron=cron,
        next_at=CronTrigger.from_crontab(cron, settings.time_zone).get_next_fire_time(None, now) if cron else None,
        started_at=last.started_at if last else None,
        seconds=took.total_seconds() if took else None,
        outcome=_outcome(last),
        detail=last.detail if last else "",
    )


def _outcome(last: TaskRun | None) -> str:
    if last is None or last.started_at is None:
        return "never ran"
    return last.outcome or "under way"


def _table(rows: list[_Planned], zone: ZoneInfo) -> Table:
    def shown(at: datetime | None) -> str:
        return f"{at.astimezone(zone):%Y-%m-%d %H:%M}" if at else "-"

    table = Table("task", "cron", "next", "last", "took", "outcome", "last words")
    for row in rows:
        took = "-" if row.seconds is None else f"{row.seconds:.0f} s"
        words = row.detail.rpartition("\n")[2]
        table.add_row(row.task, row.cron or "-", shown(row.next_at), shown(row.started_at), took, row.outcome, words)
    return table


# --- digest ---

_Trouble = DependencyUnavailable | ConfigurationError
_NAMES = {"mysql": "MySQL", "sqlite": "SQLite", "redis": "Redis", "broker": "RabbitMQ"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """How a site is; spends are in USD.

    What a server did not tell is None: one of ``troubles``, or one of ``unseen``, which is in the memory of others.
    """

    troubles: Mapping[str, str]
    unseen: tuple[str, ...]
    waiting: dict[str, int] | None
    dead_letters: int | None
    model_version: str | None
    spent_today: float | None
    daily_limit: float
    failed_tasks: dict[str, str] | None

    def __iter__(self) -> Iterator[str]:
        """As lines for people, what wants attention first."""
        for server, problem in self.troubles.items():
            yield f"{server}: {problem}"
        for server in self.unseen:
            yield f"{_NAMES[server]}: not seen, {server.upper()}_URL is {MEMORY_URL}"
        if self.dead_letters:
            yield f"{self.dead_letters} dead letters: see `dead-letters list`"
        for task, words in (self.failed_tasks or {}).items():
            yield f"task {task} failed: {words}"
        if self.waiting:
            yield "waiting: " + ", ".join(f"{n} in {queue}" for queue, n in self.waiting.items())
        if self.failed_tasks is not None:
            yield f"collaborative model: {self.model_version or 'none'}"
        if self.spent_today is not None:
            limit = f" of {self.daily_limit:.2f}" if self.daily_limit else ""
            yield f"LLM: {self.spent_today:.4f}{limit} USD today"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What the database tells."""

    failed_tasks: dict[str, str]
    model_version: str | None


async def _digest(parts: Parts, troubles: dict[str, _Trouble]) -> Digest:
    """Ask all servers at once; why one did not tell is put into ``troubles``, by the name that people call it."""
    settings, dead = parts.settings, parts.broker.topology.main.dead_letter_queue
    database = "sqlite" if settings.database_url.get_secret_value().startswith("sqlite") else "mysql"
    kept, spent_today, queues = await asyncio.gather(
        _asked(database, _kept(parts), troubles),
        _asked("redis", _spent_today(parts), troubles),
        _asked("broker", _waiting(parts), troubles),
    )
    return Digest(
        troubles={server: _told(troubles[server]) for server in _NAMES.values() if server in troubles},
        unseen=unseen_servers(settings),
        waiting={queue: n for queue, n in queues.items() if queue != dead} if queues is not None else None,
        dead_letters=queues.get(dead, 0) if queues is not None else None,
        model_version=kept.model_version if kept else None,
        spent_today=spent_today,
        daily_limit=settings.llm_daily_usd,
        failed_tasks=kept.failed_tasks if kept else None,
    )


async def _asked(server: str, answer: Coroutine[None, None, _T], troubles: dict[str, _Trouble]) -> _T | None:
    try:
        async with asyncio.timeout(_ANSWER_S):
            return await answer
    except TimeoutError:
        troubles[_NAMES[server]] = DependencyUnavailable(server, f"no answer within {_ANSWER_S:g} s")
    except (DependencyUnavailable, ConfigurationError) as error:
        troubles[_NAMES[server]] = error
    return None


def _told(error: _Trouble) -> str:
    if isinstance(error, DependencyUnavailable):
        return mask_secrets(f"away: {str(error).removeprefix(f'{error.dependency}: ')}")
    return mask_secrets(str(error))


async def _kept(parts: Parts) -> _Kept:
    last = await SqlTaskRuns(parts.database).last()
    return _Kept(
        failed_tasks={task: each.detail.rpartition("\n")[2] for task, each in last.items() if each.outcome == "failed"},
        model_version=await parts.models.active_version(MODEL_KIND),
    )


async def _spent_today(parts: Parts) -> float | None:
    if "redis" in unseen_servers(parts.settings):
        return None
    return await spend_today_usd(parts.redis, parts.clock, parts.settings.time_zone)


async def _waiting(parts: Parts) -> dict[str, int] | None:
    if "broker" in unseen_servers(parts.settings):
        return None
    topology = parts.broker.topology
    await start(parts.broker, within_s=_BROKER_S)
    return await parts.broker.waiting(
        [
            topology.main.queue,
            *(step.queue for step in topology.main.retries),
            topology.batch.queue,
            topology.events.queue,
            topology.main.dead_letter_queue,
        ]
    )
