"""Events on their way into the table of interactions, and out of it again."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite

from core.feedback import happened_at
from models.event import Event
from services.database import Database
from services.schema import forgotten_member, interaction
from services.stored_instants import naive
from services.stored_names import in_a_name

_N_DELETED_AT_ONCE = 10_000
_N_DELETE_TRIPS = 12


class SqlEventLog:
    """The rows of events in MySQL, MariaDB or SQLite.

    Every method raises ``DependencyUnavailable``, or ``ConfigurationError`` where a table is missing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, events: Sequence[Event], *, arrived_at: datetime) -> frozenset[str]:
        """Write all of them, in one statement of one transaction; those that are there already stay as they are.

        What happened before its member was forgotten is left out: the ids of such events are returned. The instant of
        an event is ``arrived_at`` where it has none, or one that is yet to come: by a clock that is ahead no later
        event would be the later one.
        """
        rows = {each.event_id: each for each in (_row(event, arrived_at) for event in events)}
        async with self._database.begin() as connection:
            # Under a shared lock: whoever is forgotten meanwhile is so after these rows, which go with all others.
            ends = await connection.execute(_ends_of({row.member_id for row in rows.values()}))
            forgotten_at = {row.member_id: row.forgotten_at for row in ends}
            late = {row.event_id for row in rows.values() if row.is_over(forgotten_at.get(row.member_id))}
            kept = [row._asdict() for row in rows.values() if row.event_id not in late]
            if kept:
                await connection.execute(_insert(self._database.name), kept)
        return frozenset(event.event_id for event in events if in_a_name(event.event_id) in late)

    async def n_before(self, instant: datetime) -> int:
        """How many events happened before ``instant``."""
        query = sa.select(sa.func.count()).where(interaction.c.occurred_at < naive(instant))
        async with self._database.connect(n_round_trips=_N_DELETE_TRIPS) as connection:
            return int(await connection.scalar(query) or 0)

    async def delete_before(self, instant: datetime, progress: Callable[[int], object] = lambda _: None) -> int:
        """Delete all events that happened before ``instant``, some at a time; how many there were.

        ``progress`` is told how many are deleted by now.
        """
        n_deleted = 0
        while True:
            async with self._database.begin(n_round_trips=_N_DELETE_TRIPS) as connection:
                n = (await connection.execute(_delete_some(naive(instant)))).rowcount
            n_deleted += n
            progress(n_deleted)
            if n < _N_DELETED_AT_ONCE:
                return n_deleted


class _Row(NamedTuple):
    event_id: str
    member_id: int
    item_id: int | None
    type: str
    value: float | None
    completed: bool | None
    occurred_at: datetime

    def is_over(self, forgotten_at: datetime | None) -> bool:
        return forgotten_at is not None and self.occurred_at <= forgotten_at


def _row(event: Event, arrived_at: datetime) -> _Row:
    return _Row(
        event_id=in_a_name(event.event_id),
        member_id=event.member_id,
        item_id=event.item_id,
        type=event.type.value,
        value=event.value,
        completed=event.completed,
        occurred_at=naive(happened_at(event, arrived_at)),
    )


def _ends_of(member_ids: Collection[int]) -> sa.Select[int, datetime]:
    columns = forgotten_member.c
    query = sa.select(columns.member_id, columns.forgotten_at).where(columns.member_id.in_(member_ids))
    return query.with_for_update(read=True)


def _insert(database: str) -> sa.Insert:
    """The driver makes one statement of all rows of it."""
    if database == "sqlite":
        return sqlite.insert(interaction).on_conflict_do_nothing()
    # Not INSERT IGNORE, which ignores more than that, and tells of each row that was there.
    statement = mysql.insert(interaction)
    return statement.on_duplicate_key_update(event_id=interaction.c.event_id)


def _delete_some(instant: datetime) -> sa.Delete:
    events = interaction.c
    oldest = sa.select(events.event_id).where(events.occurred_at < instant).order_by(events.occurred_at)
    # A derived table, since MySQL has no LIMIT in a subquery of IN.
    some = oldest.limit(_N_DELETED_AT_ONCE).subquery()
    return sa.delete(interaction).where(events.event_id.in_(sa.select(some.c.event_id)))
