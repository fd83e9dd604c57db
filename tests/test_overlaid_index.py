"""An index with changes laid over it finds what one built anew finds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ports.arrays import Floats
from core.ports.index import Hits, IndexChanges, IndexRows, Predicate
from services.item_index import InMemoryItemIndex
from services.overlaid_index import OverlaidIndex, Overlay
from services.vector_scan import build_scan
from tests.support.clustered import clustered_rows
from tests.support.index_rows import make_rows

NAME = "given-1-3"
GENRES = [(), ("rock",), ("Rock", "pop"), ("jazz",)]
Item = tuple[tuple[int, int, int], int, int]
"""A vector's numbers, a popularity, and which of the genres."""

items = st.tuples(st.tuples(*[st.integers(-2, 2)] * 3), st.integers(0, 3), st.integers(0, len(GENRES) - 1))
catalogues = st.dictionaries(st.integers(1, 12), items, max_size=12)
steps = st.lists(catalogues, min_size=1, max_size=4)


def rows_of(catalogue: dict[int, Item], version: str = "v1") -> IndexRows:
    ids = sorted(catalogue)
    rows = make_rows(
        [catalogue[item_id][0] for item_id in ids] or [[]],
        ids=ids or [0],
        popularity=[catalogue[item_id][1] / 4 for item_id in ids] or [0],
        genres=[GENRES[catalogue[item_id][2]] for item_id in ids] or [()],
        moods=[("calm",)] * max(len(ids), 1),
        languages=["ko"] * max(len(ids), 1),
        version=version,
    )
    rows = replace(rows, vectors=rows.vectors.astype(np.float16), creators=[f"{catalogue[each]}" for each in ids])
    return rows if ids else _empty(rows)


def _empty(rows: IndexRows) -> IndexRows:
    nothing = replace(rows, ids=rows.ids[:0], vectors=np.zeros((0, 0), np.float16), popularity=rows.popularity[:0])
    return replace(nothing, genres=[], moods=[], languages=[], creators=[])


def changes_to(before: dict[int, Item], after: dict[int, Item], version: str) -> IndexChanges:
    changed = {item_id: item for item_id, item in after.items() if before.get(item_id) != item}
    return IndexChanges(rows_of(changed, version), np.array(sorted(before.keys() - after.keys()), np.int64))


async def overlaid(
    base: InMemoryItemIndex, before: dict[int, Item], states: Sequence[dict[int, Item]]
) -> OverlaidIndex:
    overlay = Overlay(rows_of({}), np.zeros(0, np.int64))
    for number, state in enumerate(states, start=2):
        overlay = overlay.followed_by(changes_to(before, state, f"v{number}"))
        before = state
    return await OverlaidIndex.over(base, overlay)


def same(one: Sequence[Hits], other: Sequence[Hits]) -> None:
    for found, expected in zip(one, other, strict=True):
        assert found.ids.tolist() == expected.ids.tolist()
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


@given(
    before=catalogues,
    states=steps,
    n=st.integers(0, 15),
    excluded=st.sets(st.integers(1, 14), max_size=5),
    genre=st.sampled_from([None, "rock", "JAZZ", "polka"]),
    cap=st.sampled_from([None, 1, 2]),
    asked=st.lists(st.integers(0, 14), max_size=8),
)
async def test_it_is_equal_to_an_index_built_anew(
    before: dict[int, Item],
    states: list[dict[int, Item]],
    n: int,
    excluded: set[int],
    genre: str | None,
    cap: int | None,
    asked: list[int],
) -> None:
    index = await overlaid(InMemoryItemIndex(rows_of(before), NAME), before, states)
    anew = InMemoryItemIndex(rows_of(states[-1], f"v{len(states) + 1}"), NAME)
    assert (len(index), index.version, index.embedder_name) == (len(anew), anew.version, NAME)
    queries = np.array([[1, 2, -1], [0, 0, 0], [-1, 0.5, 0]], np.float32)
    predicate = Predicate(genres=frozenset([genre])) if genre else None
    same(
        await index.search(queries, n, excluded=excluded, predicate=predicate),
        await anew.search(queries, n, excluded=excluded, predicate=predicate),
    )
    popular = await index.popular(n, excluded=excluded, max_per_genre=cap)
    assert popular.tolist() == (await anew.popular(n, excluded=excluded, max_per_genre=cap)).tolist()
    (ids, vectors), (expected_ids, expected) = await index.vectors(asked), await anew.vectors(asked)
    assert ids.tolist() == expected_ids.tolist()
    np.testing.assert_array_equal(vectors.ravel(), expected.ravel())
    assert await index.facts(ids.tolist()) == await anew.facts(ids.tolist())


def large_rows(vectors: Floats, ids: Sequence[int]) -> IndexRows:
    n = len(ids)
    return IndexRows(
        ids=np.array(ids, np.int64),
        vectors=vectors.astype(np.float16),
        popularity=np.zeros(n, np.float32),
        genres=[()] * n,
        moods=[()] * n,
        languages=[None] * n,
        creators=[None] * n,
        version="v2",
    )


async def test_enough_is_found_where_a_whole_cluster_is_gone_from_an_approximate_base() -> None:
    n = 3000
    vectors = clustered_rows(n, 16, size=300)
    rows = large_rows(vectors, range(n))
    base = InMemoryItemIndex(rows, NAME, build_scan(rows.vectors, exact_below=10))
    assert base.kind != "exact"
    nearest = (await base.search(vectors[:1], 400))[0].ids
    overlay = Overlay(large_rows(vectors[:0], []), np.sort(nearest))
    index = await OverlaidIndex.over(base, overlay)
    (hits,) = await index.search(vectors[:1], 50)
    assert len(hits.ids) == 50
    assert not np.isin(hits.ids, nearest).any()
    left = np.setdiff1d(np.arange(n), nearest)
    scores = vectors[left] @ vectors[0]
    best = left[np.argsort(-scores, kind="stable")[:50]]
    assert len(np.intersect1d(hits.ids, best)) >= 45


async def test_everything_may_be_gone() -> None:
    rows = rows_of({1: ((1, 0, 0), 0, 0), 2: ((0, 1, 0), 0, 0)})
    index = await OverlaidIndex.over(InMemoryItemIndex(rows, NAME), Overlay(rows_of({}), np.array([1, 2])))
    assert len(index) == 0
    assert [len(hits.ids) for hits in await index.search(np.ones((1, 3), np.float32), 5)] == [0]
    assert (await index.popular(5)).tolist() == []


async def test_facts_of_an_item_that_is_not_held_are_refused() -> None:
    rows = rows_of({1: ((1, 0, 0), 0, 0)})
    index = await OverlaidIndex.over(InMemoryItemIndex(rows, NAME), Overlay(rows_of({}), np.zeros(0, np.int64)))
    with pytest.raises(ValueError, match="zip"):
        await index.facts([1, 2])
