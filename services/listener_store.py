"""What a member likes, has and refuses: the backend's likes and lists, and the events that we keep ourselves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from typing import Any

import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile, JoinedInteractionTable
from models.catalogue import Interest, Listener
from services.database import Database
from services.schema import LazyTables, ProfileTables, interaction

_LIKES_ROW, _LIST_ROW = "row of likes", "row of a list"
_LIKE, _UNLIKE, _DISLIKE, _FORGET = "like", "unlike", "dislike", "forget"
_EVENT_TYPES = (_LIKE, _UNLIKE, _DISLIKE, _FORGET)


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
        return _History.of(rows).listener(member_id, self._profile.likes.weight, lists.weight if lists else 0.0)


def _listener_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.CompoundSelect[Any]:
    """Rows of item id, kind and instant; takes ``member_id``."""
    member = sa.bindparam("member_id", type_=sa.BigInteger)
    branches = [_likes_branch(tables, profile, member)]
    if profile.lists and tables.lists:
        branches.append(_lists_branch(profile.lists, *tables.lists, member))
    branches.append(
        sa.select(interaction.c.item_id, interaction.c.type, interaction.c.occurred_at).where(
            interaction.c.member_id == member, interaction.c.type.in_(_EVENT_TYPES)
        )
    )
    return sa.union_all(*branches)


def _likes_branch(tables: ProfileTables, profile: CatalogueProfile, member: sa.BindParameter[int]) -> sa.Select[Any]:
    source, columns = profile.likes, tables.likes.columns
    liked_at = columns[source.created_at] if source.created_at else sa.null()
    # The instants' type is the first branch's; SQLite keeps them as text.
    at = sa.type_coerce(liked_at, sa.DateTime)
    return sa.select(columns[source.item], sa.literal(_LIKES_ROW), at).where(columns[source.member] == member)


def _lists_branch(
    source: JoinedInteractionTable, rows: sa.Table, parent: sa.Table, member: sa.BindParameter[int]
) -> sa.Select[Any]:
    return (
        sa.select(rows.columns[source.item], sa.literal(_LIST_ROW), sa.null())
        .select_from(rows.join(parent, rows.columns[source.key] == parent.columns[source.key]))
        .where(parent.columns[source.member] == member)
    )


@dataclass(slots=True)
class _History:
    """A member's rows, sorted: items by id with the second they were liked at, minus infinity where nobody knows."""

    likes: dict[int, float] = field(default_factory=dict)
    listed: set[int] = field(default_factory=set)
    events: list[tuple[float, str, int | None]] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]]) -> "_History":
        history = cls()
        for item_id, kind, at in rows:
            history._add(item_id, kind, _seconds(at))
        return history

    def _add(self, item_id: int | None, kind: str, at_s: float) -> None:
        if kind not in (_LIKES_ROW, _LIST_ROW):
            self.events.append((at_s, kind, item_id))
        elif item_id is not None and kind == _LIST_ROW:
            self.listed.add(item_id)
        elif item_id is not None:
            self.likes[item_id] = max(at_s, self.likes.get(item_id, -inf))

    def listener(self, member_id: int, like_weight: float, list_weight: float) -> Listener:
        verdicts = self._verdicts()
        liked = self.likes | {item: at for item, (kind, at) in verdicts.items() if kind == _LIKE}
        disliked = frozenset(
            item for item, (kind, at) in verdicts.items() if kind == _DISLIKE and at >= self.likes.get(item, -inf)
        )
        newest_first = sorted(liked.keys() - disliked, key=lambda item: (-liked[item], item))
        likes = [Interest(item, like_weight, None if liked[item] == -inf else liked[item]) for item in newest_first]
        listed = [Interest(item, list_weight) for item in sorted(self.listed - liked.keys() - disliked)]
        return Listener(
            member_id=member_id,
            interests=(*likes, *listed),
            seen_ids=frozenset(liked) | self.listed,
            disliked_ids=disliked,
        )

    def _verdicts(self) -> dict[int, tuple[str, float]]:
        """What the events come to: like or dislike by item, and since when."""
        verdicts: dict[int, tuple[str, float]] = {}
        for at_s, kind, item_id in sorted(self.events, key=lambda event: event[:2]):
            if item_id is None:
                if kind == _FORGET:
                    verdicts.clear()
            elif kind in (_LIKE, _DISLIKE):
                verdicts[item_id] = (kind, at_s)
            else:
                verdicts.pop(item_id, None)
        return verdicts


def _seconds(at: datetime | None) -> float:
    # Databases give naive instants; the session's time zone is UTC.
    return at.replace(tzinfo=UTC).timestamp() if at else -inf
