"""Candidate generation over a small index whose right answers are known."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.profile import ProfileConfig, TasteProfile, build_profile
from core.retrieval import Retrieved, retrieve
from models.recommendation import CandidateSource
from tests.support.builders import ArrayIndex, make_item
from tests.support.scripted_source import ScriptedSource

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


async def test_each_candidate_is_told_its_interest_and_each_interest_its_weight() -> None:
    index = ArrayIndex({**BALLADS, **METAL})
    found = await retrieve(await taste(index, [1, 2, 3, 4, 101, 102]), index, 20, excluded=set())
    assert found.interests is not None
    assert found.interest_weights is not None
    homes = {facts.item_id: home for facts, home in zip(found.facts, found.interests.tolist(), strict=True)}
    assert homes == {item_id: int(item_id > 100) for item_id in ids_of(found)}
    np.testing.assert_allclose(found.interest_weights, [2 / 3, 1 / 3], atol=1e-6)


async def test_a_cold_start_has_no_interests() -> None:
    index = ArrayIndex(BALLADS)
    found = await retrieve(await taste(index, []), index, 3, excluded=set())
    assert (found.interests, found.interest_weights) == (None, None)


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


# --- with a model of all listeners ---

CONTENT, COLLABORATIVE, POPULARITY = (
    CandidateSource.CONTENT, CandidateSource.COLLABORATIVE, CandidateSource.POPULARITY,
)  # fmt: skip
LIKES_METAL_TOO = ScriptedSource({101: 3.0, 102: 2.0, 103: 1.0, 5: 0.5, 999: 9.0}, knows={1})


def sources_of(found: Retrieved) -> dict[int, tuple[str, ...]]:
    return dict(zip(ids_of(found), found.sources, strict=True))


async def test_what_others_like_too_is_found_beside_what_is_near() -> None:
    index = ArrayIndex({**BALLADS, **METAL})
    found = await retrieve(await taste(index, [1]), index, 3, {1}, LIKES_METAL_TOO, {1: 1.0})
    assert sources_of(found) == {
        2: (CONTENT,), 3: (CONTENT,), 4: (CONTENT,), 101: (COLLABORATIVE,), 102: (COLLABORATIVE,),
    }  # fmt: skip


async def test_an_item_of_the_model_that_the_index_does_not_hold_is_no_candidate() -> None:
    index = ArrayIndex({**BALLADS, **METAL})
    found = await retrieve(await taste(index, [1]), index, 50, {1}, LIKES_METAL_TOO, {1: 1.0})
    assert 999 not in ids_of(found)


async def test_every_candidate_has_its_score_by_the_model_whatever_found_it() -> None:
    index = ArrayIndex({**BALLADS, **METAL})
    found = await retrieve(await taste(index, [1]), index, 4, {1}, LIKES_METAL_TOO, {1: 1.0})
    assert found.collaborative is not None
    scores = dict(zip(ids_of(found), found.collaborative.tolist(), strict=True))
    assert (scores[101], scores[5]) == (3.0, 0.5)
    assert np.isnan(scores[2])
    assert found.fusion == LIKES_METAL_TOO.weights
    assert sources_of(found)[5] == (CONTENT,)


async def test_a_find_of_both_names_both() -> None:
    index = ArrayIndex({**BALLADS, **METAL})
    model = ScriptedSource({2: 1.0, 101: 2.0}, knows={1})
    assert sources_of(await retrieve(await taste(index, [1]), index, 2, {1}, model, {1: 1.0})) == {
        2: (CONTENT, COLLABORATIVE), 3: (CONTENT,), 101: (COLLABORATIVE,),
    }  # fmt: skip


async def test_a_creator_who_is_liked_is_a_source_too() -> None:
    items = {i: make_item(i, creator="Loved" if i in {1, 3} else None) for i in BALLADS}
    index = ArrayIndex(BALLADS, items=items)
    sources = sources_of(await retrieve(await taste(index, [1, 2]), index, 5, {1, 2}))
    assert sources[3] == (CONTENT, CandidateSource.SAME_CREATOR)
    assert sources[4] == (CONTENT,)


async def test_the_model_hears_of_likes_that_the_index_does_not_hold() -> None:
    index = ArrayIndex(BALLADS)
    model = ScriptedSource({9: 1.0}, knows={777})
    found = await retrieve(await taste(index, [1]), index, 2, {1}, model, {1: 0.5, 777: 2.0})
    assert model.asked == [{1: 0.5, 777: 2.0}]
    assert sources_of(found)[9] == (COLLABORATIVE,)


async def test_a_model_that_knows_none_of_the_likes_changes_nothing() -> None:
    index = ArrayIndex({**BALLADS, **METAL})
    profile = await taste(index, [2])
    stranger = await retrieve(profile, index, 9, {2}, LIKES_METAL_TOO, {2: 1.0})
    without = await retrieve(profile, index, 9, {2})
    assert ids_of(stranger) == ids_of(without)
    assert (stranger.collaborative, stranger.fusion) == (None, None)


async def test_a_cold_start_asks_no_model() -> None:
    index, model = ArrayIndex(BALLADS), ScriptedSource({9: 1.0}, knows={777})
    found = await retrieve(await taste(index, []), index, 3, set(), model, {777: 1.0})
    assert (model.asked, found.is_popular, found.collaborative) == ([], True, None)
    assert set(found.sources) == {(POPULARITY,)}


@given(
    liked=st.sets(st.integers(1, 40), max_size=12),
    excluded=st.sets(st.integers(1, 140), max_size=80),
    scores=st.dictionaries(st.integers(1, 200), st.floats(-3, 3, width=16), max_size=60),
    n=st.integers(1, 60),
)
async def test_with_a_model_too_nothing_excluded_and_nothing_twice_is_retrieved(
    liked: set[int], excluded: set[int], scores: dict[int, float], n: int
) -> None:
    index = ArrayIndex({**BALLADS, **METAL})
    profile = await taste(index, sorted(liked))
    likes = dict.fromkeys(liked, 1.0)
    found = await retrieve(profile, index, n, excluded, ScriptedSource(scores, knows=range(1, 41)), likes)
    without = await retrieve(profile, index, n, excluded)
    ids = ids_of(found)
    assert len(ids) == len(set(ids)) == len(found.sources) <= 2 * n
    assert not excluded & set(ids)
    assert set(ids) <= {*BALLADS, *METAL}
    assert set(ids) >= set(ids_of(without))
    assert all(sources for sources in found.sources)
