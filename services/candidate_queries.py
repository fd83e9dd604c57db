"""The SQL of a search inside the database: the items that may be nearest, with their vectors, in one statement.

``by_signs`` looks at the codes of all items, ``by_vector_index`` walks MariaDB's graph, ``by_distance`` compares
MariaDB's vectors one by one. Whether an item is active is looked up in the backend's own table, of those found alone.
"""

from collections.abc import Collection, Iterable
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile
from core.ports.arrays import Floats
from core.ports.index import Predicate
from services.embedding_blocks import has_length
from services.schema import N_CODES, OWN_PREFIX, ProfileTables, embedding, item_code
from services.sign_codes import Question

_WORD = sa.BigInteger()
_CODES = [item_code.columns[f"code_{place}"] for place in range(N_CODES)]

Query = sa.Select[*tuple[Any, ...]]
Row = sa.Row[*tuple[Any, ...]]


def vector_table(generation: int) -> sa.Table:
    """The table of a generation that is searched by MariaDB's vector index; its vectors are little-endian float32."""
    return sa.Table(
        f"{OWN_PREFIX}item_vector_{generation}",
        sa.MetaData(),
        sa.Column("item_id", sa.BigInteger, primary_key=True),
        sa.Column("v", sa.LargeBinary, nullable=False),
    )


def by_signs(
    generation: int, question: Question, limit: int, excluded: Collection[int], predicate: Predicate | None
) -> Query:
    """Ids of ``limit`` items, those first whose signs differ least from the question's."""
    differing = [column.bitwise_xor(_word(sign)) for column, sign in zip(_CODES, question.signs, strict=True)]
    distance = 2 * _n_bits(differing, question.twos) + _n_bits(differing, question.ones)
    return _narrow(generation, excluded, predicate).order_by(distance, item_code.c.item_id).limit(limit)


def by_vector_index(generation: int, unit: Floats, limit: int) -> Query:
    """Ids of ``limit`` items about nearest to ``unit``; how hard it looks is ``mhnsw_ef_search``'s to say."""
    table = vector_table(generation)
    return sa.select(table.c.item_id).order_by(_distance(table, unit)).limit(limit)


def set_effort(width: int) -> sa.TextClause:
    """What to send before ``by_vector_index``: how many candidates it keeps at hand while it walks."""
    return sa.text("SET SESSION mhnsw_ef_search = :width").bindparams(width=width)


def by_distance(
    generation: int, unit: Floats, limit: int, excluded: Collection[int], predicate: Predicate | None
) -> Query:
    """Ids of the ``limit`` items nearest to ``unit``."""
    table = vector_table(generation)
    return (
        _narrow(generation, excluded, predicate)
        # In this order: MariaDB would read all vectors first, and ask of each whether it is wanted.
        .prefix_with("STRAIGHT_JOIN")
        .join(table, table.c.item_id == item_code.c.item_id)
        .order_by(_distance(table, unit), item_code.c.item_id)
        .limit(limit)
    )


def with_vectors(
    found: Query,
    tables: ProfileTables,
    profile: CatalogueProfile,
    embedder: str,
    dim: int,
    excluded: Collection[int] = (),
) -> Query:
    """Ids and vectors of ``dim``, in no order, of those of the ids ``found`` that are active at this moment."""
    ids, item_id = found.subquery("found"), tables.item.columns[profile.item.id]
    query = (
        sa.select(ids.c.item_id, embedding.c.vector_bytes)
        .select_from(ids)
        .join(tables.item, item_id == ids.c.item_id)
        .join(embedding, sa.and_(embedding.c.embedder == embedder, embedding.c.item_id == ids.c.item_id))
        .where(tables.is_active(), has_length(dim))
    )
    return query.where(ids.c.item_id.not_in(list(excluded))) if excluded else query


def comma_separated(values: Iterable[str], max_length: int = 1023) -> str:
    """``values`` as ``matches`` looks through them; those that do not fit in are left out."""
    kept: list[str] = []
    for value in values:
        if len(",".join([*kept, value.casefold()])) <= max_length:
            kept.append(value.casefold())
    return ",".join(kept)


def _narrow(generation: int, excluded: Collection[int], predicate: Predicate | None) -> Query:
    query = sa.select(item_code.c.item_id).where(item_code.c.generation == generation)
    if predicate:
        for column, wanted in (
            (item_code.c.genres, predicate.genres),
            (item_code.c.moods, predicate.moods),
            (item_code.c.language, predicate.languages),
        ):
            if wanted:
                query = query.where(_any_of(wanted, column))
    return query.where(item_code.c.item_id.not_in(list(excluded))) if excluded else query


def _any_of(wanted: Collection[str], column: sa.Column[str]) -> sa.ColumnElement[bool]:
    if column is item_code.c.language:
        return column.in_([value.casefold() for value in wanted])
    return sa.or_(*(sa.func.find_in_set(value.casefold(), column) > 0 for value in sorted(wanted)))


def _distance(table: sa.Table, unit: Floats) -> sa.ColumnElement[float]:
    return sa.func.vec_distance_cosine(table.c.v, unit.astype("<f4").tobytes(), type_=sa.Double)


def _n_bits(words: Iterable[sa.ColumnElement[int]], masks: Iterable[int]) -> sa.ColumnElement[int]:
    counts = (
        sa.func.bit_count(word.bitwise_and(_word(mask)), type_=sa.Integer)
        for word, mask in zip(words, masks, strict=True)
    )
    return reduce(add, counts)


def _word(number: int) -> sa.BindParameter[int]:
    return sa.bindparam(None, number, type_=_WORD, unique=True)


def as_unit_vectors(stored: Collection[bytes], dim: int) -> Floats:
    """Float32 (n, dim), from the little-endian float16 of ``songs_ai_embedding``; a zero vector stays one."""
    vectors = np.frombuffer(b"".join(stored), dtype="<f2").astype(np.float32).reshape(-1, dim)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit
