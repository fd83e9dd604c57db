"""Scheduled tasks: which are due, decided from what is written down of their last run."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

MAX_TRIES = 3
"""How often one run is begun anew where whoever ran it died: a task that kills its worker must not go on for ever."""


class TaskOutcome(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """The last run of a task, or, with ``started_at`` None, that it is known and has not run yet.

    All times of its schedule up to ``covered_to`` are done with. ``fence`` is that of the last leader who took over;
    ``outcome`` None: it is under way, or its leader died; ``n_tries`` counts how often this run was begun.
    """

    task: str
    covered_to: datetime
    fence: int
    started_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: TaskOutcome | None = None
    n_tries: int = 0
    worker: str = ""
    detail: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it was begun and nobody has said how it ended."""
        return self.started_at is not None and self.outcome is None


def is_due(run: TaskRun, now: datetime, next_after: Callable[[datetime], datetime | None]) -> bool:
    """Whether a leader that has just taken over should begin the task at once.

    It should where a time of the schedule has passed since ``covered_to``, however many have (they are caught up by one
    run), and where the last run was left open and has tries left. ``next_after`` is the first time of the schedule
    after an instant, None where there is none.
    """
    if run.is_open and run.n_tries < MAX_TRIES:
        return True
    first_missed = next_after(run.covered_to)
    return first_missed is not None and first_missed <= now


class LeaderLease(Protocol):
    """The claim to be the one worker that starts scheduled tasks."""

    async def hold(self, *, above: int) -> int | None:
        """Take the lease, or prolong it; the fence of the caller's term, or None while another has it.

        A fence is greater than all before it, and than ``above``. Raises ``DependencyUnavailable``.
        """

    async def let_go(self) -> None:
        """End the term at once; a lease that is another's is left alone. Raises ``DependencyUnavailable``."""


class TaskRuns(Protocol):
    """The last run of each task, a row each; all writes are fenced: those of a leader that was succeeded do nothing."""

    async def last(self) -> dict[str, TaskRun]:
        """By task. Raises ``DependencyUnavailable``."""

    async def add(self, task: str, covered_to: datetime) -> None:
        """Make a task known that is not yet; its times until ``covered_to`` are not caught up."""

    async def take_over(self, fence: int) -> None:
        """From now on no leader of an earlier term begins or ends a run. Raises ``DependencyUnavailable``."""

    async def begin(self, task: str, *, at: datetime, fence: int, worker: str) -> bool:
        """Begin a run that covers all times up to ``at``; False: a later leader has begun one, and this one must not.

        A run that was left open is begun again: its tries are counted.
        """

    async def end(self, task: str, *, at: datetime, fence: int, outcome: TaskOutcome, detail: str) -> bool:
        """Say how the run of that term ended; False: a later leader has begun another."""
