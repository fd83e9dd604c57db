"""What a refresh in batches has sent and what became of it, in tables of ours: a process that dies loses nothing."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date

import sqlalchemy as sa
from sqlalchemy.engine import Row

from core.ports.batches import BATCH_OUTCOMES, BatchPart, BatchQuestion, BatchTotals, BatchUsage
from services.call_budgets import nano_usd, usd_of
from services.database import Database
from services.schema import refresh_part, refresh_question
from services.stored_instants import aware, naive

# Some 200 kB a statement, far below the smallest max_allowed_packet that servers are found with (4 MB).
_ROWS = 200
# A statement that may read or write all 50,000 questions of a part takes longer than a round trip.
_ALL_TRIPS = 10

_SUMMED = (
    *("prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano_usd"),
    *(f"n_{outcome}" for outcome in BATCH_OUTCOMES),
)
_SUMS = sa.select(*(sa.func.sum(refresh_part.c[name]).label(name) for name in _SUMMED))


class SqlBatchLedger:
    """A ``BatchLedger`` in MySQL, MariaDB or SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_parts(self) -> Sequence[BatchPart]:
        """See ``BatchLedger.open_parts``."""
        query = sa.select(refresh_part).where(refresh_part.c.status.is_(None)).order_by(refresh_part.c.created_at)
        async with self._database.connect() as connection:
            return [_part(row) for row in await connection.execute(query)]

    async def asked_members(self, run_on: date) -> set[int]:
        """See ``BatchLedger.asked_members``."""
        query = (
            sa.select(refresh_question.c.member_id)
            .join(refresh_part, refresh_part.c.part_key == refresh_question.c.part_key)
            .where(sa.or_(refresh_part.c.run_on == run_on, refresh_part.c.status.is_(None)))
        )
        async with self._database.connect(n_round_trips=_ALL_TRIPS) as connection:
            return set(await connection.scalars(query))

    async def add(self, part: BatchPart, questions: Sequence[BatchQuestion]) -> None:
        """See ``BatchLedger.add``."""
        row = {
            "part_key": part.key,
            "run_on": part.run_on,
            "created_at": naive(part.created_at),
            "n_questions": part.n_questions,
            "file_id": part.file_id,
            "batch_id": part.batch_id,
        }
        async with self._database.begin(n_round_trips=3 + len(questions) // _ROWS) as connection:
            await connection.execute(sa.insert(refresh_part), row)
            for start in range(0, len(questions), _ROWS):
                rows = [_row(part.key, question) for question in questions[start : start + _ROWS]]
                await connection.execute(sa.insert(refresh_question), rows)

    async def drop(self, key: str) -> None:
        """See ``BatchLedger.drop``."""
        async with self._database.begin(n_round_trips=_ALL_TRIPS) as connection:
            for table in (refresh_question, refresh_part):
                await connection.execute(sa.delete(table).where(table.c.part_key == key))

    async def note_file(self, key: str, file_id: str) -> bool:
        """See ``BatchLedger.note_file``."""
        is_open = sa.and_(refresh_part.c.part_key == key, refresh_part.c.status.is_(None))
        async with self._database.connect() as connection:
            noted = await connection.execute(sa.update(refresh_part).where(is_open).values(file_id=file_id))
        return noted.rowcount == 1

    async def note_batch(self, key: str, batch_id: str) -> None:
        """See ``BatchLedger.note_batch``."""
        noted = sa.update(refresh_part).where(refresh_part.c.part_key == key).values(batch_id=batch_id)
        async with self._database.connect() as connection:
            await connection.execute(noted)

    async def questions(self, key: str, custom_ids: Collection[str]) -> Sequence[BatchQuestion]:
        """See ``BatchLedger.questions``."""
        condition = refresh_question.c.custom_id.in_(custom_ids)
        return await self._questions(refresh_question.c.part_key == key, condition)

    async def settle(self, key: str, outcomes: Mapping[str, str]) -> None:
        """See ``BatchLedger.settle``."""
        by_outcome: dict[str, list[str]] = {}
        for custom_id, outcome in outcomes.items():
            by_outcome.setdefault(outcome, []).append(custom_id)
        n_chunks = sum(1 + len(custom_ids) // _ROWS for custom_ids in by_outcome.values())
        async with self._database.begin(n_round_trips=2 + n_chunks) as connection:
            for outcome, custom_ids in by_outcome.items():
                for start in range(0, len(custom_ids), _ROWS):
                    chunk = refresh_question.c.custom_id.in_(custom_ids[start : start + _ROWS])
                    settled = sa.update(refresh_question).where(refresh_question.c.part_key == key, chunk)
                    await connection.execute(settled.values(outcome=outcome))

    async def settle_rest(self, key: str, outcome: str) -> None:
        """See ``BatchLedger.settle_rest``."""
        open_ones = sa.update(refresh_question).where(
            refresh_question.c.part_key == key, refresh_question.c.outcome.is_(None)
        )
        async with self._database.begin(n_round_trips=_ALL_TRIPS) as connection:
            await connection.execute(open_ones.values(outcome=outcome))

    async def settled(self, key: str, outcomes: Collection[str]) -> Sequence[BatchQuestion]:
        """See ``BatchLedger.settled``."""
        return await self._questions(refresh_question.c.part_key == key, refresh_question.c.outcome.in_(outcomes))

    async def close(self, key: str, status: str) -> Mapping[str, int]:
        """See ``BatchLedger.close``."""
        outcome, n = refresh_question.c.outcome, sa.func.count()
        counts = sa.select(outcome, n).where(refresh_question.c.part_key == key).group_by(outcome)
        async with self._database.begin(n_round_trips=_ALL_TRIPS) as connection:
            counted = {str(row[0]): int(row[1]) for row in await connection.execute(counts)}
            # Not of one that is closed: its questions may be forgotten by now, and its counts are not.
            closed = sa.update(refresh_part).where(refresh_part.c.part_key == key, refresh_part.c.status.is_(None))
            each = {f"n_{outcome}": counted.get(outcome, 0) for outcome in BATCH_OUTCOMES}
            await connection.execute(closed.values(status=status, **each))
            return counted

    async def note_usage(self, key: str, usage: BatchUsage) -> None:
        """See ``BatchLedger.note_usage``."""
        part = refresh_part.c
        noted = sa.update(refresh_part).where(part.part_key == key, part.cost_nano_usd.is_(None))
        used = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
            "cost_nano_usd": nano_usd(usage.cost_usd),
        }
        async with self._database.connect() as connection:
            await connection.execute(noted.values(used))

    async def totals(self) -> BatchTotals:
        """See ``BatchLedger.totals``; of integers, whose sums do not depend on their order."""
        async with self._database.connect() as connection:
            sums = (await connection.execute(_SUMS)).one()._mapping
        found = {name: int(sums[name] or 0) for name in sums}
        usage = BatchUsage(
            prompt_tokens=found["prompt_tokens"],
            completion_tokens=found["completion_tokens"],
            cached_tokens=found["cached_tokens"],
            cost_usd=usd_of(found["cost_nano_usd"]),
        )
        return BatchTotals(usage, {outcome: found[f"n_{outcome}"] for outcome in BATCH_OUTCOMES})

    async def forget(self, before: date) -> int:
        """See ``BatchLedger.forget``."""
        old = (
            sa.select(refresh_part.c.part_key)
            .where(refresh_part.c.status.is_not(None), refresh_part.c.run_on < before)
            .where(sa.exists().where(refresh_question.c.part_key == refresh_part.c.part_key))
        )
        async with self._database.begin(n_round_trips=_ALL_TRIPS) as connection:
            keys = list(await connection.scalars(old))
            await connection.execute(sa.delete(refresh_question).where(refresh_question.c.part_key.in_(keys)))
        return len(keys)

    async def _questions(self, *conditions: sa.ColumnElement[bool]) -> Sequence[BatchQuestion]:
        query = sa.select(refresh_question).where(*conditions).order_by(refresh_question.c.custom_id)
        async with self._database.connect(n_round_trips=_ALL_TRIPS) as connection:
            return [_question(row) for row in await connection.execute(query)]


def _part(row: Row[tuple[object, ...]]) -> BatchPart:
    return BatchPart(
        key=row.part_key,
        run_on=row.run_on,
        created_at=aware(row.created_at),
        n_questions=row.n_questions,
        file_id=row.file_id,
        batch_id=row.batch_id,
    )


def _row(key: str, question: BatchQuestion) -> dict[str, object]:
    return {
        "part_key": key,
        "custom_id": question.custom_id,
        "member_id": question.member_id,
        "locale": question.locale,
        "taste_mark": question.taste_mark,
        "shown_ids": list(question.shown_ids),
        "outcome": question.outcome,
    }


def _question(row: Row[tuple[object, ...]]) -> BatchQuestion:
    return BatchQuestion(
        custom_id=row.custom_id,
        member_id=row.member_id,
        locale=row.locale,
        taste_mark=row.taste_mark,
        shown_ids=tuple(row.shown_ids),
        outcome=row.outcome,
    )
