"""Writes a catalogue of ours: the backend's tables where no backend does, and what we know of where the rows came from.

This is the one service that writes to the backend's tables. It therefore refuses every database in which somebody else
has written to them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection

from config.catalogue_profile import CatalogueProfile, InteractionTable
from core.errors import ConfigurationError
from core.ports.collaborative import Interaction
from models.source import SourceItem, SourceListener
from services.backend_tables import BackendTables, backend_tables
from services.database import Database
from services.schema import item_feature, item_source
from services.stored_instants import naive

# RFC 2606: a domain that can never be anybody's.
_EMAIL_DOMAIN = "@listeners.invalid"

# When made-up members liked their first item; one more each day.
_FIRST_LIKE_AT = datetime(2026, 1, 1, tzinfo=UTC)

# A transaction writes thousands of rows; and DDL waits for the locks of others.
_N_WRITE_TRIPS, _N_PREPARE_TRIPS = 24, 12

# REPLACE is said alike by MySQL, MariaDB and SQLite, and the drivers send it as one statement for many rows.
_REPLACE_SOURCE = sa.text(
    "REPLACE INTO songs_ai_item_source (source, source_id, item_id, content_hash)"
    " VALUES (:source, :source_id, :item_id, :content_hash)"
)
_REPLACE_FEATURE = sa.text(
    "REPLACE INTO songs_ai_item_feature (item_id, features, popularity) VALUES (:item_id, :features, :popularity)"
)


class SqlIngestStore:
    """An ``IngestStore`` in MySQL, MariaDB or SQLite; our own tables must be there (``python main.py migrate``)."""

    def __init__(self, database: Database, profile: CatalogueProfile) -> None:
        self._database, self._profile = database, profile
        self._tables = backend_tables(profile)
        self._id = self._tables.item.columns[profile.item.id]

    async def prepare(self) -> None:
        """Create the backend's tables where they are absent; see ``IngestStore``.

        Nothing is created in a database that is a backend's, or that has not got our own tables.
        """
        async with self._database.connect(n_round_trips=_N_PREPARE_TRIPS) as connection:
            await connection.run_sync(_prepare, self._tables, self._id)

    async def content_hashes(self, source: str) -> dict[str, bytes]:
        """The hash of the content that each item was last saved with; items whose row is gone are left out."""
        rows = await self._known(source, item_source.c.content_hash)
        return {source_id: bytes(content) for source_id, content in rows}

    async def item_ids(self, source: str) -> dict[str, int]:
        """See ``IngestStore``; items whose row is gone are left out."""
        return {row[0]: row[1] for row in await self._known(source, item_source.c.item_id)}

    async def n_items(self, source: str) -> int | None:
        """How many items of ``source`` there are; None: no table of items is there, a backend's or ours."""
        async with self._database.connect(n_round_trips=_N_PREPARE_TRIPS) as connection:
            present = await connection.run_sync(lambda sync: sa.inspect(sync).has_table(self._tables.item.name))
        return len(await self.item_ids(source)) if present else None

    async def _known(self, source: str, column: sa.Column[Any]) -> Sequence[Sequence[Any]]:
        query = (
            sa.select(item_source.c.source_id, column)
            .join(self._tables.item, self._id == item_source.c.item_id)
            .where(item_source.c.source == source)
        )
        async with self._database.connect(n_round_trips=_N_WRITE_TRIPS) as connection:
            return (await connection.execute(query)).all()

    async def save(self, source: str, items: Sequence[SourceItem], content_hashes: Sequence[bytes]) -> None:
        """Insert or update, in one transaction; ``modified_at`` is the database's time."""
        if not items:
            return
        try:
            async with self._database.begin(n_round_trips=_N_WRITE_TRIPS) as connection:
                ids = await self._ids(connection, source, items)
                await self._save_items(connection, items, ids)
                await connection.execute(_REPLACE_FEATURE, [_feature_row(item, ids[item.source_id]) for item in items])
                rows = [
                    _source_row(source, item, ids[item.source_id], content)
                    for item, content in zip(items, content_hashes, strict=True)
                ]
                await connection.execute(_REPLACE_SOURCE, rows)
        except exc.IntegrityError as error:
            raise ConfigurationError(
                f"another ingest writes to {self._tables.item.name!r}: run it again when that one has ended"
            ) from error

    async def _ids(self, connection: AsyncConnection, source: str, items: Sequence[SourceItem]) -> dict[str, int]:
        """The id of every item: its own, the one that it has, or the next free one."""
        given = {item.source_id: item.item_id for item in items if item.item_id is not None}
        await _refuse_taken(connection, source, given)
        numbered = [item.source_id for item in items if item.item_id is None]
        query = sa.select(item_source.c.source_id, item_source.c.item_id).where(
            item_source.c.source == source, item_source.c.source_id.in_(numbered)
        )
        known = {row.source_id: row.item_id for row in await connection.execute(query)}
        # Ids of items that are gone are not given again: an embedding or a like may still name them.
        columns = (self._id, item_source.c.item_id)
        highest = max([await connection.scalar(sa.select(sa.func.max(column))) or 0 for column in columns])
        new = [source_id for source_id in numbered if source_id not in known]
        return given | known | {source_id: item_id for item_id, source_id in enumerate(new, start=highest + 1)}

    async def _save_items(
        self, connection: AsyncConnection, items: Sequence[SourceItem], ids: Mapping[str, int]
    ) -> None:
        table, key = self._tables.item, self._id.name
        present = set(await connection.scalars(sa.select(self._id).where(self._id.in_(list(ids.values())))))
        rows = [_item_row(self._profile, item, ids[item.source_id]) for item in items]
        now = {self._profile.item.modified_at: sa.func.now()} if self._profile.item.modified_at else {}
        if new := [row for row in rows if row[key] not in present]:
            await connection.execute(sa.insert(table).values(**now), new)
        if changed := [row for row in rows if row[key] in present]:
            await connection.execute(
                _update(table, self._id, changed[0], now),
                [{f"new_{name}": row[name] for name in row} for row in changed],
            )

    async def save_likes(self, likes: Sequence[Interaction]) -> int:
        """See ``IngestStore``; a pair of member and item stands once in the table."""
        source, table = self._profile.likes, self._tables.likes
        member, item = table.columns[source.member], table.columns[source.item]
        async with self._database.begin(n_round_trips=_N_WRITE_TRIPS) as connection:
            query = sa.select(member, item).where(member.in_({like.member_id for like in likes}))
            known = {(row[0], row[1]) for row in await connection.execute(query)}
            new = [like for like in likes if (like.member_id, like.item_id) not in known]
            rows = [_like_row(source, like.member_id, like.item_id, like.occurred_at) for like in new]
            if rows:
                await connection.execute(sa.insert(table), rows)
        return len(new)

    async def save_listeners(self, listeners: Sequence[SourceListener]) -> None:
        """Replace the made-up members of before; see ``IngestStore``."""
        tables, profile = self._tables, self._profile
        async with self._database.begin(n_round_trips=_N_WRITE_TRIPS) as connection:
            await _refuse_foreign_members(connection, profile, tables)
            for table in (*(tables.lists or ()), tables.likes, tables.members):
                if table is not None:
                    await connection.execute(sa.delete(table))
            for table, rows in _listener_rows(profile, tables, listeners):
                if rows:
                    await connection.execute(sa.insert(table), rows)


def _prepare(connection: sa.Connection, tables: BackendTables, item_id: sa.Column[Any]) -> None:
    present = set(sa.inspect(connection).get_table_names())
    if tables.item.name in present:
        _refuse_foreign_items(connection, item_id, knows_ours=item_source.name in present)
    if missing := [table.name for table in (item_source, item_feature) if table.name not in present]:
        raise ConfigurationError(f"the database has no table {missing[0]!r}: run `python main.py migrate`")
    tables.create_absent(connection)


def _refuse_foreign_items(connection: sa.Connection, item_id: sa.Column[Any], *, knows_ours: bool) -> None:
    query = sa.select(item_id).limit(1)
    if knows_ours:
        query = query.where(~sa.exists().where(item_source.c.item_id == item_id))
    if (found := connection.scalar(query)) is not None:
        raise ConfigurationError(
            f"table {item_id.table.name!r} holds rows that ingest did not write ({item_id.name} {found}): it is a "
            "backend's, and is left alone; ingest into a database of its own"
        )


async def _refuse_taken(connection: AsyncConnection, source: str, given: Mapping[str, int]) -> None:
    """Ids that a source brings itself may not be those of another one's items."""
    known = item_source.c
    query = sa.select(known.source, known.source_id, known.item_id).where(known.item_id.in_(list(given.values())))
    for row in await connection.execute(query) if given else ():
        if row.source != source or given.get(row.source_id) != row.item_id:
            raise ConfigurationError(
                f"item {row.item_id} of {source!r} is there already, as {row.source_id!r} of {row.source!r}"
            )


def _update(table: sa.Table, item_id: sa.Column[Any], row: Mapping[str, object], now: Mapping[str, Any]) -> sa.Update:
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in row if name != item_id.name}
    return sa.update(table).where(item_id == sa.bindparam(f"new_{item_id.name}")).values(**values, **now)


def _item_row(profile: CatalogueProfile, item: SourceItem, item_id: int) -> dict[str, object]:
    """The columns that we know; the others stay as they are."""
    table = profile.item
    found: list[tuple[str | None, str | None]] = [
        *((column, item.titles.get(locale)) for locale, column in table.titles.items()),
        (table.creator, item.creator),
        (table.creator_local, item.creator_local),
        (table.genre, ", ".join(item.genres) or None),
        (table.mood, item.mood),
        (table.language, item.language),
    ]
    row: dict[str, object] = {table.id: item_id}
    for column, value in found:
        if column:  # two locales may share one
            row[column] = row.get(column) or value
    return row | dict(item.columns)


def _feature_row(item: SourceItem, item_id: int) -> dict[str, object]:
    return {"item_id": item_id, "features": json.dumps(dict(item.features)), "popularity": item.popularity}


def _source_row(source: str, item: SourceItem, item_id: int, content: bytes) -> dict[str, object]:
    return {"source": source, "source_id": item.source_id, "item_id": item_id, "content_hash": content}


def _like_row(source: InteractionTable, member_id: int, item_id: int, at: datetime | None) -> dict[str, Any]:
    row: dict[str, Any] = {source.member: member_id, source.item: item_id}
    if source.created_at:
        row[source.created_at] = naive(at) if at else None
    return row


# --- made-up members ---


async def _refuse_foreign_members(
    connection: AsyncConnection, profile: CatalogueProfile, tables: BackendTables
) -> None:
    """Without a table of members nobody can tell made-up ones from others: then there may be none at all."""
    checked = [tables.likes.columns[profile.likes.member]]
    if profile.lists and tables.lists:
        checked.append(tables.lists[1].columns[profile.lists.member])
    ours: sa.Select[Any] = sa.select(sa.literal(0)).where(sa.false())
    if profile.members is not None and tables.members is not None:
        member, email = (tables.members.columns[name] for name in (profile.members.id, profile.members.email))
        ours = sa.select(member).where(email.endswith(_EMAIL_DOMAIN))
        checked.insert(0, member)
    for column in checked:
        foreign = sa.select(column).where(column.not_in(ours)).limit(1)
        if (found := await connection.scalar(foreign)) is not None:
            raise ConfigurationError(
                f"table {column.table.name!r} holds members that are not made up ({column.name} {found}): it is a "
                "backend's, and is left alone"
            )


def _listener_rows(
    profile: CatalogueProfile, tables: BackendTables, listeners: Sequence[SourceListener]
) -> Iterator[tuple[sa.Table, list[dict[str, Any]]]]:
    if profile.members is not None and tables.members is not None:
        ids, names = [listener.member_id for listener in listeners], profile.members
        yield tables.members, [{names.id: each, names.email: f"{each}{_EMAIL_DOMAIN}"} for each in ids]
    yield tables.likes, [row for listener in listeners for row in _likes_of(profile.likes, listener)]
    if profile.lists and tables.lists:
        (rows, parent), source = tables.lists, profile.lists
        owners = [listener.member_id for listener in listeners if listener.playlist_ids]
        yield parent, [{source.key: owner, source.member: owner} for owner in owners]
        yield (
            rows,
            [
                {source.key: listener.member_id, source.item: item_id}
                for listener in listeners
                for item_id in listener.playlist_ids
            ],
        )


def _likes_of(source: InteractionTable, listener: SourceListener) -> Iterator[dict[str, Any]]:
    for n_days, item_id in enumerate(listener.liked_ids):
        yield _like_row(source, listener.member_id, item_id, _FIRST_LIKE_AT + timedelta(days=n_days))
