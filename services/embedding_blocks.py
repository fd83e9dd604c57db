"""A packed copy of the stored vectors: about a thousand in a block, which load twenty times as fast as one by one.

The rows of ``songs_ai_embedding`` are the truth, each with the number of the change that wrote it; what was deleted
stays as a row without a vector. The mark ``packed`` says that the blocks hold all changes up to that number. A reader
takes the mark, then the blocks, then the rows changed after the mark, which win: whatever is packed meanwhile, it has
every vector, none twice, and none that is older than the mark. Blocks never overlap: a block is written in a
transaction that holds the mark's row, and takes the place of the block whose ids it covers.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from core.ports.arrays import Ids
from models.log_event import LogEvent
from services.database import Database
from services.schema import embedding, embedding_block, embedding_mark

Halves = npt.NDArray[np.float16]

STORED = np.dtype("<f2")
"""Half the bytes of float32, and for unit vectors an error of a cosine below 0.001."""

_STORED_ID = np.dtype("<i8")
_PER_BLOCK = 1000
_ORIGIN_BITS = 62
# About 10 MB a transaction.
_BLOCKS_AT_ONCE = 16
_N_TRIPS = 24
_N_TOLD = 10

_EMBEDDER = sa.bindparam("embedder", type_=sa.String)
_OF_EMBEDDER = embedding.c.embedder == _EMBEDDER
_BLOCK_OF_EMBEDDER = embedding_block.c.embedder == _EMBEDDER
HAS_VECTOR = sa.func.length(embedding.c.vector_bytes) > 0
"""The condition that a row is of a vector, and not of a deleted one."""


def has_length(dim: int) -> sa.ColumnElement[bool]:
    """The condition that a row is of a vector of ``dim`` numbers: one of another length is of no use."""
    return sa.func.length(embedding.c.vector_bytes) == dim * STORED.itemsize


_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Vectors:
    """``ids`` int64 (n,), rising; ``rows`` float16 (n, dim)."""

    ids: Ids
    rows: Halves


@dataclass(frozen=True, slots=True)
class _Block:
    first_id: int
    last_id: int
    n_items: int
    packed_to: int


def vectors_of(embedder_name: str, ids: Sequence[int], stored: Sequence[bytes]) -> Vectors:
    """What rows hold, none of them empty, those of another length than most left out; ``ids`` are rising."""
    return _of_one_length(embedder_name, *_by_length(ids, stored))


def tell_of_left_out(embedder_name: str, dim: int, item_ids: Sequence[int]) -> None:
    """Log how many vectors are not of ``dim`` numbers, and whose the first of them are."""
    told = list(item_ids[:_N_TOLD])
    _log.error(LogEvent.EMBEDDINGS_LEFT_OUT, embedder=embedder_name, dim=dim, n=len(item_ids), item_ids=told)


def commonest_length(lengths: Iterable[int]) -> int:
    """That of most, the longest where as many have another; 0 where there are none."""
    counts = Counter(lengths)
    return max(counts, key=lambda length: (counts[length], length), default=0)


def _by_length(ids: Sequence[int], stored: Sequence[bytes]) -> tuple[list[Vectors], list[int]]:
    """Vectors by their length, and the ids of those that are none."""
    places: dict[int, list[int]] = {}
    for place, vector in enumerate(stored):
        places.setdefault(len(vector), []).append(place)
    halves = [places.pop(length) for length in list(places) if length and length % STORED.itemsize == 0]
    vectors = [
        Vectors(
            np.array([ids[place] for place in each], np.int64),
            np.frombuffer(b"".join(stored[place] for place in each), STORED).reshape(len(each), -1),
        )
        for each in halves
    ]
    return vectors, [ids[place] for each in places.values() for place in each]


def _of_one_length(embedder_name: str, vectors: Sequence[Vectors], left_out: Sequence[int]) -> Vectors:
    """``vectors``, no id twice, of the length that most have; tells of the others, and of what is ``left_out``."""
    n_of_dim: Counter[int] = Counter()
    for each in vectors:
        n_of_dim[each.rows.shape[1]] += len(each.ids)
    dim = max(n_of_dim, key=lambda dim: (n_of_dim[dim], dim), default=0)
    kept = [each for each in vectors if each.rows.shape[1] == dim and len(each.ids)]
    others = [each.ids for each in vectors if each.rows.shape[1] != dim]
    if wrong := sorted([*left_out, *(item_id for ids in others for item_id in ids.tolist())]):
        tell_of_left_out(embedder_name, dim, wrong)
    if not kept:
        return Vectors(np.zeros(0, np.int64), np.zeros((0, dim), STORED))
    if len(kept) == 1:
        return kept[0]
    ids = np.concatenate([each.ids for each in kept])
    order = np.argsort(ids)
    return Vectors(ids[order], np.concatenate([each.rows for each in kept])[order])


class EmbeddingBlocks:
    """Reads all vectors of an embedder, and packs them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin_numbering(self, embedder_name: str) -> None:
        """Make the marks of an embedder, where there are none."""
        numbers = {"last": 1, "packed": 0, "origin": secrets.randbits(_ORIGIN_BITS)}
        marks = [{"embedder": embedder_name, "mark": mark, "number": number} for mark, number in numbers.items()]
        async with self._database.connect(n_round_trips=len(marks)) as connection:
            for mark in marks:
                await connection.execute(self._insert_absent(), mark)

    def _insert_absent(self) -> sa.Insert:
        if self._database.name == "sqlite":
            return sqlite.insert(embedding_mark).on_conflict_do_nothing()
        # INSERT IGNORE would warn.
        return mysql.insert(embedding_mark).on_duplicate_key_update(number=embedding_mark.c.number)

    async def load(self, embedder_name: str) -> Vectors:
        """All vectors; of those that differ in length, and so cannot be of one embedder, the ones of most items."""
        async with self._database.connect(n_round_trips=_N_TRIPS) as connection:
            _, packed = await _marks(connection, embedder_name)
            n_packed = await _n_packed(connection, embedder_name) if packed else 0
            gathered = _Gathered(n_packed)
            damaged: list[_Block] = []
            if packed:
                async for block, payload in _blocks(connection, embedder_name):
                    if payload is None:
                        damaged.append(block)
                    else:
                        gathered.add(block, payload)
            for block in damaged:
                _log.error(LogEvent.EMBEDDING_BLOCK_DAMAGED, embedder=embedder_name, first_id=block.first_id)
            ids, stored = await _changed_rows(connection, embedder_name, packed, damaged)
        return await asyncio.to_thread(_merged, embedder_name, gathered.vectors(), ids, stored)

    async def pack(self, embedder_name: str) -> int:
        """Bring the blocks up to date, and write damaged ones anew; how many vectors that wrote.

        Packers at once share the work. One that is cut off leaves what it wrote, and the mark as it was.
        """
        await self.begin_numbering(embedder_name)
        async with self._database.connect(n_round_trips=_N_TRIPS) as connection:
            last, packed = await _marks(connection, embedder_name)
            damaged = [block.first_id async for block, payload in _blocks(connection, embedder_name) if payload is None]
            touched = np.array(damaged, np.int64)
            if last > packed:
                touched = np.union1d(touched, await _changed_ids(connection, embedder_name, packed))
        n_written, repaired = 0, frozenset(damaged)
        while len(touched):
            async with self._database.begin(n_round_trips=_N_TRIPS) as connection:
                packing = _Packing(connection, embedder_name, last, repaired)
                touched = await packing.some(touched)
            n_written += packing.n_written
        async with self._database.begin() as connection:
            lower = sa.and_(_packed_mark(embedder_name), embedding_mark.c.number < last)
            await connection.execute(sa.update(embedding_mark).where(lower).values(number=last))
        return n_written


def _packed_mark(embedder_name: str) -> sa.ColumnElement[bool]:
    return sa.and_(embedding_mark.c.embedder == embedder_name, embedding_mark.c.mark == "packed")


async def _marks(connection: AsyncConnection, embedder_name: str) -> tuple[int, int]:
    """The last change, and the last that is in blocks."""
    query = sa.select(embedding_mark.c.mark, embedding_mark.c.number).where(embedding_mark.c.embedder == _EMBEDDER)
    numbers = {row[0]: row[1] for row in await connection.execute(query, {"embedder": embedder_name})}
    return numbers.get("last", 0), numbers.get("packed", 0)


async def _n_packed(connection: AsyncConnection, embedder_name: str) -> int:
    query = sa.select(sa.func.sum(embedding_block.c.n_items)).where(_BLOCK_OF_EMBEDDER)
    return int((await connection.execute(query, {"embedder": embedder_name})).scalar() or 0)


async def _blocks(connection: AsyncConnection, embedder_name: str) -> AsyncIterator[tuple[_Block, bytes | None]]:
    """All blocks in order, by one statement, which sees one state of them; None for the payload of a damaged one."""
    block = embedding_block.c
    columns = (block.first_id, block.last_id, block.n_items, block.packed_to, block.checksum, block.payload)
    query = sa.select(*columns).where(_BLOCK_OF_EMBEDDER).order_by(block.first_id)
    result = await connection.stream(query, {"embedder": embedder_name}, execution_options={"yield_per": 8})
    async for *numbers, checksum, payload in result:
        yield _Block(*numbers), payload if crc32(payload) == checksum else None


async def _changed_ids(connection: AsyncConnection, embedder_name: str, after: int) -> Ids:
    query = sa.select(embedding.c.item_id).where(_OF_EMBEDDER, embedding.c.change_no > after)
    if not after:
        # What was there before changes were numbered has none.
        query = sa.select(embedding.c.item_id).where(_OF_EMBEDDER)
    result = await connection.stream(query, {"embedder": embedder_name})
    found = [np.array(batch, np.int64).ravel() async for batch in result.partitions(_PER_BLOCK)]
    return np.sort(np.concatenate(found)) if found else np.zeros(0, np.int64)


async def _changed_rows(
    connection: AsyncConnection, embedder_name: str, packed: int, damaged: Sequence[_Block]
) -> tuple[list[int], list[bytes]]:
    """Ids and vectors, empty where deleted, of the rows that no block holds: those changed later, and lost ones."""
    wanted: list[sa.ColumnElement[bool]] = [embedding.c.change_no > packed] if packed else [sa.true()]
    wanted += [embedding.c.item_id.between(block.first_id, block.last_id) for block in damaged]
    found: dict[int, bytes] = {}
    for condition in wanted:
        # One by one: each goes by an index.
        query = sa.select(embedding.c.item_id, embedding.c.vector_bytes).where(_OF_EMBEDDER, condition)
        result = await connection.stream(query, {"embedder": embedder_name})
        async for batch in result.partitions(_PER_BLOCK):
            found.update((row[0], row[1]) for row in batch)
            # Jobs run meanwhile: they need not wait until all is read.
            await asyncio.sleep(0)
    ids = sorted(found)
    return ids, [found[item_id] for item_id in ids]


class _Gathered:
    """The vectors of blocks, put where they will stay: of each length together."""

    def __init__(self, n_expected: int) -> None:
        self._n_expected = n_expected
        self._of_dim: dict[int, _Filling] = {}

    def add(self, block: _Block, payload: bytes) -> None:
        ids = np.frombuffer(payload, _STORED_ID, count=block.n_items)
        rows = np.frombuffer(payload, STORED, offset=ids.nbytes).reshape(block.n_items, -1)
        dim = rows.shape[1]
        if dim not in self._of_dim:
            # Where all are of one length, as they should be, nothing is ever copied.
            self._of_dim[dim] = _Filling(0 if self._of_dim else self._n_expected, dim)
        self._of_dim[dim].add(ids, rows)

    def vectors(self) -> list[Vectors]:
        return [each.vectors() for each in self._of_dim.values()]


class _Filling:
    """Vectors of one length."""

    def __init__(self, n_expected: int, dim: int) -> None:
        self._ids = np.empty(n_expected, np.int64)
        self._rows = np.empty((n_expected, dim), STORED)
        self._n = 0

    def add(self, ids: Ids, rows: Halves) -> None:
        end = self._n + len(ids)
        if end > len(self._ids):
            # Packed anew since they were counted.
            self._ids = np.concatenate([self._ids[: self._n], ids, np.empty(end, np.int64)])
            self._rows = np.concatenate([self._rows[: self._n], rows, np.empty((end, rows.shape[1]), STORED)])
        self._ids[self._n : end], self._rows[self._n : end] = ids, rows
        self._n = end

    def vectors(self) -> Vectors:
        return Vectors(self._ids[: self._n], self._rows[: self._n])


def _merged(
    embedder_name: str, packed: Sequence[Vectors], changed_ids: Sequence[int], stored: Sequence[bytes]
) -> Vectors:
    """``packed`` with the changed rows in place of its own; empty ones are of deleted vectors."""
    there = [place for place, vector in enumerate(stored) if vector]
    changed, left_out = _by_length([changed_ids[place] for place in there], [stored[place] for place in there])
    if changed_ids:
        packed = [_without(each, np.array(changed_ids, np.int64)) for each in packed]
    return _of_one_length(embedder_name, [*packed, *changed], left_out)


def _without(vectors: Vectors, ids: Ids) -> Vectors:
    left = ~np.isin(vectors.ids, ids)
    return vectors if left.all() else Vectors(vectors.ids[left], vectors.rows[left])


class _Packing:
    """One transaction of a packer."""

    def __init__(
        self, connection: AsyncConnection, embedder_name: str, packed_to: int, damaged: frozenset[int]
    ) -> None:
        self._connection, self._embedder_name, self._packed_to = connection, embedder_name, packed_to
        self._damaged = damaged
        self.n_written = 0

    async def some(self, touched: Ids) -> Ids:
        """Pack the first of ``touched`` ids, rising; those that are left."""
        await self._hold_alone()
        blocks = await self._blocks_now()
        for _ in range(_BLOCKS_AT_ONCE):
            if not len(touched):
                break
            place = next((n for n, block in enumerate(blocks) if touched[0] <= block.last_id), len(blocks))
            after = blocks[place - 1].last_id if place else None
            if place < len(blocks) and not (place == len(blocks) - 1 and touched[-1] > blocks[place].last_id):
                await self._pack_block(blocks[place], after)
                touched = touched[touched > blocks[place].last_id]
                continue
            return await self._pack_tail(blocks, touched)
        return touched

    async def _pack_block(self, block: _Block, after: int | None) -> None:
        # Another packer was here.
        if block.packed_to < self._packed_to or block.first_id in self._damaged:
            await self._write(await self._rows(after, block.last_id), [block.first_id])

    async def _pack_tail(self, blocks: Sequence[_Block], touched: Ids) -> Ids:
        """Pack what lies behind the last full block, as far as one transaction should go."""
        replaced = [block for block in blocks[-1:] if block.n_items < _PER_BLOCK or block.last_id >= touched[0]]
        kept = blocks[: len(blocks) - len(replaced)]
        n = _BLOCKS_AT_ONCE * _PER_BLOCK
        rows = await self._rows(kept[-1].last_id if kept else None, None, n)
        await self._write(rows, [block.first_id for block in replaced])
        return touched[touched > rows[-1][0]] if len(rows) == n else touched[:0]

    async def _hold_alone(self) -> None:
        """Wait until no other packer is in a transaction; what is read from here on is what it left."""
        mark = sa.update(embedding_mark).where(_packed_mark(self._embedder_name))
        await self._connection.execute(mark.values(number=embedding_mark.c.number))

    async def _blocks_now(self) -> list[_Block]:
        block = embedding_block.c
        columns = (block.first_id, block.last_id, block.n_items, block.packed_to)
        query = sa.select(*columns).where(_BLOCK_OF_EMBEDDER).order_by(block.first_id)
        return [_Block(*row) for row in await self._connection.execute(query, {"embedder": self._embedder_name})]

    async def _rows(self, after: int | None, to: int | None, n: int | None = None) -> Sequence[Sequence[Any]]:
        item_id = embedding.c.item_id
        query = sa.select(item_id, embedding.c.vector_bytes).where(_OF_EMBEDDER, HAS_VECTOR).order_by(item_id).limit(n)
        query = query if after is None else query.where(item_id > after)
        query = query if to is None else query.where(item_id <= to)
        return (await self._connection.execute(query, {"embedder": self._embedder_name})).all()

    async def _write(self, rows: Sequence[Sequence[Any]], replaced: Sequence[int]) -> None:
        gone = sa.delete(embedding_block).where(_BLOCK_OF_EMBEDDER, embedding_block.c.first_id.in_(replaced))
        await self._connection.execute(gone, {"embedder": self._embedder_name})
        for start in range(0, len(rows), _PER_BLOCK):
            part = rows[start : start + _PER_BLOCK]
            values = await asyncio.to_thread(_packed, self._embedder_name, part)
            if values is None:
                continue
            block = {"embedder": self._embedder_name, "packed_to": self._packed_to, **values}
            await self._connection.execute(sa.insert(embedding_block).values(block))
        self.n_written += len(rows)


def _packed(embedder_name: str, rows: Sequence[Sequence[Any]]) -> dict[str, Any] | None:
    """The columns of a block of ``rows``; None where none of them is a vector."""
    vectors = vectors_of(embedder_name, [row[0] for row in rows], [row[1] for row in rows])
    if not len(vectors.ids):
        return None
    payload = vectors.ids.astype(_STORED_ID).tobytes() + vectors.rows.tobytes()
    return {
        "first_id": int(vectors.ids[0]),
        "last_id": int(vectors.ids[-1]),
        "n_items": len(vectors.ids),
        "checksum": crc32(payload),
        "payload": payload,
    }
