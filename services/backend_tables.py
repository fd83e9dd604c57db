"""The tables that a backend owns, as a catalogue profile names them, for sites, demos and tests that have no backend.

The worker itself only ever reads these tables; nothing here is used where a backend exists. They are therefore no
migration of ours: they are created where absent, with the columns that the profile names, and never altered.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile, ColumnType, JoinedInteractionTable, MemberTable
from services.schema import item_columns

# SQLite numbers rows by itself only in a column that is declared INTEGER.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_IN_MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}
_TYPES: dict[ColumnType, sa.types.TypeEngine[Any]] = {
    "text": sa.String(255),
    "long text": sa.Text(),
    "integer": sa.BigInteger(),
    "number": sa.Double(),
    "flag": sa.Boolean(),
}


@dataclass(frozen=True, slots=True)
class BackendTables:
    """The tables of one profile; ``lists``: the items of lists, and the lists. None where it names none."""

    metadata: sa.MetaData
    item: sa.Table
    likes: sa.Table
    lists: tuple[sa.Table, sa.Table] | None
    members: sa.Table | None

    def create_absent(self, connection: sa.Connection) -> tuple[str, ...]:
        """Create those that the database lacks, and return their names; leave the others alone."""
        present = set(sa.inspect(connection).get_table_names())
        absent = [table for table in self.metadata.sorted_tables if table.name not in present]
        self.metadata.create_all(connection, tables=absent, checkfirst=False)
        return tuple(table.name for table in absent)


def backend_tables(profile: CatalogueProfile) -> BackendTables:
    """The tables of ``profile``, with all the columns that it names."""
    metadata, likes = sa.MetaData(), profile.likes
    return BackendTables(
        metadata=metadata,
        item=_item_table(profile, metadata),
        likes=_rows_table(likes.table, metadata, (likes.item, likes.member), likes.created_at),
        lists=_list_tables(profile.lists, metadata) if profile.lists else None,
        members=_member_table(profile.members, metadata) if profile.members else None,
    )


def _item_table(profile: CatalogueProfile, metadata: sa.MetaData) -> sa.Table:
    item = profile.item
    filled = [column for file in profile.item_files for column in file.columns]
    further = dict.fromkeys(name for name in [*item_columns(profile), *filled, *item.types] if name != item.id)
    columns = [sa.Column(name, _TYPES[item.types.get(name, "text")]) for name in further]
    if item.active:
        columns.append(sa.Column(item.active, sa.Boolean()))
    if item.modified_at:
        columns.append(_instant(item.modified_at))
    return sa.Table(item.table, metadata, _key(item.id), *columns, **_IN_MYSQL)


def _rows_table(name: str, metadata: sa.MetaData, ids: Iterable[str], instant: str | None = None) -> sa.Table:
    """Rows of several ids, each of which is searched for; and a key of no meaning."""
    ids = tuple(ids)
    indexed = [sa.Index(f"ix_{name}_{column}", column) for column in ids]
    instants = [_instant(instant)] if instant else []
    columns = [sa.Column(column, sa.BigInteger, nullable=False) for column in ids]
    key = "id" if "id" not in ids else "row_id"
    return sa.Table(name, metadata, _key(key), *columns, *instants, *indexed, **_IN_MYSQL)


def _list_tables(lists: JoinedInteractionTable, metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    member = sa.Column(lists.member, sa.BigInteger, nullable=False)
    index = sa.Index(f"ix_{lists.parent}_{lists.member}", lists.member)
    parent = sa.Table(lists.parent, metadata, _key(lists.key), member, index, **_IN_MYSQL)
    return _rows_table(lists.table, metadata, (lists.key, lists.item)), parent


def _member_table(members: MemberTable, metadata: sa.MetaData) -> sa.Table:
    return sa.Table(members.table, metadata, _key(members.id), sa.Column(members.email, sa.String(255)), **_IN_MYSQL)


def _key(name: str) -> sa.Column[int]:
    return sa.Column(name, _ID, primary_key=True)


def _instant(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.TIMESTAMP, nullable=True)
