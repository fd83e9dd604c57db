"""What all members like and do, for fitting: the backend's likes and lists, and the events that we keep ourselves."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any

import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile
from core.ports import Interaction
from services.database import Database
from services.item_changes import N_SCAN_TRIPS
from services.member_history import LIKES_ROW, LIST_ROW, VERDICT_EVENTS, MemberHistory, Signs
from services.schema import LazyTables, ProfileTables, interaction

_PLAY, _REPEAT, _RATING, _PLAYLIST_ADD = "play", "repeat", "rating", "playlist_add"
_LOW_RATING = "low rating"

# Each sign beside 1 for an ordinary like (unless the profile says otherwise). What is done says less than what is said:
# a play may be the radio's choice, but a song asked for again is nobody else's; many of them outweigh a like. Fits take
# the logarithm of the sum.
_WEIGHTS: Mapping[str, float] = {_PLAY: 0.2, _REPEAT: 0.5}
_WEIGHT_OF_RATING = 1.0
# Of five stars, as most sites have them.
_MIN_RATING = 4.0

_MEMBERS_AT_ONCE = 500
_BEFORE_ALL_MEMBERS = -(2**63)
_AFTER, _UP_TO = (sa.bindparam(name, type_=sa.BigInteger) for name in ("after", "up_to"))


class SqlInteractionLog:
    """An ``InteractionLog`` in MySQL, MariaDB or SQLite.

    It may also raise ``ConfigurationError``: the profile names what the database lacks.
    """

    def __init__(self, database: Database, profile: CatalogueProfile) -> None:
        self._database, self._profile = database, profile
        self._tables = LazyTables(database, profile)

    async def stream(self, batch_size: int = 10_000) -> AsyncIterator[Sequence[Interaction]]:
        """All positive signals on active items, in batches; of what a member takes back or dislikes, nothing.

        A pair of member and item comes once. Members come in order of id, and their items too.
        """
        waiting: list[Interaction] = []
        async for rows in self._pages():
            for member_id, of_member in _by_member(rows):
                waiting += self._positive(member_id, of_member)
            while len(waiting) >= batch_size:
                yield waiting[:batch_size]
                waiting = waiting[batch_size:]
        if waiting:
            yield waiting

    async def _pages(self) -> AsyncIterator[Sequence[sa.Row[Any]]]:
        """Rows of member, item, kind and instant, of some members at a time: no query is long, no member is divided."""
        tables = await self._tables.get()
        next_members, history = _next_members_query(tables, self._profile), _history_query(tables, self._profile)
        after = _BEFORE_ALL_MEMBERS
        while True:
            async with self._database.connect(n_round_trips=N_SCAN_TRIPS) as connection:
                up_to = await connection.scalar(next_members, {"after": after})
                if up_to is None:
                    return
                rows = (await connection.execute(history, {"after": after, "up_to": up_to})).all()
            yield rows
            after = up_to

    def _positive(self, member_id: int, rows: Sequence[Sequence[Any]]) -> Iterator[Interaction]:
        history, lists = MemberHistory.of(rows), self._profile.lists
        list_weight = lists.weight if lists else 0.5
        listener = history.listener(member_id, self._profile.likes.weight, list_weight)
        held = {interest.item_id: (interest.weight, interest.occurred_at_s) for interest in listener.interests}
        signs = {item: given for item, given in history.signs().items() if item not in listener.disliked_ids}
        for item_id in sorted(held.keys() | signs.keys()):
            given = signs.get(item_id, Signs())
            # What is liked or in a list is there already, as a row of the backend's.
            added = list_weight if given.counts[_PLAYLIST_ADD] else 0.0
            weight, at_s = held.get(item_id, (added, None))
            weight += _done(given)
            if weight > 0:
                last_s = max([-inf if at_s is None else at_s, *given.last_s.values()])
                at = None if last_s == -inf else datetime.fromtimestamp(last_s, UTC)
                yield Interaction(member_id=member_id, item_id=item_id, weight=weight, occurred_at=at)


def _done(signs: Signs) -> float:
    """The weight of what was done; of ratings the last one counts."""
    is_rated = signs.last_s.get(_RATING, -inf) > signs.last_s.get(_LOW_RATING, -inf)
    return sum(weight * signs.counts[kind] for kind, weight in _WEIGHTS.items()) + _WEIGHT_OF_RATING * is_rated


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
    events = interaction.c
    branches.append(
        sa.select(events.member_id, events.item_id, _kind(), events.occurred_at).where(
            _in_page(events.member_id), sa.or_(events.item_id.is_(None), events.item_id.in_(shown)), _tells()
        )
    )
    return sa.union_all(*branches)


def _in_page(member: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    return sa.and_(member > _AFTER, member <= _UP_TO)


def _tells() -> sa.ColumnElement[bool]:
    """The condition that an event is a sign, or says what a member thinks."""
    events = interaction.c
    return sa.or_(
        events.type.in_((*VERDICT_EVENTS, _REPEAT, _PLAYLIST_ADD)),
        sa.and_(events.type == _PLAY, events.completed),
        sa.and_(events.type == _RATING, events.value.is_not(None)),
    )


def _kind() -> sa.ColumnElement[str]:
    """The type, but of low ratings."""
    events = interaction.c
    return sa.case((sa.and_(events.type == _RATING, events.value < _MIN_RATING), _LOW_RATING), else_=events.type)


def _by_member(rows: Sequence[sa.Row[Any]]) -> Iterator[tuple[int, list[Sequence[Any]]]]:
    found: defaultdict[int, list[Sequence[Any]]] = defaultdict(list)
    for row in rows:
        found[row[0]].append(row[1:])
    for member_id in sorted(found):
        yield member_id, found[member_id]
