"""Candidate generation over a small index whose right answers are known."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.profile import ProfileConfig, TasteProfile, build_profile
from core.retrieval import Retrieved, retrieve
from tests.support.builders import ArrayIndex

BALLADS = {item_id: [1.0, 0.01 * item_id, 0.0] for item_id in range(1, 41)}
METAL = {item_id: [0.0, 0.01 * (item_id - 100), 1.0] for item_id in range(101, 141)}


def ids_of(found: Retrieved) -> list[int]:
    return [facts.item_id for facts in found.facts]


async def taste(index: ArrayIndex, liked: list[int], n_interests: int = 2) -> TasteProfile:
    ids, vectors = await index.vectors(liked)
    return build_profile(ids, vectors, np.ones(len(ids), dtype=np.float32), ProfileConfig(n_interests=n_interests))


async def test_a_listener_of_two_tastes_gets_candidates_of_both() -> None:
    index = ArrayIndex({**BALLADS, **METAL})
    profile = await taste(index, [1, 2, 3, 101, 102, 103])
    found = await retrieve(profile, index, 20, excluded={1, 2, 3, 101, 102, 103})
    ballads = [item_id for item_id in ids_of(found) if item_id < 100]
    assert len(found.facts) == 20
    assert 8 <= len(ballads) <= 12


async def test_a_minor_taste_is_not_crowded_out() -> None:
    index = ArrayIndex({**BALLADS, **METAL})
    found = await retrieve(await taste(index, [1, 2, 3, 4, 5, 6, 7, 101, 102]), index, 18, excluded=set())
    assert sum(item_id > 100 for item_id in ids_of(found)) >= 3


async def test_a_cold_start_gets_what_is_popular() -> None:
    index = ArrayIndex(BALLADS, popularity={7: 0.9, 9: 0.8, 8: 0.7})
    found = await retrieve(await taste(index, []), index, 3, excluded={9})
    assert ids_of(found) == [7, 8, 1]
    assert found.is_popular


async def test_a_small_catalogue_gives_all_that_is_left_once() -> None:
    index = ArrayIndex({**BALLADS, **METAL})
    found = await retrieve(await taste(index, [1, 101]), index, 500, excluded={1, 101})
    assert sorted(ids_of(found)) == sorted({*BALLADS, *METAL} - {1, 101})


async def test_what_was_found_is_measured_against_every_like() -> None:
    index = ArrayIndex({1: [1, 0, 0], 2: [0, 1, 0], 3: [0.6, 0.8, 0]})
    found = await retrieve(await taste(index, [1, 2], n_interests=1), index, 1, excluded={1, 2})
    assert ids_of(found) == [3]
    np.testing.assert_allclose(found.affinity, [[0.6, 0.8]], atol=1e-6)


async def test_the_rows_of_what_was_found_belong_together() -> None:
    index = ArrayIndex(BALLADS)
    found = await retrieve(await taste(index, [1, 3]), index, 10, excluded={1, 3})
    for row, item_id in enumerate(ids_of(found)):
        np.testing.assert_array_equal(found.vectors[row], (await index.vectors([item_id]))[1][0])
    np.testing.assert_allclose(found.affinity, found.vectors @ (await index.vectors([1, 3]))[1].T, atol=1e-6)
    assert [facts.item_id for facts in found.liked] == [1, 3]


@given(
    st.sets(st.integers(1, 40), max_size=12),
    st.sets(st.integers(1, 40), max_size=40),
    st.integers(1, 60),
    st.integers(1, 5),
)
async def test_nothing_excluded_and_nothing_twice_is_ever_retrieved(
    liked: set[int], excluded: set[int], n: int, n_interests: int
) -> None:
    index = ArrayIndex(BALLADS)
    found = await retrieve(await taste(index, sorted(liked), n_interests), index, n, excluded)
    ids = ids_of(found)
    assert len(ids) == len(set(ids)) == min(n, len(set(BALLADS) - excluded))
    assert not excluded & set(ids)
