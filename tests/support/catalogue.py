"""Databases for tests: the backend's tables and rows in them, as CONTRACT.md 3 has them.

Rows are written through blocking connections of their own, as another program would write them.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.engine import URL

from config.catalogue_profile import CatalogueProfile, load_profile
from services.database import Database, sync_engine
from services.schema import interaction, item_feature, own_metadata
from tests.support import backend_tables as backend

SONGS: CatalogueProfile = load_profile("songs")
LONG_AGO = datetime(2026, 1, 1)  # noqa: DTZ001 - the databases hold naive instants, in UTC


@contextmanager
def connection(url: URL | str) -> Iterator[sa.Connection]:
    """A blocking connection in a transaction that commits at the end."""
    engine = sync_engine(url)
    try:
        with engine.begin() as opened:
            yield opened
    finally:
        engine.dispose()


def create_backend_tables(url: URL | str) -> None:
    """Make the backend's tables, those that are absent."""
    with connection(url) as opened:
        backend.create_absent(opened)


def create_all_tables(url: URL | str) -> None:
    """Make the backend's tables and our own, at once rather than by migrations (a test says that they are the same)."""
    with connection(url) as opened:
        backend.backend_metadata.create_all(opened, checkfirst=False)
        own_metadata.create_all(opened, checkfirst=False)


def insert_songs(url: URL | str, *songs: Mapping[str, object]) -> None:
    """Insert rows of ``song``, such as ``{"song_id": 1, "title_en": "One"}``; active, and unchanged for long."""
    rows = [{"modified_at": LONG_AGO, "is_active": True, **song} for song in songs]
    with connection(url) as opened:
        for row in rows:
            opened.execute(sa.insert(backend.song).values(row))


def update_song(url: URL | str, song_id: int, **values: object) -> None:
    """Change a row of ``song``; ``modified_at`` becomes now, to the second, unless it is given."""
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    with connection(url) as opened:
        changed = {"modified_at": now, **values}
        opened.execute(sa.update(backend.song).where(backend.song.c.song_id == song_id).values(changed))


def like(url: URL | str, member_id: int, *song_ids: int, at: datetime | None = LONG_AGO) -> None:
    """Insert rows of ``song_like``; ``at`` is naive, in UTC."""
    rows = [{"member_id": member_id, "song_id": song_id, "created_at": at, "modified_at": at} for song_id in song_ids]
    with connection(url) as opened:
        opened.execute(sa.insert(backend.song_like), rows)


def add_to_playlist(url: URL | str, member_id: int, *song_ids: int) -> None:
    """Insert a playlist of the member with these songs."""
    with connection(url) as opened:
        result = opened.execute(sa.insert(backend.playlist).values(member_id=member_id, title="a playlist"))
        key = result.inserted_primary_key
        assert key is not None
        rows = [
            {"playlist_id": key[0], "song_id": song_id, "song_order": order} for order, song_id in enumerate(song_ids)
        ]
        opened.execute(sa.insert(backend.playlist_song), rows)


def record_event(
    url: URL | str, event_id: str, member_id: int, song_id: int | None, kind: str, *, at: datetime = LONG_AGO
) -> None:
    """Insert a row of our own table of interactions."""
    with connection(url) as opened:
        opened.execute(
            sa.insert(interaction).values(
                event_id=event_id, member_id=member_id, item_id=song_id, type=kind, occurred_at=at
            )
        )


def give_features(
    url: URL | str, song_id: int, *, features: Mapping[str, float] | None = None, popularity: float | None = None
) -> None:
    """Insert a row of our own table of features."""
    with connection(url) as opened:
        opened.execute(
            sa.insert(item_feature).values(item_id=song_id, features=dict(features or {}), popularity=popularity)
        )


def execute(url: URL | str, *statements: str) -> None:
    """Run SQL as it stands."""
    with connection(url) as opened:
        for statement in statements:
            opened.exec_driver_sql(statement)


@contextmanager
def statements_sent() -> Iterator[list[str]]:
    """The SQL that any engine of this process sends meanwhile."""
    statements: list[str] = []

    def note(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


class OnMySql:
    """The tests of a class run on MySQL or MariaDB."""

    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url


class OnSqlite:
    """The tests of a class run on SQLite."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'test.db'}"


class WithTables:
    """``url`` has all tables, and ``database`` is open on it; goes beside ``OnMySql`` or ``OnSqlite``."""

    @pytest_asyncio.fixture
    async def database(self, url: str) -> AsyncIterator[Database]:
        create_all_tables(url)
        database = Database(url, pool_size=4)
        yield database
        await database.close()
