"""The tables that the backend owns, whole, as CONTRACT.md 3 has them."""

from typing import Any

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
)

# SQLite numbers rows by itself only in a column that is declared INTEGER.
_ID = BigInteger().with_variant(Integer(), "sqlite")
_IN_MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}

backend_metadata = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, String(255))


song = Table(
    "song",
    backend_metadata,
    Column("song_id", _ID, primary_key=True),
    Column("tj_number", BigInteger),
    Column("ky_number", BigInteger),
    _text("title_kr"),
    _text("title_en"),
    _text("title_en_kr"),
    _text("title_jp"),
    _text("title_yomi"),
    _text("title_yomi_kr"),
    _text("lang"),
    _text("genre"),
    _text("mood"),
    _text("artist"),
    _text("artist_kr"),
    Column("anime_id", BigInteger),
    _text("animeType"),
    Column("lyrics_original", Text),
    Column("lyrics_yomi", Text),
    Column("lyrics_kr", Text),
    Column("created_at", TIMESTAMP, nullable=True),
    Column("modified_at", TIMESTAMP, nullable=True),
    Column("is_active", Boolean),
    **_IN_MYSQL,
)

member = Table(
    "member",
    backend_metadata,
    Column("member_id", _ID, primary_key=True),
    _text("email"),
    **_IN_MYSQL,
)

member_role_list = Table(
    "member_role_list",
    backend_metadata,
    Column("id", BigInteger, ForeignKey("member.member_id"), nullable=False, index=True),
    _text("role"),
    **_IN_MYSQL,
)

song_like = Table(
    "song_like",
    backend_metadata,
    Column("id", _ID, primary_key=True),
    Column("song_id", BigInteger, nullable=False),
    Column("member_id", BigInteger, nullable=False),
    Column("created_at", TIMESTAMP, nullable=True),
    Column("modified_at", TIMESTAMP, nullable=True),
    Index("ix_song_like_song", "song_id"),
    Index("ix_song_like_member", "member_id"),
    **_IN_MYSQL,
)

playlist = Table(
    "playlist",
    backend_metadata,
    Column("playlist_id", _ID, primary_key=True),
    Column("member_id", BigInteger, nullable=False),
    _text("title"),
    Index("ix_playlist_member", "member_id"),
    **_IN_MYSQL,
)

playlist_song = Table(
    "playlist_song",
    backend_metadata,
    Column("id", _ID, primary_key=True),
    Column("playlist_id", BigInteger, nullable=False),
    Column("song_id", BigInteger, nullable=False),
    Column("song_order", Integer),
    Index("ix_playlist_song_playlist", "playlist_id"),
    **_IN_MYSQL,
)


def create_absent(connection: Connection) -> tuple[str, ...]:
    """Create those of the backend's tables that the database lacks, and return their names; leave the others alone."""
    present = set(inspect(connection).get_table_names())
    absent = [table for table in backend_metadata.sorted_tables if table.name not in present]
    backend_metadata.create_all(connection, tables=absent, checkfirst=False)
    return tuple(table.name for table in absent)
