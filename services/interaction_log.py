"""What all members like and do, for fitting: the backend's likes and lists, and the events that we keep ourselves."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any

import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile
from core.ports.collaborative import Interaction
from services.database import Database
from services.item_changes import N_SCAN_TRIPS
from services.listener_store import DEFAULT_LIST_WEIGHT
from services.member_history import LIKES_ROW, LIST_ROW, VERDICT_EVENTS, MemberHistory
from services.schema import LazyTables, ProfileTables, forgotten_member, interaction
from services.signs import is_sign, kind_of_sign, strength_by_kind

_MEMBERS_AT_ONCE = 500
_BEFORE_ALL_MEMBERS = -(2**63)
_AFTER, _UP_TO = (sa.bindparam(name, type_=sa.BigInteger) for name in ("after", "up_to"))
_FORGOTTEN = sa.select(forgotten_member.c.member_id, forgotten_member.c.forgotten_at).where(
    forgotten_member.c.member_id > _AFTER, forgotten_member.c.member_id <= _UP_TO
)


class SqlInteractionLog:
    """An ``InteractionLog`` in MySQL, MariaDB or SQLite.

    It may also raise ``ConfigurationError``: the profile names what the database lacks.
    """

    def __init__(self, database: Database, profile: CatalogueProfile) -> None:
        self._database, self._profile = database, profile
        self._tables = LazyTables(database, profile)
        self._strengths = strength_by_kind(profile.signals)

    async def stream(self, batch_size: int = 10_000) -> AsyncIterator[Sequence[Interaction]]:
        """All positive signals on active items, in batches; of what a member takes back or dislikes, nothing.

        A pair of member and item comes once. Members come in order of id, and their items too.
        """
        waiting: list[Interaction] = []
        async for rows, forgotten in self._pages():
            for member_id, of_member in _by_member(rows):
                waiting += self._positive(member_id, MemberHistory.of(of_member, after_s=forgotten.get(member_id)))
            while len(waiting) >= batch_size:
                yield waiting[:batch_size]
                waiting = waiting[batch_size:]
        if waiting:
            yield waiting

    async def _pages(self) -> AsyncIterator[tuple[Sequence[sa.Row[Any]], dict[int, float]]]:
        """Rows of member, item, kind and instant, of some members at a time: no query is long, no member is divided.

        And of those members who were forgotten the second at which they were: what the backend still has of before is
        not learnt from.
        """
        tables = await self._tables.get()
        next_members, history = _next_members_query(tables, self._profile), _history_query(tables, self._profile)
        after = _BEFORE_ALL_MEMBERS
        while True:
            async with self._database.connect(n_round_trips=N_SCAN_TRIPS) as connection:
                up_to = await connection.scalar(next_members, {"after": after})
                if up_to is None:
                    return
                page = {"after": after, "up_to": up_to}
                rows = (await connection.execute(history, page)).all()
                ends = (await connection.execute(_FORGOTTEN, page)).all()
            yield rows, {member_id: at.replace(tzinfo=UTC).timestamp() for member_id, at in ends}
            after = up_to

    def _positive(self, member_id: int, history: MemberHistory) -> Iterator[Interaction]:
        lists = self._profile.lists
        list_weight = lists.weight if lists else DEFAULT_LIST_WEIGHT
        listener = history.listener(member_id, self._profile.likes.weight, list_weight, self._strengths)
        weights: defaultdict[int, float] = defaultdict(float)
        last_s: dict[int, float] = {}
        for each in (*listener.interests, *listener.reactions):
            weights[each.item_id] += each.weight
            if each.occurred_at_s is not None:
                last_s[each.item_id] = max(each.occurred_at_s, last_s.get(each.item_id, -inf))
        first_s = history.first_s()
        for item_id in sorted(weights.keys() - listener.disliked_ids):
            if weights[item_id] > 0:
                last, first = last_s.get(item_id), first_s.get(item_id)
                yield Interaction(
                    member_id=member_id,
                    item_id=item_id,
                    weight=weights[item_id],
                    occurred_at=_instant(last),
                    first_at=None if first == last else _instant(first),
                )


def _instant(at_s: float | None) -> datetime | None:
    return None if at_s is None else datetime.fromtimestamp(at_s, UTC)


def _next_members_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.Select[Any]:
    """The last of the next members after ``after``, NULL where there is none."""
    members = [tables.likes.columns[profile.likes.member], interaction.c.member_id]
    if profile.lists and tables.lists:
        members.append(tables.lists[1].columns[profile.lists.member])
    firsts = [
        sa.select(member.label("member_id")).distinct().where(member > _AFTER).order_by(member).limit(_MEMBERS_AT_ONCE)
        for member in members
    ]
    # Each in brackets of its own, as a derived table, which is the one way that SQLite has too.
    together = sa.union(*(sa.select(first.subquery().c.member_id) for first in firsts)).subquery()
    page = sa.select(together.c.member_id).order_by(together.c.member_id).limit(_MEMBERS_AT_ONCE).subquery()
    return sa.select(sa.func.max(page.c.member_id))


def _history_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.CompoundSelect[Any]:
    """Rows of member, item, kind and instant, on active items, of members beyond ``after`` and up to ``up_to``."""
    shown = sa.select(tables.item.columns[profile.item.id]).where(tables.is_active())
    likes, columns = profile.likes, tables.likes.columns
    # The instants' type is the first branch's; SQLite keeps them as text.
    liked_at = sa.type_coerce(columns[likes.created_at] if likes.created_at else sa.null(), sa.DateTime)
    branches = [
        sa.select(columns[likes.member], columns[likes.item], sa.literal(LIKES_ROW), liked_at).where(
            _in_page(columns[likes.member]), columns[likes.item].in_(shown)
        )
    ]
    if profile.lists and tables.lists:
        source, (rows, parent) = profile.lists, tables.lists
        member, item = parent.columns[source.member], rows.columns[source.item]
        branches.append(
            sa.select(member, item, sa.literal(LIST_ROW), sa.null())
            .select_from(rows.join(parent, rows.columns[source.key] == parent.columns[source.key]))
            .where(_in_page(member), item.in_(shown))
        )
    events, strengths = interaction.c, profile.signals
    branches.append(
        sa.select(events.member_id, events.item_id, kind_of_sign(strengths), events.occurred_at).where(
            _in_page(events.member_id),
            sa.or_(events.item_id.is_(None), events.item_id.in_(shown)),
            sa.or_(events.type.in_(VERDICT_EVENTS), is_sign(strengths)),
        )
    )
    return sa.union_all(*branches)


def _in_page(member: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    return sa.and_(member > _AFTER, member <= _UP_TO)


def _by_member(rows: Sequence[sa.Row[Any]]) -> Iterator[tuple[int, list[Sequence[Any]]]]:
    found: defaultdict[int, list[Sequence[Any]]] = defaultdict(list)
    for row in rows:
        found[row[0]].append(row[1:])
    for member_id in sorted(found):
        yield member_id, found[member_id]
