"""The last run of each scheduled task, in a table of ours: what was missed, and who may write, outlive every worker."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from core.schedule import TaskOutcome, TaskRun
from services.database import Database
from services.logs import mask_secrets
from services.schema import task_run
from services.stored_instants import aware, naive

_DETAIL_CHARACTERS = 1000


class SqlTaskRuns:
    """``TaskRuns`` in MySQL, MariaDB or SQLite; each write is one statement, so that no two can both win."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def last(self) -> dict[str, TaskRun]:
        """See ``TaskRuns.last``."""
        async with self._database.connect() as connection:
            return {row.task: _run(row) for row in await connection.execute(sa.select(task_run))}

    async def add(self, task: str, covered_to: datetime) -> None:
        """See ``TaskRuns.add``."""
        row = {"task": task, "covered_to": naive(covered_to), "fence": 0, "n_tries": 0, "worker": "", "detail": ""}
        known = sa.select(sa.literal(1)).where(task_run.c.task == task)
        with suppress(sa.exc.IntegrityError):  # another worker was faster
            async with self._database.begin(n_round_trips=3) as connection:
                if (await connection.execute(known)).scalar() is None:
                    await connection.execute(sa.insert(task_run), row)

    async def take_over(self, fence: int) -> None:
        """See ``TaskRuns.take_over``."""
        async with self._database.begin(n_round_trips=2) as connection:
            await connection.execute(sa.update(task_run).where(task_run.c.fence < fence).values(fence=fence))

    async def begin(self, task: str, *, at: datetime, fence: int, worker: str) -> bool:
        """See ``TaskRuns.begin``."""
        was_open = task_run.c.started_at.is_not(None) & task_run.c.outcome.is_(None)
        values = {
            # Set first: MySQL takes what a column was just set to for what it was.
            "n_tries": sa.case((was_open, task_run.c.n_tries + 1), else_=1),
            "covered_to": naive(at),
            "started_at": naive(at),
            "ended_at": None,
            "outcome": None,
            "fence": fence,
            "worker": worker,
            "detail": "",
        }
        return await self._write(task, task_run.c.fence <= fence, values)

    async def end(self, task: str, *, at: datetime, fence: int, outcome: TaskOutcome, detail: str) -> bool:
        """See ``TaskRuns.end``."""
        values = {
            "ended_at": naive(at),
            "outcome": outcome.value,
            "detail": mask_secrets(detail)[-_DETAIL_CHARACTERS:],
        }
        return await self._write(task, task_run.c.fence == fence, values)

    async def _write(self, task: str, fenced: sa.ColumnElement[bool], values: Mapping[str, Any]) -> bool:
        ordered = sa.update(task_run).where(task_run.c.task == task, fenced).ordered_values(*values.items())
        async with self._database.begin(n_round_trips=2) as connection:
            return (await connection.execute(ordered)).rowcount == 1


def _run(row: Row[Any]) -> TaskRun:
    return TaskRun(
        task=row.task,
        covered_to=aware(row.covered_to),
        fence=row.fence,
        started_at=row.started_at and aware(row.started_at),
        ended_at=row.ended_at and aware(row.ended_at),
        outcome=row.outcome and TaskOutcome(row.outcome),
        n_tries=row.n_tries,
        worker=row.worker,
        detail=row.detail,
    )
