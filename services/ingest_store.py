"""Writes a catalogue of ours: the backend's tables where no backend does, and what we know of where the rows came from.

This is the one service that writes to the backend's tables. It therefore refuses every database in which somebody else
has written to them.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import ConfigurationError
from models.source import SourceItem, SourceListener
from services.backend_tables import create_absent, member, member_role_list, playlist, playlist_song, song, song_like
from services.database import Database
from services.schema import item_feature, item_source

# RFC 2606: a domain that can never be anybody's.
_EMAIL_DOMAIN = "@listeners.invalid"

# When made-up members liked their first item; one more each day.
_FIRST_LIKE_AT = datetime(2026, 1, 1, tzinfo=UTC)

_TITLE_COLUMNS = {"ko": "title_kr", "en": "title_en", "ja": "title_jp"}

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

    def __init__(self, database: Database) -> None:
        self._database = database

    async def prepare(self) -> None:
        """Create the backend's tables where they are absent; see ``IngestStore``.

        Nothing is created in a database that is a backend's, or that has not got our own tables.
        """
        async with self._database.connect(n_round_trips=_N_PREPARE_TRIPS) as connection:
            await connection.run_sync(_prepare)

    async def content_hashes(self, source: str) -> dict[str, bytes]:
        """The hash of the content that each item was last saved with; items whose song is gone are left out."""
        query = (
            sa.select(item_source.c.source_id, item_source.c.content_hash)
            .join(song, song.c.song_id == item_source.c.item_id)
            .where(item_source.c.source == source)
        )
        async with self._database.connect(n_round_trips=_N_WRITE_TRIPS) as connection:
            return {source_id: bytes(content) for source_id, content in await connection.execute(query)}

    async def save(self, source: str, items: Sequence[SourceItem], content_hashes: Sequence[bytes]) -> None:
        """Insert or update, in one transaction; ``created_at`` and ``modified_at`` are the database's time."""
        if not items:
            return
        try:
            async with self._database.begin(n_round_trips=_N_WRITE_TRIPS) as connection:
                ids = await self._ids(connection, source, [item.source_id for item in items])
                await _save_songs(connection, items, ids)
                await connection.execute(_REPLACE_FEATURE, [_feature_row(item, ids[item.source_id]) for item in items])
                rows = [
                    _source_row(source, item, ids[item.source_id], content)
                    for item, content in zip(items, content_hashes, strict=True)
                ]
                await connection.execute(_REPLACE_SOURCE, rows)
        except exc.IntegrityError as error:
            raise ConfigurationError("another ingest writes to 'song': run it again when that one has ended") from error

    async def _ids(self, connection: AsyncConnection, source: str, source_ids: Sequence[str]) -> dict[str, int]:
        """The id of every item: the one that it has, or the next free one."""
        query = sa.select(item_source.c.source_id, item_source.c.item_id).where(
            item_source.c.source == source, item_source.c.source_id.in_(source_ids)
        )
        known = {row.source_id: row.item_id for row in await connection.execute(query)}
        # Ids of songs that are gone are not given again: an embedding or a like may still name them.
        columns = (song.c.song_id, item_source.c.item_id)
        highest = max([await connection.scalar(sa.select(sa.func.max(column))) or 0 for column in columns])
        new = [source_id for source_id in source_ids if source_id not in known]
        return known | {source_id: item_id for item_id, source_id in enumerate(new, start=highest + 1)}

    async def save_listeners(self, listeners: Sequence[SourceListener]) -> None:
        """Replace the made-up members of before; see ``IngestStore``."""
        async with self._database.begin(n_round_trips=_N_WRITE_TRIPS) as connection:
            await _refuse_foreign_members(connection)
            for table in (playlist_song, playlist, song_like, member_role_list, member):
                await connection.execute(sa.delete(table))
            for table, rows in _listener_rows(listeners):
                if rows:
                    await connection.execute(sa.insert(table), rows)


def _prepare(connection: sa.Connection) -> None:
    present = set(sa.inspect(connection).get_table_names())
    if song.name in present:
        _refuse_foreign_songs(connection, knows_ours=item_source.name in present)
    if missing := [table.name for table in (item_source, item_feature) if table.name not in present]:
        raise ConfigurationError(f"the database has no table {missing[0]!r}: run `python main.py migrate`")
    create_absent(connection)


def _refuse_foreign_songs(connection: sa.Connection, *, knows_ours: bool) -> None:
    query = sa.select(song.c.song_id).limit(1)
    if knows_ours:
        query = query.where(~sa.exists().where(item_source.c.item_id == song.c.song_id))
    if (found := connection.scalar(query)) is not None:
        raise ConfigurationError(
            f"table 'song' holds rows that ingest did not write (song_id {found}): it is a backend's, and is "
            "left alone; ingest into a database of its own"
        )


async def _save_songs(connection: AsyncConnection, items: Sequence[SourceItem], ids: dict[str, int]) -> None:
    present = set(await connection.scalars(sa.select(song.c.song_id).where(song.c.song_id.in_(list(ids.values())))))
    rows = [_song_row(item, ids[item.source_id]) for item in items]
    if new := [row for row in rows if row["song_id"] not in present]:
        await connection.execute(sa.insert(song).values(created_at=sa.func.now(), modified_at=sa.func.now()), new)
    if changed := [row for row in rows if row["song_id"] in present]:
        await connection.execute(
            _update_song(changed[0]), [{f"new_{name}": row[name] for name in row} for row in changed]
        )


def _update_song(row: dict[str, object]) -> sa.Update:
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in row if name != "song_id"}
    condition = song.c.song_id == sa.bindparam("new_song_id")
    return sa.update(song).where(condition).values(**values, modified_at=sa.func.now())


def _song_row(item: SourceItem, item_id: int) -> dict[str, object]:
    """The columns that we know; the others stay as they are, karaoke numbers among them."""
    return {
        "song_id": item_id,
        **{column: item.titles.get(locale) for locale, column in _TITLE_COLUMNS.items()},
        "artist": item.creator,
        "genre": ", ".join(item.genres) or None,
        "mood": item.mood,
        "lang": item.language,
    }


def _feature_row(item: SourceItem, item_id: int) -> dict[str, object]:
    return {"item_id": item_id, "features": json.dumps(dict(item.features)), "popularity": item.popularity}


def _source_row(source: str, item: SourceItem, item_id: int, content: bytes) -> dict[str, object]:
    return {"source": source, "source_id": item.source_id, "item_id": item_id, "content_hash": content}


async def _refuse_foreign_members(connection: AsyncConnection) -> None:
    ours = sa.select(member.c.member_id).where(member.c.email.endswith(_EMAIL_DOMAIN))
    for table in (member, song_like, playlist):
        foreign = sa.select(table.c.member_id).where(table.c.member_id.not_in(ours)).limit(1)
        if (found := await connection.scalar(foreign)) is not None:
            raise ConfigurationError(
                f"table {table.name!r} holds members that are not made up (member_id {found}): it is a backend's, and "
                "is left alone"
            )


def _listener_rows(listeners: Sequence[SourceListener]) -> Iterator[tuple[sa.Table, list[dict[str, Any]]]]:
    ids = [listener.member_id for listener in listeners]
    lists = [listener for listener in listeners if listener.playlist_ids]
    yield member, [{"member_id": member_id, "email": f"{member_id}{_EMAIL_DOMAIN}"} for member_id in ids]
    yield member_role_list, [{"id": member_id, "role": "USER"} for member_id in ids]
    yield song_like, [row for listener in listeners for row in _like_rows(listener)]
    yield playlist, [{"playlist_id": one.member_id, "member_id": one.member_id, "title": "My songs"} for one in lists]
    yield playlist_song, [row for listener in lists for row in _playlist_rows(listener)]


def _like_rows(listener: SourceListener) -> Iterator[dict[str, Any]]:
    for n_days, item_id in enumerate(listener.liked_ids):
        at = (_FIRST_LIKE_AT + timedelta(days=n_days)).replace(tzinfo=None)
        yield {"member_id": listener.member_id, "song_id": item_id, "created_at": at, "modified_at": at}


def _playlist_rows(listener: SourceListener) -> Iterator[dict[str, Any]]:
    for order, item_id in enumerate(listener.playlist_ids):
        yield {"playlist_id": listener.member_id, "song_id": item_id, "song_order": order}
