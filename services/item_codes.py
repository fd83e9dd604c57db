"""What a search inside the database looks through, kept up to date with the vectors, and how wide it must look.

A *generation* is one way of searching, ready for use: rows of ``songs_ai_item_code``, with codes or beside a table of
MariaDB's own vectors, and the width that its recall was found with. Changes go into the generation in force row by row,
each whole; what needs other codes is made beside it, and used once it is complete. One worker at a time does this.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from config.catalogue_profile import CatalogueProfile
from core.errors import ConfigurationError, DependencyUnavailable
from core.ports.arrays import Floats, Ids
from core.ports.index import Embedder
from services.candidate_queries import (
    Query,
    Row,
    as_unit_vectors,
    by_signs,
    by_vector_index,
    comma_separated,
    set_effort,
    vector_table,
)
from services.catalogue import parts
from services.database import Database
from services.embedding_blocks import HAS_VECTOR, has_length, tell_of_left_out
from services.popularity import popularity_in_sql
from services.recall_sample import AT, N_OF_A_KIND, N_TRUE, Nearest, RecallSample, interests
from services.schema import N_CODES, LazyTables, ProfileTables, embedding, item_code, item_coder, item_feature
from services.sign_codes import MAX_TRAINING, SignCoder

SIGN_CODES, NATIVE = "sign_codes", "native"

MIN_WIDTH = 1000
"""So many items, and twice that much of them that any search asks for, are compared whatever the sample says."""

_FIRST_NATIVE = (11, 7)
# MySQL's error numbers for what an account may not do: with a database, a table, a column.
_DENIED = (1044, 1142, 1143)
_BATCH, _PAGE = 1000, 5000
# The whole of a build is under one time limit, and other workers wait for it.
_N_BUILD_TRIPS = 2000
_LOCK_WAIT_S = 20
_N_KEPT = 2
_FIRST_SIGN_WIDTH = 4000
# The sample's mean is off by some 0.004.
_SAMPLE_AIM = 0.985
_SIGN_WIDTHS = tuple(round(200 * 1.15**step) for step in range(12, 33))
_NATIVE_WIDTHS = (200, 300, 400, 600, 800, 1200, 1600, 2400, 3200, 6400, 10_000)
# Of the graph's edges a node: 8 leave some vectors out of reach, 32 take three times as long to insert.
_N_EDGES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One way of searching; ``coder`` is None for ``native``. ``n_items`` is as of when ``width`` was found."""

    number: int
    method: str
    coder: SignCoder | None
    n_items: int
    width: int
    recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The generation in force, whose vectors it is of, the items in it, and the server that it is on.

    ``denied`` is what a server that has a vector index said to an account that may not use it, else None.
    """

    generation: Generation
    embedder_name: str
    dim: int
    n_items: int
    server: str
    denied: str | None = None


class NotAllowed(ConfigurationError):
    """The account of the database may not do what the search takes; ``denial`` is what the server said."""

    def __init__(self, denial: str) -> None:
        super().__init__(f"RETRIEVAL=database: {denial}")
        self.denial = denial


def has_vector_index(server: str) -> bool:
    """Whether the server with this ``VERSION()`` is a MariaDB that knows vectors."""
    number = server.split("-", maxsplit=1)[0].split(".")
    return "mariadb" in server.lower() and tuple(int(part) for part in number[:2]) >= _FIRST_NATIVE


class ItemCodes:
    """Keeps the generations of one embedder in MySQL or MariaDB."""

    def __init__(self, database: Database, profile: CatalogueProfile, embedder: Embedder, tables: LazyTables) -> None:
        self._database, self._profile = database, profile
        self._embedder, self._tables = embedder, tables

    async def prepare(self, method: str | None = None) -> Prepared:
        """Bring the generation in force up to date, or make one; ``method`` is the best that can be had unless given.

        Raises ``DependencyUnavailable`` while another worker does it and takes long, and ``NotAllowed``.
        """
        tables = await self._tables.get()
        async with self._database.connect(n_round_trips=_N_BUILD_TRIPS) as connection, _alone(connection):
            server = str((await connection.execute(sa.select(sa.func.version()))).scalar_one())
            work = _Work(connection, tables, self._profile, self._embedder)
            wanted, denied = method or (NATIVE if has_vector_index(server) else SIGN_CODES), None
            try:
                generation = await work.up_to_date(wanted)
            except NotAllowed as error:
                if method or wanted != NATIVE:
                    raise
                # Tried again at every refresh: what an account may do can change.
                denied = error.denial
                generation = await work.up_to_date(SIGN_CODES)
            await work.drop_old()
            return Prepared(
                generation=generation,
                embedder_name=self._embedder.name,
                dim=self._embedder.dim,
                n_items=await work.n_items(generation.number),
                server=server,
                denied=denied,
            )


def _denial(error: DBAPIError) -> str | None:
    """What the server said where it denied something to this account, else None."""
    arguments = error.orig.args if error.orig else ()
    return str(arguments[-1]) if arguments and arguments[0] in _DENIED else None


@contextmanager
def _allowed() -> Iterator[None]:
    """Raise what the server denies to this account as ``NotAllowed``."""
    try:
        yield
    except DBAPIError as error:
        denial = _denial(error)
        if denial is None:
            raise
        raise NotAllowed(denial) from error


@contextmanager
def _unless_denied() -> Iterator[None]:
    """Go on behind the block where the server denies to this account what is in it."""
    try:
        yield
    except DBAPIError as error:
        if _denial(error) is None:
            raise


def _outgrown(generation: Generation, n_items: int) -> bool:
    fewer, more = sorted((generation.n_items, n_items))
    return more > MIN_WIDTH and more > 2 * fewer


@asynccontextmanager
async def _alone(connection: AsyncConnection) -> AsyncIterator[None]:
    """Alone among the workers of this database."""
    # The names of these locks are the server's, and at most 64 characters long.
    name = "songs_ai_codes_" + sha256((connection.engine.url.database or "").encode()).hexdigest()[:16]
    if (await connection.execute(sa.select(sa.func.get_lock(name, _LOCK_WAIT_S)))).scalar_one() != 1:
        raise DependencyUnavailable("mysql", "another worker is preparing the search inside the database")
    try:
        yield
    finally:
        await asyncio.shield(_release(connection, name))


async def _release(connection: AsyncConnection, name: str) -> None:
    await connection.execute(sa.select(sa.func.release_lock(name)))


class _Work:
    """What is done to the derived tables on one connection, under the lock."""

    def __init__(
        self, connection: AsyncConnection, tables: ProfileTables, profile: CatalogueProfile, embedder: Embedder
    ) -> None:
        self._connection, self._tables, self._profile = connection, tables, profile
        self._embedder = embedder

    async def up_to_date(self, method: str) -> Generation:
        """The generation in force, brought up to date, or a new one. Raises ``NotAllowed``."""
        with _allowed():
            generation = await self._in_force(method)
            if generation is None:
                return await self._make(method)
            if method == NATIVE:
                await self._look_at_table(generation.number)
            await self._synchronise(generation.number, generation.coder)
            if not _outgrown(generation, await self.n_items(generation.number)):
                return generation
            # The vectors of MariaDB's own are what they are: only how hard to look must be found anew.
            return await (self.tuned(generation) if method == NATIVE else self._make(method))

    async def _look_at_table(self, number: int) -> None:
        """Told of here, and not by the first search: another account's table may be hidden from this one."""
        await self._connection.execute(sa.select(vector_table(number).c.item_id).limit(1))

    async def _in_force(self, method: str) -> Generation | None:
        """The newest generation that is ready."""
        query = (
            sa.select(item_coder)
            .where(
                item_coder.c.embedder == self._embedder.name,
                item_coder.c.method == method,
                item_coder.c.width.is_not(None),
            )
            .order_by(item_coder.c.generation.desc())
            .limit(1)
        )
        row = (await self._connection.execute(query)).one_or_none()
        if row is None:
            return None
        return Generation(
            number=row.generation,
            method=row.method,
            coder=SignCoder.read(row.coder) if row.coder else None,
            n_items=row.n_items,
            width=row.width,
            recall=row.recall,
        )

    async def _make(self, method: str) -> Generation:
        """A generation from nothing; nobody uses it before it is ready."""
        coder = await self._fitted_coder() if method == SIGN_CODES else None
        values = {
            "embedder": self._embedder.name,
            "method": method,
            "coder": coder.write() if coder else b"",
            "n_items": 0,
        }
        result = await self._connection.execute(sa.insert(item_coder).values(values))
        number = int(result.lastrowid)
        try:
            if coder is None:
                await self._connection.exec_driver_sql(_vector_table_ddl(number, self._embedder.dim))
            await self._synchronise(number, coder)
            return await self.tuned(
                Generation(number=number, method=method, coder=coder, n_items=0, width=MIN_WIDTH, recall=0.0)
            )
        except DBAPIError as error:
            # An account that is denied one part is denied it at every refresh: nothing may be left each time.
            if _denial(error):
                with _unless_denied():
                    await self._drop_table(number, method)
                await self._delete(number)
            raise

    async def _fitted_coder(self) -> SignCoder:
        known = sa.and_(embedding.c.embedder == self._embedder.name, has_length(self._embedder.dim))
        n = (await self._connection.execute(sa.select(sa.func.count()).where(known))).scalar_one()
        one_in = -(-n // MAX_TRAINING) or 1
        some = sa.select(embedding.c.vector_bytes).where(known, sa.func.crc32(embedding.c.item_id) % one_in == 0)
        stored = (await self._connection.execute(some.order_by(embedding.c.item_id))).scalars().all()
        dim = self._embedder.dim
        return await asyncio.to_thread(SignCoder.fit, as_unit_vectors(stored, dim), dim)

    # --- rows ---

    async def _synchronise(self, number: int, coder: SignCoder | None) -> None:
        """Bring the rows of a generation up to date with the vectors and the items."""
        await self._tell_of_odd_vectors()
        await self._delete_gone(number, has_vectors=coder is None)
        last: int | None = None
        while rows := await self._stale(number, last):
            await self._save(number, coder, rows)
            last = rows[-1].item_id
        await self._update_popularity(number)

    async def _tell_of_odd_vectors(self) -> None:
        """Those of another length are left out, as an index in memory leaves them out."""
        name, dim = self._embedder.name, self._embedder.dim
        odd = (embedding.c.embedder == name, HAS_VECTOR, sa.not_(has_length(dim)))
        query = sa.select(embedding.c.item_id).where(*odd).order_by(embedding.c.item_id)
        if wrong := (await self._connection.scalars(query)).all():
            tell_of_left_out(name, dim, wrong)

    async def _stale(self, number: int, last: int | None) -> Sequence[Row]:
        attributes = self._attributes()
        joined = sa.func.concat_ws("\x1f", *(sa.func.coalesce(each, "") for each in attributes))
        # Not MD5, which MySQL 9.7 has no longer.
        digest = sa.func.left(sa.func.sha2(joined, 256), 32)
        query = (
            sa.select(
                embedding.c.item_id,
                embedding.c.change_no,
                embedding.c.vector_bytes,
                *(each.label(name) for each, name in zip(attributes, ("genre", "mood", "language"), strict=True)),
                digest.label("digest"),
            )
            .select_from(embedding)
            .join(self._tables.item, self._item_id() == embedding.c.item_id)
            .outerjoin(item_code, sa.and_(item_code.c.generation == number, item_code.c.item_id == embedding.c.item_id))
            .where(
                *self._searchable(),
                sa.or_(
                    item_code.c.item_id.is_(None),
                    item_code.c.change_no != embedding.c.change_no,
                    item_code.c.digest != digest,
                ),
            )
            .order_by(embedding.c.item_id)
            .limit(_BATCH)
        )
        query = query if last is None else query.where(embedding.c.item_id > last)
        return (await self._connection.execute(query)).all()

    def _attributes(self) -> list[sa.ColumnElement[Any]]:
        source, columns = self._profile.item, self._tables.item.columns
        return [columns[name] if name else sa.null() for name in (source.genre, source.mood, source.language)]

    def _item_id(self) -> sa.Column[Any]:
        return self._tables.item.columns[self._profile.item.id]

    def _searchable(self) -> tuple[sa.ColumnElement[bool], ...]:
        return (
            embedding.c.embedder == self._embedder.name,
            has_length(self._embedder.dim),
            self._tables.is_active(),
        )

    async def _save(self, number: int, coder: SignCoder | None, rows: Sequence[Row]) -> None:
        vectors = as_unit_vectors([row.vector_bytes for row in rows], self._embedder.dim)
        codes = coder.codes(vectors).tolist() if coder else [[None] * N_CODES] * len(rows)
        values = [_narrow_row(number, row, words) for row, words in zip(rows, codes, strict=True)]
        async with _transaction(self._connection):
            await self._connection.execute(_REPLACE, values)
            if coder is None:
                await self._save_vectors(number, [row.item_id for row in rows], vectors)

    async def _save_vectors(self, number: int, ids: Sequence[int], vectors: Floats) -> None:
        # What is near nothing would be near everything in MariaDB's graph, and spoil it for the others.
        kept = np.flatnonzero(vectors.any(axis=1)).tolist()
        table = vector_table(number)
        insert = sa.text(f"REPLACE INTO {table.name} (item_id, v) VALUES (:item_id, :v)")  # noqa: S608 - a number
        await self._connection.execute(sa.delete(table).where(table.c.item_id.in_(ids)))
        if kept:
            rows = [{"item_id": ids[place], "v": vectors[place].astype("<f4").tobytes()} for place in kept]
            await self._connection.execute(insert, rows)

    async def _delete_gone(self, number: int, *, has_vectors: bool) -> None:
        query = (
            sa.select(item_code.c.item_id)
            .select_from(item_code)
            .outerjoin(
                embedding,
                sa.and_(
                    embedding.c.item_id == item_code.c.item_id,
                    embedding.c.embedder == self._embedder.name,
                    has_length(self._embedder.dim),
                ),
            )
            .outerjoin(self._tables.item, sa.and_(self._item_id() == item_code.c.item_id, self._tables.is_active()))
            .where(
                item_code.c.generation == number,
                sa.or_(embedding.c.item_id.is_(None), self._item_id().is_(None)),
            )
        )
        gone = (await self._connection.execute(query)).scalars().all()
        for start in range(0, len(gone), _BATCH):
            ids = gone[start : start + _BATCH]
            async with _transaction(self._connection):
                await self._connection.execute(
                    sa.delete(item_code).where(item_code.c.generation == number, item_code.c.item_id.in_(ids))
                )
                if has_vectors:
                    table = vector_table(number)
                    await self._connection.execute(sa.delete(table).where(table.c.item_id.in_(ids)))

    async def _update_popularity(self, number: int) -> None:
        liked_id = self._tables.likes.columns[self._profile.likes.item]
        likes = sa.select(liked_id.label("item_id"), sa.func.count().label("n")).group_by(liked_id).subquery("likes")
        popularity = popularity_in_sql(item_feature.c.popularity, likes.c.n)
        joined = item_code.outerjoin(item_feature, item_feature.c.item_id == item_code.c.item_id).outerjoin(
            likes, likes.c.item_id == item_code.c.item_id
        )
        differs = sa.func.abs(item_code.c.popularity - popularity) > 1e-6  # noqa: PLR2004 - float32's rounding
        update = sa.update(joined).values({item_code.c.popularity: popularity})
        await self._connection.execute(update.where(item_code.c.generation == number, differs))

    async def n_items(self, number: int) -> int:
        """Items in a generation."""
        query = sa.select(sa.func.count()).select_from(item_code).where(item_code.c.generation == number)
        return int((await self._connection.execute(query)).scalar_one())

    async def drop_old(self) -> None:
        """Delete generations that no worker can still be searching: all but the newest ones that are ready."""
        query = (
            sa.select(item_coder.c.generation, item_coder.c.method, item_coder.c.width)
            .where(item_coder.c.embedder == self._embedder.name)
            .order_by(item_coder.c.generation.desc())
        )
        rows = (await self._connection.execute(query)).all()
        kept = [row.generation for row in rows if row.width is not None][:_N_KEPT]
        for row in rows:
            if row.generation not in kept:
                # What this account may not drop stays known, for one that may.
                with _unless_denied():
                    await self._drop_table(row.generation, row.method)
                    await self._delete(row.generation)

    async def _drop_table(self, number: int, method: str) -> None:
        if method == NATIVE:
            await self._connection.exec_driver_sql(f"DROP TABLE IF EXISTS {vector_table(number).name}")

    async def _delete(self, number: int) -> None:
        for table in (item_code, item_coder):
            await self._connection.execute(sa.delete(table).where(table.c.generation == number))

    # --- width ---

    async def tuned(self, generation: Generation) -> Generation:
        """The generation with the least width that finds enough, as it is from now on in the database."""
        n_items = await self.n_items(generation.number)
        width, recall = MIN_WIDTH, 1.0
        if n_items > MIN_WIDTH:
            sample, coder = await self._sample(generation.number), generation.coder
            width, recall = await (
                self._tune_signs(generation, coder, sample) if coder else self._tune_native(generation, sample)
            )
        values = {"width": width, "recall": recall, "n_items": n_items}
        of_generation = item_coder.c.generation == generation.number
        await self._connection.execute(sa.update(item_coder).where(of_generation).values(values))
        return replace(generation, n_items=n_items, width=width, recall=recall)

    async def _sample(self, number: int) -> RecallSample:
        """The vectors pass by twice, and are not kept: there may be no room for them."""
        some = await self._vectors(_some_ids(number))
        ones, others = some[:N_OF_A_KIND], some[N_OF_A_KIND:]
        near = await self._nearest(number, ones, AT)
        chosen = np.random.default_rng(0).permuted(near.ids, axis=1)[:, 0].tolist()
        neighbours = np.concatenate([await self._vectors(_one_id(number, item_id)) for item_id in chosen])
        queries = interests(ones, neighbours, others)
        return RecallSample(queries, await self._nearest(number, queries, N_TRUE))

    async def _vectors(self, ids: Query) -> Floats:
        found = ids.subquery("found")
        query = (
            sa.select(embedding.c.vector_bytes)
            .join(found, found.c.item_id == embedding.c.item_id)
            .where(embedding.c.embedder == self._embedder.name, has_length(self._embedder.dim))
        )
        stored = (await self._connection.execute(query)).scalars().all()
        return as_unit_vectors(stored, self._embedder.dim)

    async def _nearest(self, number: int, queries: Floats, n: int) -> Nearest:
        nearest = Nearest(queries, n)
        async for ids, vectors in self._pages(number):
            await asyncio.to_thread(nearest.look_at, ids, vectors)
        return nearest

    async def _pages(self, number: int) -> AsyncIterator[tuple[Ids, Floats]]:
        """All items of a generation, in order of id: ids int64 (n,) and vectors float32 (n, dim)."""
        query = (
            sa.select(item_code.c.item_id, embedding.c.vector_bytes)
            .join(
                embedding,
                sa.and_(embedding.c.embedder == self._embedder.name, embedding.c.item_id == item_code.c.item_id),
            )
            .where(item_code.c.generation == number, has_length(self._embedder.dim))
            .order_by(item_code.c.item_id)
            .limit(_PAGE)
        )
        page = query
        while rows := (await self._connection.execute(page)).all():
            ids = np.array([row.item_id for row in rows], dtype=np.int64)
            yield ids, as_unit_vectors([row.vector_bytes for row in rows], self._embedder.dim)
            page = query.where(item_code.c.item_id > rows[-1].item_id)

    async def _tune_signs(self, generation: Generation, coder: SignCoder, sample: RecallSample) -> tuple[int, float]:
        """What comes first in a long list is what a short one holds: one list tells of many widths."""
        recall = 0.0
        for limit in (_FIRST_SIGN_WIDTH, _SIGN_WIDTHS[-1]):
            found = [
                await self._ids(by_signs(generation.number, coder.question(query), limit, (), None))
                for query in sample.queries
            ]
            for width in _SIGN_WIDTHS:
                if MIN_WIDTH <= width <= limit:
                    recall = sample.recall([ids[:width] for ids in found])
                    if recall >= _SAMPLE_AIM:
                        return width, recall
        return _SIGN_WIDTHS[-1], recall

    async def _tune_native(self, generation: Generation, sample: RecallSample) -> tuple[int, float]:
        recall = 0.0
        for width in _NATIVE_WIDTHS:
            await self._connection.execute(set_effort(width))
            found = [await self._ids(by_vector_index(generation.number, query, AT)) for query in sample.queries]
            recall = sample.recall(found)
            if recall >= _SAMPLE_AIM:
                return width, recall
        return _NATIVE_WIDTHS[-1], recall

    async def _ids(self, query: Query) -> Sequence[int]:
        ids: Sequence[int] = (await self._connection.execute(query)).scalars().all()
        return ids


# REPLACE is sent by the driver as one statement for many rows.
_COLUMNS = [column.name for column in item_code.columns]
_REPLACE = sa.text(
    f"REPLACE INTO {item_code.name} ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"  # noqa: S608 - names of ours
)


def _narrow_row(number: int, row: Row, words: Sequence[int | None]) -> dict[str, object]:
    return {
        "generation": number,
        "item_id": row.item_id,
        "change_no": row.change_no,
        "digest": row.digest,
        **{f"code_{place}": word for place, word in enumerate(words)},
        "genres": comma_separated(parts(row.genre)),
        "moods": comma_separated(parts(row.mood)),
        "language": comma_separated([str(row.language).strip()] if row.language is not None else []),
        "popularity": 0.0,
    }


def _vector_table_ddl(number: int, dim: int) -> str:
    # There is nothing to replace: so who may not take such a table away again may not make one either.
    return (
        f"CREATE OR REPLACE TABLE {vector_table(number).name} (item_id BIGINT PRIMARY KEY, v VECTOR({dim}) NOT NULL,"
        f" VECTOR INDEX (v) M={_N_EDGES} DISTANCE=cosine) ENGINE=InnoDB"
    )


def _some_ids(number: int) -> Query:
    """Twice as many as there are of a kind, as good as at random, and always the same."""
    query = sa.select(item_code.c.item_id).where(item_code.c.generation == number)
    return query.order_by(sa.func.crc32(item_code.c.item_id), item_code.c.item_id).limit(2 * N_OF_A_KIND)


def _one_id(number: int, item_id: int) -> Query:
    return sa.select(item_code.c.item_id).where(item_code.c.generation == number, item_code.c.item_id == item_id)


@asynccontextmanager
async def _transaction(connection: AsyncConnection) -> AsyncIterator[None]:
    """The connection is in autocommit: what belongs together is said to."""
    await connection.exec_driver_sql("START TRANSACTION")
    try:
        yield
    except BaseException:
        await asyncio.shield(_roll_back(connection))
        raise
    await connection.exec_driver_sql("COMMIT")


async def _roll_back(connection: AsyncConnection) -> None:
    await connection.exec_driver_sql("ROLLBACK")
