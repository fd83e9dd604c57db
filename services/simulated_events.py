"""The worker's table of events, as a simulation writes it: many rows at a time, found again by how their ids begin."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from models.event import Event
from services.database import Database
from services.schema import interaction

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)
# A transaction of thousands of rows, and looks over a million of them.
_N_TRIPS = 24
_REMOVED_AT_ONCE = 20_000

# As statements of the drivers' own: SQLAlchemy would look at every value of a million rows. Each driver makes one
# statement of many rows of it, or binds them one after the other.
_INSERT = {
    "mysql": "INSERT INTO songs_ai_interaction (event_id, member_id, item_id, type, value, completed, occurred_at)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s) ON DUPLICATE KEY UPDATE event_id = event_id",
    "sqlite": "INSERT INTO songs_ai_interaction (event_id, member_id, item_id, type, value, completed, occurred_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
}


class SqlSimulatedEvents:
    """A ``SimulatedEvents`` in MySQL, MariaDB or SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def last_id(self, prefix: str) -> str | None:
        """The highest id of those that begin with ``prefix``."""
        query = sa.select(sa.func.max(interaction.c.event_id)).where(_begins(prefix))
        async with self._database.connect(n_round_trips=_N_TRIPS) as connection:
            found = await connection.scalar(query)
        return None if found is None else str(found)

    async def count(self, prefix: str) -> int:
        """How many there are whose ids begin with ``prefix``."""
        query = sa.select(sa.func.count()).select_from(interaction).where(_begins(prefix))
        async with self._database.connect(n_round_trips=_N_TRIPS) as connection:
            return int(await connection.scalar(query) or 0)

    async def other_member(self, prefix: str, first: int, last: int) -> int | None:
        """One of the members from ``first`` to ``last`` who has an event whose id does not begin with ``prefix``."""
        query = (
            sa.select(interaction.c.member_id)
            .where(interaction.c.member_id.between(first, last), sa.not_(_begins(prefix)))
            .limit(1)
        )
        async with self._database.connect(n_round_trips=_N_TRIPS) as connection:
            found = await connection.scalar(query)
        return None if found is None else int(found)

    async def add(self, events: Sequence[Event]) -> None:
        """Insert, in one transaction, those whose ids are not there yet."""
        if not events:
            return
        async with self._database.begin(n_round_trips=_N_TRIPS) as connection:
            await connection.exec_driver_sql(_INSERT[self._database.name], [_row(event) for event in events])

    async def remove(self, prefix: str) -> int:
        """Delete those whose ids begin with ``prefix``, some thousands a transaction, and say how many there were."""
        n = 0
        while True:
            chosen = sa.select(interaction.c.event_id).where(_begins(prefix)).order_by(interaction.c.event_id)
            async with self._database.begin(n_round_trips=_N_TRIPS) as connection:
                last = await connection.scalar(chosen.offset(_REMOVED_AT_ONCE - 1).limit(1))
                those = _begins(prefix) if last is None else sa.and_(_begins(prefix), interaction.c.event_id <= last)
                n += (await connection.execute(sa.delete(interaction).where(those))).rowcount
            if last is None:
                return n


def _begins(prefix: str) -> sa.ColumnElement[bool]:
    """As a range, which the primary key answers; ids are compared byte for byte."""
    above = f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}"
    return sa.and_(interaction.c.event_id >= prefix, interaction.c.event_id < above)


def _row(event: Event) -> tuple[object, ...]:
    """In the order of ``_INSERT``; instants as text, which both databases read, and SQLAlchemy writes to SQLite."""
    happened = _EPOCH + timedelta(microseconds=(event.occurred_at_ns or 0) // 1000)
    return (
        event.event_id,
        event.member_id,
        event.item_id,
        event.type.value,
        event.value,
        event.completed,
        happened.isoformat(" ", "microseconds"),
    )
