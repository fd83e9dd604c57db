"""The vectors of all items, kept in a table of ours beside the backend's items."""

import asyncio
import secrets
from collections.abc import Collection, Sequence
from hashlib import blake2b
from math import nan
from typing import Any

import numpy as np
import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile
from core.errors import ConfigurationError
from core.ports import Floats, Ids, IndexRows
from services.catalogue import parts
from services.database import Database
from services.popularity import popularity
from services.schema import LazyTables, ProfileTables, embedding, item_feature

# Half the bytes of float32, and for unit vectors an error of a cosine below 0.001.
_STORED = np.dtype("<f2")
_BATCH = 1000
# A scan of everything may take longer than the round trips that a job waits for.
_N_LOAD_TRIPS, _N_VERSION_TRIPS = 24, 3
_STAMP_BITS = 31
# A prime near 2**20.
_SHORT_ID_MODULUS = 1_048_573

# REPLACE is said alike by MySQL, MariaDB and SQLite, and the drivers send it as one statement for many rows.
_REPLACE = sa.text(
    "REPLACE INTO songs_ai_embedding (embedder, item_id, vector_bytes, content_hash, change_no)"
    " VALUES (:embedder, :item_id, :vector, :content_hash, :change_no)"
)


class SqlEmbeddingStore:
    """An ``EmbeddingStore`` in MySQL, MariaDB or SQLite.

    Every method may also raise ``ConfigurationError``: the profile names what the database lacks.
    """

    def __init__(self, database: Database, profile: CatalogueProfile) -> None:
        self._database = database
        self._profile = profile
        self._tables = LazyTables(database, profile)

    async def version(self, embedder_name: str) -> str:
        """Cheap: a string that changes when ``load`` would return something else.

        New likes alone make no new version, though they make popularity: a busy site would never come to rest. Nor
        does a change that leaves ``modified_at`` as it was, other than of whether the item is active.
        """
        query = _version_query(await self._tables.get(), self._profile)
        async with self._database.connect(n_round_trips=_N_VERSION_TRIPS) as connection:
            rows = (await connection.execute(query, {"embedder": embedder_name})).all()
        content = repr((embedder_name, sorted(tuple(row) for row in rows)))
        return blake2b(content.encode(), digest_size=8).hexdigest()

    async def load(self, embedder_name: str) -> IndexRows:
        """Everything of that embedder, popularity as of now.

        Raises ``ConfigurationError`` where its vectors differ in length, and so cannot be of one embedder.
        """
        # Asked first: what changes meanwhile is loaded again, rather than missed.
        version = await self.version(embedder_name)
        tables = await self._tables.get()
        async with self._database.connect(n_round_trips=_N_LOAD_TRIPS) as connection:
            likes = (await connection.execute(_likes_query(tables, self._profile))).all()
            result = await connection.stream(_rows_query(tables, self._profile), {"embedder": embedder_name})
            rows: list[Sequence[Any]] = []
            async for batch in result.partitions(_BATCH):
                rows += batch
                # Jobs run meanwhile: they need not wait until all is read.
                await asyncio.sleep(0)
        return await asyncio.to_thread(_index_rows, rows, {row[0]: row[1] for row in likes}, version)

    async def content_hashes(self, embedder_name: str) -> dict[int, bytes]:
        """The hash of the content that each stored vector was made from, by item id."""
        query = sa.select(embedding.c.item_id, embedding.c.content_hash).where(embedding.c.embedder == embedder_name)
        async with self._database.connect(n_round_trips=_N_LOAD_TRIPS) as connection:
            return {item_id: digest for item_id, digest in await connection.execute(query)}  # noqa: C416 - rows

    async def save(self, embedder_name: str, ids: Ids, vectors: Floats, content_hashes: Sequence[bytes]) -> None:
        """Insert or replace vectors, float32 (len(ids), dim), in one transaction."""
        # Drawn anew, so that whichever of two concurrent saves commits last, the sum of the stamps tells of it.
        stamp = secrets.randbits(_STAMP_BITS)
        rows = [
            {
                "embedder": embedder_name,
                "item_id": item_id,
                "vector": vector,
                "content_hash": digest,
                "change_no": stamp,
            }
            for item_id, vector, digest in zip(ids.tolist(), _as_bytes(vectors), content_hashes, strict=True)
        ]
        if not rows:
            return
        async with self._database.begin(n_round_trips=3 + len(rows) // _BATCH) as connection:
            await connection.execute(_REPLACE, rows)

    async def delete(self, embedder_name: str, item_ids: Collection[int]) -> None:
        """Remove the vectors of items that are gone."""
        ids = list(item_ids)
        gone = sa.bindparam("item_ids", expanding=True, type_=sa.BigInteger)
        statement = sa.delete(embedding).where(embedding.c.embedder == embedder_name, embedding.c.item_id.in_(gone))
        async with self._database.begin(n_round_trips=3 + len(ids) // _BATCH) as connection:
            for start in range(0, len(ids), _BATCH):
                await connection.execute(statement, {"item_ids": ids[start : start + _BATCH]})


def _as_bytes(vectors: Floats) -> list[bytes]:
    return [row.tobytes() for row in vectors.astype(_STORED)]


def _version_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.CompoundSelect[*tuple[Any, ...]]:
    """Rows of a name, a count and sums, which hardly any change leaves alone; takes ``embedder``."""
    item_id = tables.item.columns[profile.item.id]
    vectors = _summary("vectors", embedding.c.item_id, sa.func.sum(embedding.c.change_no)).where(
        embedding.c.embedder == sa.bindparam("embedder", type_=sa.String)
    )
    # In whole millionths, whose sum does not depend on the order of summing.
    popularities = sa.func.sum(sa.func.round(item_feature.c.popularity * 1_000_000))
    features = _summary("features", item_feature.c.item_id, popularities)
    items = _summary("items", item_id, sa.null()).where(tables.is_active())
    return sa.union_all(vectors, features, items, *_modified_summaries(tables, item_id))


def _modified_summaries(tables: ProfileTables, item_id: sa.ColumnElement[int]) -> list[sa.Select[*tuple[Any, ...]]]:
    """The last instant of a change and the items changed at it: the backend's instants are whole seconds."""
    modified_at = tables.modified_at
    if modified_at is None:
        return []
    last = sa.select(sa.func.max(modified_at)).where(tables.is_active()).scalar_subquery()
    return [_summary("modified", item_id, sa.func.max(modified_at)).where(tables.is_active(), modified_at == last)]


def _summary(name: str, item_id: sa.ColumnElement[int], what: sa.ColumnElement[Any]) -> sa.Select[*tuple[Any, ...]]:
    # Squares too: the sum of {1, 4} is that of {2, 3}. The modulus keeps the sums within SQLite's 64 bits.
    short_id = item_id % _SHORT_ID_MODULUS
    sums = (sa.func.sum(short_id), sa.func.sum(short_id * short_id), what)
    # As text, so that the branches of the union agree on a type.
    return sa.select(sa.literal(name), sa.func.count(), *(sa.cast(value, sa.String(64)) for value in sums))


def _likes_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.Select[Any]:
    liked_id = tables.likes.columns[profile.likes.item]
    return sa.select(liked_id, sa.func.count()).group_by(liked_id)


def _rows_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.Select[Any]:
    """Id, vector, popularity as given, genre, mood, language, creator; takes ``embedder``."""
    source, columns = profile.item, tables.item.columns
    attributes = (source.genre, source.mood, source.language, source.creator)
    item_id = columns[source.id]
    return (
        sa.select(
            item_id,
            embedding.c.vector_bytes,
            item_feature.c.popularity,
            *(columns[name].label(f"a{n}") if name else sa.null().label(f"a{n}") for n, name in enumerate(attributes)),
        )
        .select_from(embedding)
        .join(tables.item, item_id == embedding.c.item_id)
        .outerjoin(item_feature, item_feature.c.item_id == item_id)
        .where(embedding.c.embedder == sa.bindparam("embedder", type_=sa.String), tables.is_active())
        .order_by(embedding.c.item_id)
    )


def _index_rows(rows: Sequence[Sequence[Any]], n_likes: dict[int, int], version: str) -> IndexRows:
    ids, vectors, given, genres, moods, languages, creators = zip(*rows, strict=True) if rows else ((),) * 7
    return IndexRows(
        ids=np.array(ids, dtype=np.int64),
        vectors=_unit_vectors(vectors),
        popularity=popularity(
            [nan if share is None else share for share in given], [n_likes.get(item_id, 0) for item_id in ids]
        ),
        genres=[parts(text) for text in genres],
        moods=[parts(text) for text in moods],
        languages=[_text(value) for value in languages],
        creators=[_text(value) for value in creators],
        version=version,
    )


def _text(value: object) -> str | None:
    return str(value).strip() or None if value is not None else None


def _unit_vectors(stored: Sequence[bytes]) -> Floats:
    if len({len(vector) for vector in stored}) > 1:
        raise ConfigurationError("the stored embeddings differ in length: delete them and run `python main.py embed`")
    if not stored:
        return np.zeros((0, 0), dtype=np.float32)
    vectors = np.frombuffer(b"".join(stored), dtype=_STORED).astype(np.float32).reshape(len(stored), -1)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # Undo what rounding did to the length; the zero vector of an item without content stays as it is.
    unit: Floats = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit
