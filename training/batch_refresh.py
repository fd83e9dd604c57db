"""A refresh of active members through a provider's Batch API: ask, send, wait, merge.

Nothing is paid for twice, wherever the process is killed. Before a file is sent, its questions are in the books; file
and batch bear the part's key at the provider and are looked for there before they are made; and an answer is saved
under a job id that follows from the day and the member.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from zoneinfo import ZoneInfo

import structlog

from core.errors import DependencyUnavailable
from core.ports.batches import BatchApi, BatchLedger, BatchPart, BatchPurse, BatchQuestion, BatchState, BatchUsage
from core.ports.catalogue import ActiveMembers
from core.ports.clock import Clock
from core.ports.results import AnswerCache
from models.log_event import LogEvent
from training.batch_merge import BatchMerger, instant_ns
from training.batch_questions import Due, RefreshQuestions

T = TypeVar("T")

LOST = "lost"
OVER_SPEND, TAKEN_OVER = "over_spend", "taken_over"

_FLIGHT = "refresh-batches"
_MAX_FAILURES = 10

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRefreshConfig:
    """How much goes into a file (a provider takes 50,000 requests and 200 MB), and how long batches are waited for."""

    time_zone: str
    max_questions: int = 50_000
    max_bytes: int = 200_000_000
    first_poll_s: float = 5.0
    longest_poll_s: float = 60.0
    deadline_s: float = 90_000.0
    retry_waits_s: Sequence[float] = (1.0, 4.0, 16.0)
    keep_days: int = 14


@dataclass(slots=True)
class Report:
    """What a run did. ``skipped`` counts members about whom nothing was asked, ``outcomes`` questions, by reason."""

    n_resumed: int = 0
    n_sent: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    usage: BatchUsage = field(default_factory=BatchUsage)


Show = Callable[[str, int, int], None]
"""What is being done, and how far it is: so many of so many."""


class BatchRefresh:
    """One run at a time among all processes; another one waits until it ends, and then finds little to do."""

    def __init__(
        self,
        *,
        members: ActiveMembers,
        questions: RefreshQuestions,
        merger: BatchMerger,
        answers: AnswerCache,
        api: BatchApi,
        ledger: BatchLedger,
        purse: BatchPurse,
        clock: Clock,
        config: BatchRefreshConfig,
        show: Show = lambda _what, _done, _total: None,
    ) -> None:
        self._members = members
        self._questions = questions
        self._merger = merger
        self._answers = answers
        self._api = api
        self._ledger = ledger
        self._purse = purse
        self._clock = clock
        self._config = config
        self._show = show

    async def run(self, n_members: int) -> Report:
        """Bring to its end what an earlier run left, ask about those who are due, wait for all, and merge it.

        Raises ``DependencyUnavailable`` and ``ConfigurationError``; the next run goes on from there.
        """
        await self._api.check()
        report, today = Report(), self._today()
        async with self._answers.single_flight(_FLIGHT):
            await self._ledger.forget(today - timedelta(days=self._config.keep_days))
            parts = [part async for part in self._left_over(report)]
            parts += [part async for part in self._new(await self._due(n_members, today), today, report)]
            await self._await_all(parts, report)
        return report

    def _today(self) -> date:
        return self._clock.now().astimezone(ZoneInfo(self._config.time_zone)).date()

    async def _due(self, n_members: int, today: date) -> list[int]:
        asked = await self._ledger.asked_members(today)
        return [each for each in await self._members.active_member_ids(n_members) if each not in asked]

    # --- what an earlier run left ---

    async def _left_over(self, report: Report) -> AsyncIterator[BatchPart]:
        for part in await self._ledger.open_parts():
            file_id = part.file_id or await self._api.find_file(_file_name(part.key))
            if part.batch_id is None and file_id is None:
                # Never sent. Whom it asks about is asked anew: what they like may be another matter by now.
                await self._purse.settle(part.key, 0.0)
                await self._ledger.drop(part.key)
                continue
            report.n_resumed += 1
            yield part if part.batch_id else await self._created(replace(part, file_id=file_id))

    # --- asking ---

    async def _new(self, member_ids: Sequence[int], today: date, report: Report) -> AsyncIterator[BatchPart]:
        """The parts that ask about ``member_ids``, each sent as soon as it is full."""
        created_at = self._clock.now()
        with TemporaryDirectory(prefix="songs-ai-batch-") as directory, ExitStack() as files:
            new_draft = partial(self._draft, Path(directory), files, today, created_at)
            draft = await new_draft()
            n_seen = 0
            async for each in self._questions.of(member_ids, today, instant_ns(created_at)):
                n_seen += 1
                self._show("asking", n_seen, len(member_ids))
                if isinstance(each, str):
                    report.skipped[each] += 1
                    continue
                if not draft.has_room(each, self._config):
                    if (part := await self._sent(draft, report)) is not None:
                        yield part
                    draft = await new_draft()
                    if not draft.has_room(each, self._config):
                        report.skipped[OVER_SPEND] += 1 + len(member_ids) - n_seen
                        return
                draft.add(each)
            if (part := await self._sent(draft, report)) is not None:
                yield part

    async def _draft(self, directory: Path, files: ExitStack, today: date, created_at: datetime) -> "_Draft":
        key = secrets.token_hex(12)
        draft = _Draft(key, today, created_at, await self._purse.left_usd(), directory / _file_name(key))
        files.callback(draft.close)
        return draft

    async def _sent(self, draft: "_Draft", report: Report) -> BatchPart | None:
        """The part as the provider has it; None where it asks nothing, or others have spent the money meanwhile."""
        draft.close()
        if not draft.questions:
            return None
        part = draft.part
        await self._ledger.add(part, draft.questions)
        if not await self._purse.reserve(part.key, draft.max_usd):
            await self._ledger.drop(part.key)
            report.skipped[OVER_SPEND] += part.n_questions
            return None
        name = draft.path.name
        file_id = await self._made(lambda: self._api.find_file(name), lambda: self._api.upload(name, draft.path))
        if not await self._ledger.note_file(part.key, file_id):
            # Our lock was lost, and whoever took it asks about these members: a batch of ours would be paid too.
            await self._purse.settle(part.key, 0.0)
            await self._api.delete_file(file_id)
            report.skipped[TAKEN_OVER] += part.n_questions
            return None
        draft.path.unlink()
        report.n_sent += 1
        return await self._created(replace(part, file_id=file_id))

    async def _created(self, part: BatchPart) -> BatchPart:
        file_id = part.file_id or ""
        state = await self._made(
            lambda: self._api.find(part.key, part.created_at), lambda: self._api.create(file_id, part.key)
        )
        await self._ledger.note_batch(part.key, state.batch_id)
        log.info(LogEvent.BATCH_SENT, batch_id=state.batch_id, n_requests=part.n_questions)
        return replace(part, batch_id=state.batch_id)

    async def _made(self, find: Callable[[], Awaitable[T | None]], make: Callable[[], Awaitable[T]]) -> T:
        """What is there, or else what ``make`` makes: where its answer is lost, it is looked for before another try."""
        for wait_s in (*self._config.retry_waits_s, None):
            try:
                return await find() or await make()
            except DependencyUnavailable as error:
                if wait_s is None:
                    raise
                log.warning(LogEvent.BATCH_CHECK_FAILED, error=str(error))
                await asyncio.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    # --- waiting ---

    async def _await_all(self, parts: Sequence[BatchPart], report: Report) -> None:
        waiting = {part.key: part for part in parts}
        wait_s, n_failures, cancelled = self._config.first_poll_s, 0, set[str]()
        progress: dict[str, BatchState] = {}
        while waiting:
            for part in list(waiting.values()):
                try:
                    state = progress[part.key] = await self._looked(part, cancelled)
                    if state.has_ended:
                        await self._ended(part, state, report)
                        del waiting[part.key]
                    n_failures = 0
                except DependencyUnavailable as error:
                    n_failures += 1
                    log.warning(LogEvent.BATCH_CHECK_FAILED, error=str(error))
                    if n_failures == _MAX_FAILURES:
                        raise
            n_done = sum(state.n_done for state in progress.values())
            self._show("waiting", n_done, sum(part.n_questions for part in parts))
            if waiting:
                await asyncio.sleep(wait_s)
                wait_s = min(1.5 * wait_s, self._config.longest_poll_s)

    async def _looked(self, part: BatchPart, cancelled: set[str]) -> BatchState:
        """The state of the batch, which is cancelled, once, where it has taken too long."""
        batch_id = part.batch_id or ""
        state = await self._api.look(batch_id)
        too_late = self._clock.now() - part.created_at > timedelta(seconds=self._config.deadline_s)
        if not state.has_ended and too_late and part.key not in cancelled:
            await self._api.cancel(batch_id)
            cancelled.add(part.key)
            return await self._api.look(batch_id)
        return state

    async def _ended(self, part: BatchPart, state: BatchState, report: Report) -> None:
        """Merge, pay, clean up at the provider, and only then close the part."""
        usage = await self._merger.merge(part, state)
        await self._ledger.note_usage(part.key, usage)
        if state.status != LOST:
            # Of a batch that the provider has forgotten nobody knows the price: what was reserved stays spent.
            await self._purse.settle(part.key, usage.cost_usd)
        for file_id in (*state.file_ids, part.file_id):
            if file_id is not None:
                await self._api.delete_file(file_id)
        outcomes = Counter(await self._ledger.close(part.key, state.status))
        log.info(LogEvent.BATCH_ENDED, batch_id=state.batch_id, status=state.status, problem=state.problem, **outcomes)
        report.statuses[state.status] += 1
        report.outcomes += outcomes
        report.usage.add(usage)


class _Draft:
    """A part while it is being written."""

    def __init__(self, key: str, run_on: date, created_at: datetime, left_usd: float | None, path: Path) -> None:
        self.path = path
        self.questions: list[BatchQuestion] = []
        self.max_usd = 0.0
        self._key, self._run_on, self._created_at = key, run_on, created_at
        self._left_usd = left_usd
        self._n_bytes = 0
        self._file = path.open("wb")

    @property
    def part(self) -> BatchPart:
        return BatchPart(
            key=self._key, run_on=self._run_on, created_at=self._created_at, n_questions=len(self.questions)
        )

    def has_room(self, due: Due, config: BatchRefreshConfig) -> bool:
        is_affordable = self._left_usd is None or self.max_usd + due.max_usd <= self._left_usd
        is_small = self._n_bytes + len(due.line) <= config.max_bytes
        return is_affordable and is_small and len(self.questions) < config.max_questions

    def add(self, due: Due) -> None:
        self._file.write(due.line)
        self._n_bytes += len(due.line)
        self.max_usd += due.max_usd
        self.questions.append(due.question)

    def close(self) -> None:
        self._file.close()


def _file_name(key: str) -> str:
    return f"songs-ai-{key}.jsonl"
