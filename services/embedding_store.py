"""The vectors of all items, kept in a table of ours beside the backend's items."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import count
from math import nan
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from config.catalogue_profile import CatalogueProfile
from core.ports.arrays import Floats, Ids
from core.ports.catalogue import ItemsMark
from core.ports.index import IndexChanges, IndexMark, IndexRows
from services.catalogue import parts
from services.coded_column import CodedColumn, Codes
from services.database import Database
from services.embedding_blocks import HAS_VECTOR, STORED, EmbeddingBlocks, Vectors, commonest_length, vectors_of
from services.item_changes import (
    ITEM_IDS,
    N_SCAN_TRIPS,
    ItemsSummary,
    SqlItemChanges,
    date_numbers,
    read_summary,
    summary_queries,
)
from services.popularity import popularity
from services.schema import LazyTables, ProfileTables, embedding, embedding_mark, item_feature

_BATCH = 1000
_N_ATTRIBUTES = 4

# REPLACE is said alike by MySQL, MariaDB and SQLite, and the drivers send it as one statement for many rows.
_REPLACE = sa.text(
    "REPLACE INTO songs_ai_embedding (embedder, item_id, vector_bytes, content_hash, change_no)"
    " VALUES (:embedder, :item_id, :vector, :content_hash, :change_no)"
)
_EMBEDDER = sa.bindparam("embedder", type_=sa.String)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _State:
    """What a store holds for an embedder, told by a few numbers."""

    version: str
    origin: int
    change_no: int
    items: ItemsSummary

    def mark(self, items: ItemsMark) -> IndexMark:
        return IndexMark(origin=self.origin, change_no=self.change_no, items=items)


class SqlEmbeddingStore:
    """An ``EmbeddingStore`` in MySQL, MariaDB or SQLite.

    Changes of vectors are numbered in the order of their commits. Every method may also raise ``ConfigurationError``:
    the profile names what the database lacks. Of vectors of one embedder that differ in length those of most items
    count; the others are told of by their ids, and left out until they are made anew.
    """

    def __init__(self, database: Database, profile: CatalogueProfile) -> None:
        self._database = database
        self._profile = profile
        self._tables = LazyTables(database, profile)
        self._items = SqlItemChanges(database, profile, self._tables)
        self._blocks = EmbeddingBlocks(database)
        self._numbered: set[str] = set()

    async def version(self, embedder_name: str) -> str:
        """Cheap: a string that changes when ``load`` would return something else.

        Popularity alone makes no new version: every like changes it, and a busy site would never come to rest. Nor
        does a change that leaves ``modified_at`` as it was, other than of whether the item is active.
        """
        return (await self._state(embedder_name)).version

    async def _state(self, embedder_name: str) -> _State:
        marks = sa.select(
            embedding_mark.c.mark, sa.literal(0), sa.cast(embedding_mark.c.number, sa.String(64)), sa.null(), sa.null()
        ).where(embedding_mark.c.embedder == _EMBEDDER, embedding_mark.c.mark.in_(["last", "origin"]))
        query = sa.union_all(*summary_queries(await self._tables.get(), self._profile), marks)
        async with self._database.connect(n_round_trips=N_SCAN_TRIPS) as connection:
            rows = (await connection.execute(query, {"embedder": embedder_name})).all()
        content = repr((embedder_name, sorted(tuple(row) for row in rows)))
        numbers = {row[0]: int(row[2]) for row in rows if row[0] in ("last", "origin")}
        version = blake2b(content.encode(), digest_size=8).hexdigest()
        return _State(version, numbers.get("origin", 0), numbers.get("last", 0), read_summary(rows))

    async def load(self, embedder_name: str) -> IndexRows:
        """Everything of that embedder, popularity as of now."""
        # Asked first: what changes meanwhile is loaded again, rather than missed.
        state = await self._state(embedder_name)
        vectors = await self._blocks.load(embedder_name)
        tables = await self._tables.get()
        attributes = _Attributes()
        async with self._database.connect(n_round_trips=N_SCAN_TRIPS) as connection:
            result = await connection.stream(_attributes_query(tables, self._profile))
            async for batch in result.partitions(_BATCH):
                attributes.add(batch)
                # Jobs run meanwhile: they need not wait until all is read.
                await asyncio.sleep(0)
            given = await _numbers_by_id(connection, sa.select(item_feature.c.item_id, item_feature.c.popularity))
            likes = await _numbers_by_id(connection, _likes_query(tables, self._profile))
        return await asyncio.to_thread(_index_rows, state, vectors, attributes, given, likes)

    async def changes(self, embedder_name: str, mark: IndexMark, max_items: int) -> IndexChanges | None:
        """What is not as it was at ``mark``, where that is at most ``max_items`` items; None: ``load`` it all.

        An item may be among them that is as it was: dates within minutes before the mark are looked at again.
        """
        state = await self._state(embedder_name)
        if mark.origin != state.origin or mark.change_no > state.change_no:
            return None
        vector_ids = await self._changed_vectors(embedder_name, mark.change_no, max_items + 1)
        if len(vector_ids) > max_items:
            return None
        items = await self._items.since(mark.items, state.items)
        touched = np.union1d(np.union1d(vector_ids, items.changed), items.gone)
        if len(touched) > max_items:
            return None
        rows = await self._rows(embedder_name, touched, state, items.mark)
        return IndexChanges(rows, np.setdiff1d(touched, rows.ids, assume_unique=True))

    async def _changed_vectors(self, embedder_name: str, after: int, limit: int) -> Ids:
        query = sa.select(embedding.c.item_id).where(
            embedding.c.embedder == _EMBEDDER, embedding.c.change_no > sa.bindparam("after", type_=sa.BigInteger)
        )
        async with self._database.connect(n_round_trips=N_SCAN_TRIPS) as connection:
            found = await connection.scalars(query.limit(limit), {"embedder": embedder_name, "after": after})
            return np.sort(np.array(found.all(), np.int64))

    async def _rows(self, embedder_name: str, item_ids: Ids, state: _State, mark: ItemsMark) -> IndexRows:
        """Those of ``item_ids`` that are active and have a vector."""
        tables = await self._tables.get()
        attributes, ids, stored = _Attributes(), list[int](), list[bytes]()
        given, likes = dict[int, float](), dict[int, float]()
        item_id, liked_id = tables.item.columns[self._profile.item.id], tables.likes.columns[self._profile.likes.item]
        of_items = _attributes_query(tables, self._profile).where(item_id.in_(ITEM_IDS))
        of_vectors = sa.select(embedding.c.item_id, embedding.c.vector_bytes).where(
            embedding.c.embedder == _EMBEDDER, embedding.c.item_id.in_(ITEM_IDS), HAS_VECTOR
        )
        popularities = sa.select(item_feature.c.item_id, item_feature.c.popularity)
        async with self._database.connect(n_round_trips=N_SCAN_TRIPS) as connection:
            for start in range(0, len(item_ids), _BATCH):
                wanted = {"item_ids": item_ids[start : start + _BATCH].tolist()}
                attributes.add((await connection.execute(of_items, wanted)).all())
                for row in await connection.execute(
                    of_vectors.order_by(embedding.c.item_id), {"embedder": embedder_name, **wanted}
                ):
                    ids.append(row[0])
                    stored.append(row[1])
                of_features = popularities.where(item_feature.c.item_id.in_(ITEM_IDS))
                given.update(await _numbers_by_id(connection, of_features, wanted))
                of_likes = _likes_query(tables, self._profile).where(liked_id.in_(ITEM_IDS))
                likes.update(await _numbers_by_id(connection, of_likes, wanted))
        vectors = vectors_of(embedder_name, ids, stored)
        return _index_rows(state, vectors, attributes, given, likes, mark)

    async def pack(self, embedder_name: str) -> int:
        """Bring the blocks that ``load`` reads up to date; how many vectors that wrote."""
        return await self._blocks.pack(embedder_name)

    async def content_hashes(self, embedder_name: str, item_ids: Collection[int] | None = None) -> dict[int, bytes]:
        """The hash of the content that each stored vector (those of ``item_ids``) was made from, by item id.

        Empty, and so unlike any, for a vector of another length than most: who compares makes it anew.
        """
        length = sa.func.length(embedding.c.vector_bytes)
        query = sa.select(embedding.c.item_id, embedding.c.content_hash, length).where(
            embedding.c.embedder == _EMBEDDER, HAS_VECTOR
        )
        found: list[sa.Row[int, bytes, int]] = []
        async with self._database.connect(n_round_trips=N_SCAN_TRIPS) as connection:
            if item_ids is None:
                found += await connection.execute(query, {"embedder": embedder_name})
            else:
                query = query.where(embedding.c.item_id.in_(ITEM_IDS))
                for batch in _batches(list(item_ids)):
                    found += await connection.execute(query, {"embedder": embedder_name, "item_ids": batch})
        usual = commonest_length(row[2] for row in found)
        return {row[0]: row[1] if row[2] == usual else b"" for row in found}

    async def save(self, embedder_name: str, ids: Ids, vectors: Floats, content_hashes: Sequence[bytes]) -> None:
        """Insert or replace vectors, float32 (len(ids), dim), in one transaction."""
        rows = [
            {"embedder": embedder_name, "item_id": item_id, "vector": vector, "content_hash": digest}
            for item_id, vector, digest in zip(ids.tolist(), _as_bytes(vectors), content_hashes, strict=True)
        ]
        if not rows:
            return
        await self._begin_numbering(embedder_name)
        async with self._database.begin(n_round_trips=5 + len(rows) // _BATCH) as connection:
            change_no = await _next_change(connection, embedder_name)
            await connection.execute(_REPLACE, [{**row, "change_no": change_no} for row in rows])

    async def delete(self, embedder_name: str, item_ids: Collection[int]) -> None:
        """Remove the vectors of items that are gone."""
        if not item_ids:
            return
        # The rows stay, without a vector: they tell readers of the change.
        there = (embedding.c.embedder == embedder_name, HAS_VECTOR)
        await self._begin_numbering(embedder_name)
        async with self._database.begin(n_round_trips=5 + len(item_ids) // _BATCH) as connection:
            change_no = await _next_change(connection, embedder_name)
            emptied = sa.update(embedding).values(vector_bytes=b"", content_hash=b"", change_no=change_no)
            for batch in _batches(list(item_ids)):
                await connection.execute(emptied.where(*there, embedding.c.item_id.in_(batch)))

    async def _begin_numbering(self, embedder_name: str) -> None:
        if embedder_name not in self._numbered:
            await self._blocks.begin_numbering(embedder_name)
            self._numbered.add(embedder_name)


async def _next_change(connection: AsyncConnection, embedder_name: str) -> int:
    """The number of this transaction; until it ends, the others of this embedder wait, and so commit in order."""
    last = sa.and_(embedding_mark.c.embedder == embedder_name, embedding_mark.c.mark == "last")
    await connection.execute(sa.update(embedding_mark).where(last).values(number=embedding_mark.c.number + 1))
    return int((await connection.execute(sa.select(embedding_mark.c.number).where(last))).scalar_one())


async def _numbers_by_id(
    connection: AsyncConnection, query: sa.Select[Any], parameters: dict[str, Any] | None = None
) -> dict[int, float]:
    result = await connection.stream(query, parameters)
    found: dict[int, float] = {}
    async for batch in result.partitions(_BATCH):
        found.update((row[0], row[1]) for row in batch if row[1] is not None)
        await asyncio.sleep(0)
    return found


def _batches(values: Sequence[T]) -> Iterable[Sequence[T]]:
    return (values[start : start + _BATCH] for start in range(0, len(values), _BATCH))


def _as_bytes(vectors: Floats) -> list[bytes]:
    return [row.tobytes() for row in vectors.astype(STORED)]


def _likes_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.Select[Any]:
    liked_id = tables.likes.columns[profile.likes.item]
    return sa.select(liked_id, sa.func.count()).group_by(liked_id)


def _attributes_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.Select[Any]:
    """Id, date of change, genre, mood, language, creator of active items, in order of id."""
    source, columns = profile.item, tables.item.columns
    names = (source.genre, source.mood, source.language, source.creator)
    attributes = (columns[name].label(f"a{n}") if name else sa.null().label(f"a{n}") for n, name in enumerate(names))
    item_id = columns[source.id]
    modified_at = sa.null() if tables.modified_at is None else tables.modified_at
    return sa.select(item_id, modified_at, *attributes).where(tables.is_active()).order_by(item_id)


class _Attributes:
    """Rows of ``_attributes_query``, each distinct value once."""

    def __init__(self) -> None:
        self._ids: list[Ids] = [np.zeros(0, np.int64)]
        self._dates: list[Ids] = [np.zeros(0, np.int64)]
        self._numbers: list[defaultdict[Any, int]] = [defaultdict(count().__next__) for _ in range(_N_ATTRIBUTES)]
        self._codes: list[list[int]] = [[] for _ in range(_N_ATTRIBUTES)]

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            return
        ids, dates, *columns = zip(*rows, strict=True)
        self._ids.append(np.array(ids, np.int64))
        self._dates.append(date_numbers(dates))
        for codes, numbers, column in zip(self._codes, self._numbers, columns, strict=True):
            codes += [numbers[value] for value in column]

    def ids(self) -> Ids:
        return np.concatenate(self._ids)

    def mark(self, modified_at: datetime | None) -> ItemsMark:
        return ItemsMark(modified_at, self.ids(), np.concatenate(self._dates))

    def tags(self, column: int, places: Ids) -> CodedColumn[tuple[str, ...]]:
        return CodedColumn([parts(text) for text in self._numbers[column]], self._codes_at(column, places))

    def texts(self, column: int, places: Ids) -> CodedColumn[str | None]:
        return CodedColumn([_text(value) for value in self._numbers[column]], self._codes_at(column, places))

    def _codes_at(self, column: int, places: Ids) -> Codes:
        return np.array(self._codes[column], np.int32)[places]


def _index_rows(
    state: _State,
    vectors: Vectors,
    attributes: _Attributes,
    given: dict[int, float],
    n_likes: dict[int, float],
    mark: ItemsMark | None = None,
) -> IndexRows:
    """The items that have both attributes and a vector; ``mark`` is of the attributes where it is not given."""
    active_ids = attributes.ids()
    ids, places, of_attributes = np.intersect1d(vectors.ids, active_ids, assume_unique=True, return_indices=True)
    found = ids.tolist()
    return IndexRows(
        ids=ids,
        vectors=vectors.rows if len(ids) == len(vectors.ids) else vectors.rows[places],
        popularity=popularity(
            [given.get(item_id, nan) for item_id in found], [n_likes.get(item_id, 0) for item_id in found]
        ),
        genres=attributes.tags(0, of_attributes),
        moods=attributes.tags(1, of_attributes),
        languages=attributes.texts(2, of_attributes),
        creators=attributes.texts(3, of_attributes),
        version=state.version,
        mark=state.mark(mark or attributes.mark(state.items.modified_at)),
    )


def _text(value: object) -> str | None:
    return str(value).strip() or None if value is not None else None
