"""The tables that we read and write: our own, and those that the catalogue profile names.

Ours (``songs_ai_...``) are made by ``migrations/`` and must match it; a test compares the two. The backend's are looked
up in the database, so that a profile that does not fit it is refused at start, in words.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from config.catalogue_profile import CatalogueProfile, ItemTable, JoinedInteractionTable
from core.errors import ConfigurationError
from core.ports.batches import BATCH_OUTCOMES
from services.database import Database

OWN_PREFIX = "songs_ai_"
VERSION_TABLE = f"{OWN_PREFIX}alembic_version"

_N_LOOKUPS = 6

N_CODES = 4
"""Words of 64 signs in the codes of an item."""

# Names are compared byte for byte: the ids of a source may differ in case alone, as Spotify's do.
_IN_MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}

# 512 float16 numbers; within a row, where a BLOB may be stored apart from it.
_VECTOR = sa.LargeBinary(1024).with_variant(mysql.VARBINARY(1024), "mysql")
_HASH = sa.LargeBinary(32).with_variant(mysql.VARBINARY(32), "mysql")
_CODE = sa.BigInteger().with_variant(mysql.BIGINT(unsigned=True), "mysql")
_INSTANT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")

own_metadata = sa.MetaData()

embedding = sa.Table(
    "songs_ai_embedding",
    own_metadata,
    sa.Column("embedder", sa.String(64), primary_key=True),
    sa.Column("item_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("vector_bytes", _VECTOR, nullable=False, comment="little-endian float16"),
    sa.Column("content_hash", _HASH, nullable=False),
    sa.Column(
        "change_no",
        sa.BigInteger,
        nullable=False,
        server_default=sa.text("0"),
        comment="of the save or deletion that wrote the row; rises with every commit",
    ),
    sa.Index("ix_songs_ai_embedding_change", "embedder", "change_no"),
    **_IN_MYSQL,
)

embedding_mark = sa.Table(
    "songs_ai_embedding_mark",
    own_metadata,
    sa.Column("embedder", sa.String(64), primary_key=True),
    sa.Column(
        "mark",
        sa.String(16),
        primary_key=True,
        comment="last: newest change_no; packed: all changes up to it are in blocks; origin: random",
    ),
    sa.Column("number", sa.BigInteger, nullable=False),
    **_IN_MYSQL,
)

embedding_block = sa.Table(
    "songs_ai_embedding_block",
    own_metadata,
    sa.Column("embedder", sa.String(64), primary_key=True),
    sa.Column("first_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last_id", sa.BigInteger, nullable=False),
    sa.Column("n_items", sa.Integer, nullable=False),
    sa.Column("packed_to", sa.BigInteger, nullable=False, comment="the last change_no when it was packed"),
    sa.Column("checksum", sa.BigInteger, nullable=False, comment="CRC-32 of payload"),
    sa.Column(
        "payload",
        sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql"),
        nullable=False,
        comment="ids as little-endian int64, then vectors as float16",
    ),
    **_IN_MYSQL,
)

item_source = sa.Table(
    "songs_ai_item_source",
    own_metadata,
    sa.Column("source", sa.String(64), primary_key=True),
    sa.Column("source_id", sa.String(191), primary_key=True),
    sa.Column("item_id", sa.BigInteger, nullable=False),
    sa.Column("content_hash", _HASH, nullable=False),
    sa.Index("ix_songs_ai_item_source_item", "item_id"),
    **_IN_MYSQL,
)

import_cursor = sa.Table(
    "songs_ai_import_cursor",
    own_metadata,
    sa.Column("source_key", sa.String(191), primary_key=True),
    sa.Column("next_page", sa.String(1000), nullable=False, comment="where the import goes on"),
    **_IN_MYSQL,
)

item_feature = sa.Table(
    "songs_ai_item_feature",
    own_metadata,
    sa.Column("item_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("features", sa.JSON, nullable=False, comment="numbers by name"),
    sa.Column("popularity", sa.Float, comment="0 to 1"),
    **_IN_MYSQL,
)

interaction = sa.Table(
    "songs_ai_interaction",
    own_metadata,
    sa.Column("event_id", sa.String(191), primary_key=True),
    sa.Column("member_id", sa.BigInteger, nullable=False),
    sa.Column("item_id", sa.BigInteger),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("value", sa.Double),
    sa.Column("completed", sa.Boolean),
    sa.Column("occurred_at", _INSTANT, nullable=False, comment="UTC"),
    sa.Index("ix_songs_ai_interaction_member", "member_id", "occurred_at"),
    sa.Index("ix_songs_ai_interaction_time", "occurred_at"),
    **_IN_MYSQL,
)

forgotten_member = sa.Table(
    "songs_ai_forgotten_member",
    own_metadata,
    sa.Column("member_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("forgotten_at", _INSTANT, nullable=False, comment="UTC; what they did until then is not kept any more"),
    **_IN_MYSQL,
)

ai_model = sa.Table(
    "songs_ai_model",
    own_metadata,
    sa.Column("kind", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(64), primary_key=True),
    sa.Column("created_at", _INSTANT, nullable=False, comment="UTC"),
    sa.Column("active", sa.Boolean, nullable=False, comment="in force; one of a kind at the most"),
    sa.Column("n_bytes", sa.BigInteger, nullable=False),
    sa.Column("checksum", _HASH, nullable=False, comment="BLAKE2b of the whole"),
    sa.Column("metrics", sa.JSON, nullable=False, comment="numbers by name"),
    **_IN_MYSQL,
)

ai_model_block = sa.Table(
    "songs_ai_model_block",
    own_metadata,
    sa.Column("kind", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(64), primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("payload", sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql"), nullable=False),
    sa.Column("checksum", sa.BigInteger, nullable=False, comment="CRC-32 of payload"),
    **_IN_MYSQL,
)

model_origin = sa.Table(
    "songs_ai_model_origin",
    own_metadata,
    sa.Column("kind", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(64), primary_key=True),
    sa.Column("recipe", sa.JSON, nullable=False, comment="parameters that it was fitted by"),
    sa.Column("data_figures", sa.JSON, nullable=False, comment="distributions of the data that it was fitted on"),
    sa.Column("data_until", _INSTANT, comment="UTC; the newest that is in it; NULL: not known"),
    **_IN_MYSQL,
)

model_promotion = sa.Table(
    "songs_ai_model_promotion",
    own_metadata,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("version", sa.String(64), nullable=False, comment="in force from here on"),
    sa.Column("replaced", sa.String(64), comment="in force before; NULL: none was"),
    sa.Column("cause", sa.String(16), nullable=False, comment="fit, promote, rollback or activate"),
    sa.Column("reason", sa.String(1023), nullable=False),
    sa.Column("promoted_at", _INSTANT, nullable=False, comment="UTC"),
    **_IN_MYSQL,
)

lease = sa.Table(
    "songs_ai_lease",
    own_metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(191), nullable=False),
    sa.Column("held_until", _INSTANT, nullable=False, comment="UTC"),
    **_IN_MYSQL,
)

task_run = sa.Table(
    "songs_ai_task_run",
    own_metadata,
    sa.Column("task", sa.String(32), primary_key=True),
    sa.Column("covered_to", _INSTANT, nullable=False, comment="UTC; its scheduled times until then are done with"),
    sa.Column("fence", sa.BigInteger, nullable=False, comment="term of the last leader that took over"),
    sa.Column("started_at", _INSTANT, comment="UTC; NULL: has not run yet"),
    sa.Column("ended_at", _INSTANT, comment="UTC"),
    sa.Column("outcome", sa.String(16), comment="NULL: under way, or its leader died"),
    sa.Column("n_tries", sa.Integer, nullable=False, comment="how often this run was begun"),
    sa.Column("worker", sa.String(191), nullable=False),
    sa.Column("detail", sa.String(1000), nullable=False, comment="the last lines that it wrote"),
    **_IN_MYSQL,
)

item_coder = sa.Table(
    "songs_ai_item_coder",
    own_metadata,
    sa.Column("generation", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("embedder", sa.String(64), nullable=False),
    sa.Column("method", sa.String(16), nullable=False, comment="sign_codes or native"),
    sa.Column(
        "coder",
        sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql"),
        nullable=False,
        comment="mean and rotation, little-endian float32; empty for native",
    ),
    sa.Column("n_items", sa.BigInteger, nullable=False, comment="when the width was found"),
    sa.Column("width", sa.Integer, comment="how wide a search for 200 looks; NULL: not ready"),
    sa.Column("recall", sa.Double, comment="at 200, on a sample"),
    **_IN_MYSQL,
)

item_code = sa.Table(
    "songs_ai_item_code",
    own_metadata,
    sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("item_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("change_no", sa.BigInteger, nullable=False, comment="of the vector that the codes were made from"),
    sa.Column("digest", sa.String(32), nullable=False, comment="SHA-2 of the attributes as the item table has them"),
    *(sa.Column(f"code_{place}", _CODE) for place in range(N_CODES)),
    sa.Column("genres", sa.String(1023), nullable=False, comment="comma-separated, casefolded"),
    sa.Column("moods", sa.String(1023), nullable=False, comment="comma-separated, casefolded"),
    sa.Column("language", sa.String(1023), nullable=False, comment="casefolded"),
    sa.Column("popularity", sa.Float, nullable=False, comment="0 to 1"),
    **_IN_MYSQL,
)

refresh_part = sa.Table(
    "songs_ai_refresh_part",
    own_metadata,
    sa.Column("part_key", sa.String(32), primary_key=True),
    sa.Column("run_on", sa.Date, nullable=False, comment="in the site's time zone"),
    sa.Column("created_at", _INSTANT, nullable=False, comment="UTC; before its questions were read"),
    sa.Column("n_questions", sa.Integer, nullable=False),
    sa.Column("file_id", sa.String(191), comment="at the provider; NULL: not known to be uploaded"),
    sa.Column("batch_id", sa.String(191), comment="at the provider; NULL: not known to be created"),
    sa.Column("status", sa.String(32), comment="how the batch ended; NULL: something is left to do"),
    *(sa.Column(f"{kind}_tokens", sa.BigInteger) for kind in ("prompt", "completion", "cached")),
    sa.Column("cost_nano_usd", sa.BigInteger, comment="NULL: not known yet"),
    *(sa.Column(f"n_{outcome}", sa.Integer) for outcome in BATCH_OUTCOMES),
    **_IN_MYSQL,
)

refresh_question = sa.Table(
    "songs_ai_refresh_question",
    own_metadata,
    sa.Column("part_key", sa.String(32), primary_key=True),
    sa.Column("custom_id", sa.String(64), primary_key=True, comment="the question's fingerprint"),
    sa.Column("member_id", sa.BigInteger, nullable=False),
    sa.Column("locale", sa.String(8)),
    sa.Column("taste_mark", sa.String(64), nullable=False, comment="changes with what the member likes"),
    sa.Column("shown_ids", sa.JSON, nullable=False, comment="items by handle"),
    sa.Column("outcome", sa.String(16), comment="NULL: not settled"),
    **_IN_MYSQL,
)


@dataclass(frozen=True, slots=True)
class ProfileTables:
    """The backend's tables as the profile names them and the database has them.

    ``active`` and ``modified_at`` are None where the item table has no such column; ``lists`` (the items of lists, and
    the lists, which have owners) where the profile names none.
    """

    item: sa.Table
    likes: sa.Table
    lists: tuple[sa.Table, sa.Table] | None
    active: sa.Column[Any] | None
    modified_at: sa.Column[Any] | None

    def is_active(self) -> sa.ColumnElement[bool]:
        """The condition that an item is shown: NULL counts as active, and so does a table without such a column."""
        if self.active is None:
            return sa.true()
        # Not IS FALSE: the column may be a BIT(1), as Hibernate makes them.
        return sa.or_(self.active.is_(None), sa.type_coerce(self.active, sa.Integer) != 0)


S = TypeVar("S", bound=sa.Executable)


class LazyTables:
    """The ``ProfileTables`` of one database, looked up when first needed, and statements about them."""

    def __init__(self, database: Database, profile: CatalogueProfile) -> None:
        self._database, self._profile = database, profile
        self._lock = asyncio.Lock()
        self._found: ProfileTables | None = None
        self._statements: dict[object, Any] = {}

    async def statement(self, build: Callable[[ProfileTables, CatalogueProfile], S]) -> S:
        """What ``build``, a function of a module, makes of them: once, for that takes as long as its answer.

        Raises as ``check`` does.
        """
        tables = await self.get()
        if build not in self._statements:
            self._statements[build] = build(tables, self._profile)
        built: S = self._statements[build]
        return built

    async def get(self) -> ProfileTables:
        """The tables; after the first success without a round trip. Raises as ``check`` does."""
        async with self._lock:
            if self._found is None:
                self._found = await self._look_up()
            return self._found

    async def check(self) -> None:
        """Look the tables up, again where they have been.

        Raises ``ConfigurationError`` naming the table or the column that the database lacks, or, where one of our own
        tables is missing, the command that makes them; and ``DependencyUnavailable``.
        """
        async with self._lock:
            self._found = await self._look_up()

    async def _look_up(self) -> ProfileTables:
        async with self._database.connect(n_round_trips=_N_LOOKUPS) as connection:
            found = await connection.run_sync(_load_profile_tables, self._profile)
        self._statements.clear()
        return found


def _load_profile_tables(connection: sa.Connection, profile: CatalogueProfile) -> ProfileTables:
    lookup = _Lookup(sa.inspect(connection), profile.name)
    item = lookup.table(profile.item.table, item_columns(profile))
    likes = profile.likes
    like_columns = [likes.member, likes.item, *([likes.created_at] if likes.created_at else [])]
    tables = ProfileTables(
        item=item,
        likes=lookup.table(likes.table, like_columns),
        lists=_list_tables(lookup, profile.lists) if profile.lists else None,
        active=_optional_column(item, profile.item.active),
        modified_at=_optional_column(item, profile.item.modified_at),
    )
    lookup.require_own_tables()
    return tables


def _list_tables(lookup: "_Lookup", lists: JoinedInteractionTable) -> tuple[sa.Table, sa.Table]:
    return lookup.table(lists.table, [lists.key, lists.item]), lookup.table(lists.parent, [lists.key, lists.member])


def item_columns(profile: CatalogueProfile) -> tuple[str, ...]:
    """The columns of the item table that the profile reads, each once; without ``active`` and ``modified_at``."""
    item: ItemTable = profile.item
    singles = (item.id, item.creator, item.creator_local, item.genre, item.mood, item.language)
    named = [*singles, *item.titles.values(), *item.text, *result_columns(profile)]
    return tuple(dict.fromkeys(name for name in named if name))


def result_columns(profile: CatalogueProfile) -> tuple[str, ...]:
    """The columns of the item table that results carry, each once."""
    return tuple(dict.fromkeys([*profile.candidate_fields, *profile.group_fields, *profile.item.passthrough]))


def _optional_column(table: sa.Table, name: str | None) -> sa.Column[Any] | None:
    return table.columns.get(name) if name else None


def _comparable(kind: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
    # SQLAlchemy deprecates comparing a BIT with anything; MySQL takes it for a number.
    return sa.Integer() if isinstance(kind, mysql.BIT) else kind


class _Lookup:
    """Finds tables and columns, or says which are missing."""

    def __init__(self, inspector: sa.Inspector, profile_name: str) -> None:
        self._inspector, self._profile_name = inspector, profile_name

    def table(self, name: str, columns: Iterable[str]) -> sa.Table:
        try:
            found = {column["name"]: column["type"] for column in self._inspector.get_columns(name)}
        except sa.exc.NoSuchTableError:
            raise ConfigurationError(
                f"catalogue profile {self._profile_name!r}: the database has no table {name!r}. Is it the right one "
                "(DATABASE_URL), and the right profile (CATALOGUE_PROFILE)? Where no backend brings the table: "
                "`python main.py migrate`, then `ingest FILE`, or `demo-catalogue` for made-up items"
            ) from None
        missing = [repr(column) for column in columns if column not in found]
        if missing:
            raise ConfigurationError(
                f"catalogue profile {self._profile_name!r}: table {name!r} has no column {', '.join(missing)}; "
                "the profile (CATALOGUE_PROFILE) says which ones there are"
            )
        return sa.Table(name, sa.MetaData(), *(sa.Column(column, _comparable(kind)) for column, kind in found.items()))

    def require_own_tables(self) -> None:
        present = set(self._inspector.get_table_names())
        missing = [table.name for table in own_metadata.sorted_tables if table.name not in present]
        if missing:
            raise ConfigurationError(f"the database has no table {missing[0]!r}: run `python main.py migrate`")
