"""What a member likes, has and refuses: the backend's likes and lists, and the events that we keep ourselves."""

from typing import Any

import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile, JoinedInteractionTable
from models.catalogue import Listener
from services.database import Database
from services.member_history import LIKES_ROW, LIST_ROW, VERDICT_EVENTS, MemberHistory
from services.schema import LazyTables, ProfileTables, interaction


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
        query = _listener_query(await self._tables.get(), self._profile)
        async with self._database.connect() as connection:
            rows = (await connection.execute(query, {"member_id": member_id})).all()
        lists = self._profile.lists
        return MemberHistory.of(rows).listener(member_id, self._profile.likes.weight, lists.weight if lists else 0.0)


def _listener_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.CompoundSelect[Any]:
    """Rows of item id, kind and instant; takes ``member_id``."""
    member = sa.bindparam("member_id", type_=sa.BigInteger)
    branches = [_likes_branch(tables, profile, member)]
    if profile.lists and tables.lists:
        branches.append(_lists_branch(profile.lists, *tables.lists, member))
    branches.append(
        sa.select(interaction.c.item_id, interaction.c.type, interaction.c.occurred_at).where(
            interaction.c.member_id == member, interaction.c.type.in_(VERDICT_EVENTS)
        )
    )
    return sa.union_all(*branches)


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
