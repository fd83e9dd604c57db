"""What a member likes, has and refuses: the backend's likes and lists, and the events that we keep ourselves."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile, JoinedInteractionTable
from config.signal_strengths import SignalStrengths
from models.catalogue import Listener
from services.database import Database
from services.member_history import LIKES_ROW, LIST_ROW, VERDICT_EVENTS, MemberHistory
from services.schema import LazyTables, ProfileTables, interaction
from services.signs import is_sign, kind_of_sign, strength_by_kind

DEFAULT_LIST_WEIGHT = 0.5
"""Of items that events put into lists, where the profile names no lists."""

_MAX_SIGNS = 2000


class SqlListenerStore:
    """A ``ListenerStore`` in MySQL, MariaDB or SQLite.

    Every method may also raise ``ConfigurationError``: the profile names what the database lacks.
    """

    def __init__(self, database: Database, profile: CatalogueProfile) -> None:
        self._database = database
        self._profile = profile
        self._tables = LazyTables(database, profile)

    async def listener(self, member_id: int) -> Listener:
        """The member's likes, lists and dislikes, in one round trip; an unknown member has none.

        The last event on an item decides: a like counts as one of the backend's, a dislike stands until a later like,
        and ``forget`` takes either back (all of the member's where it names no item). Interests come newest first,
        likes before list items.
        """
        return self._listener(member_id, MemberHistory.of(await self._rows(member_id)))

    async def listener_at(self, member_id: int, then_s: float) -> tuple[Listener, Listener]:
        """The member as ``listener`` would have told at that second (since the epoch), and as it does now.

        What the backend deletes is unknown of both.
        """
        rows = await self._rows(member_id)
        then, now = MemberHistory.of(rows, until_s=then_s), MemberHistory.of(rows)
        return self._listener(member_id, then), self._listener(member_id, now)

    async def _rows(self, member_id: int) -> Sequence[sa.Row[Any]]:
        query = await self._tables.statement(_listener_query)
        async with self._database.connect() as connection:
            found: Sequence[sa.Row[Any]] = (await connection.execute(query, {"member_id": member_id})).all()
        return found

    def _listener(self, member_id: int, history: MemberHistory) -> Listener:
        profile = self._profile
        return history.listener(
            member_id,
            profile.likes.weight,
            profile.lists.weight if profile.lists else DEFAULT_LIST_WEIGHT,
            strength_by_kind(profile.signals),
            profile.signals.dislike,
        )


def _listener_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.CompoundSelect[Any]:
    """Rows of item id, kind and instant; takes ``member_id``."""
    member = sa.bindparam("member_id", type_=sa.BigInteger)
    branches = [_likes_branch(tables, profile, member)]
    if profile.lists and tables.lists:
        branches.append(_lists_branch(profile.lists, *tables.lists, member))
    events = interaction.c
    own = sa.select(events.item_id, events.type, events.occurred_at).where(events.member_id == member)
    branches += [own.where(events.type.in_(VERDICT_EVENTS)), _signs_branch(profile.signals, member)]
    return sa.union_all(*branches)


def _signs_branch(strengths: SignalStrengths, member: sa.BindParameter[int]) -> sa.Select[Any]:
    """The newest signs: a member of many years is not read to the first day for each of their jobs."""
    events = interaction.c
    kind = kind_of_sign(strengths).label("kind")
    signs = sa.select(events.item_id, kind, events.occurred_at).where(events.member_id == member, is_sign(strengths))
    newest = signs.order_by(events.occurred_at.desc()).limit(_MAX_SIGNS).subquery()
    return sa.select(newest.c.item_id, newest.c.kind, newest.c.occurred_at)


def _likes_branch(tables: ProfileTables, profile: CatalogueProfile, member: sa.BindParameter[int]) -> sa.Select[Any]:
    source, columns = profile.likes, tables.likes.columns
    liked_at = columns[source.created_at] if source.created_at else sa.null()
    # The instants' type is the first branch's; SQLite keeps them as text.
    at = sa.type_coerce(liked_at, sa.DateTime)
    return sa.select(columns[source.item], sa.literal(LIKES_ROW), at).where(columns[source.member] == member)


def _lists_branch(
    source: JoinedInteractionTable, rows: sa.Table, parent: sa.Table, member: sa.BindParameter[int]
) -> sa.Select[Any]:
    return (
        sa.select(rows.columns[source.item], sa.literal(LIST_ROW), sa.null())
        .select_from(rows.join(parent, rows.columns[source.key] == parent.columns[source.key]))
        .where(parent.columns[source.member] == member)
    )
