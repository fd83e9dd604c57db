"""The first stage with a collaborative model: what its scores do to the order."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.ports.collaborative import FusionWeights
from core.ranking import RankingConfig, rank
from core.retrieval import Retrieved
from models.catalogue import ItemFacts

# By score alone.
PLAIN = RankingConfig(diversity=0, discovery_share=0, max_per_creator=1000)
CONTENT_ALONE = FusionWeights(content=1, collaborative=0, popularity=0, same_creator=0)
NAN = float("nan")
ROWS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(-20, 20) | st.none(), st.integers(0, 4), st.booleans()),
    min_size=1,
    max_size=25,
)


def retrieved(rows: Sequence[tuple[int, int | None, int, bool]], fusion: FusionWeights | None) -> Retrieved:
    """Of rows of content match (in twentieths), collaborative score, popularity (in quarters) and loved creator."""
    match = np.array([row[0] / 20 for row in rows], dtype=np.float32)
    scores = np.array([NAN if row[1] is None else row[1] for row in rows], dtype=np.float32)
    return Retrieved(
        facts=[
            ItemFacts(place, "Loved" if loved else f"Artist {place}", (), (), popularity / 4)
            for place, (_, _, popularity, loved) in enumerate(rows)
        ],
        vectors=np.eye(len(rows), dtype=np.float32),
        similarity=match,
        liked=[ItemFacts(900, "Loved")],
        affinity=match[:, None],
        is_popular=False,
        collaborative=None if fusion is None else scores,
        fusion=fusion,
    )


def scores_of(found: Retrieved) -> dict[int, float]:
    return {each.facts.item_id: each.score for each in rank(found, len(found.facts), PLAIN)}


def order_of(found: Retrieved) -> list[int]:
    return list(scores_of(found))


def test_what_the_model_scores_high_rises_above_an_equal_match() -> None:
    assert order_of(retrieved([(10, 1, 2, False), (10, 5, 2, False), (10, 3, 2, False)], FusionWeights())) == [1, 2, 0]


def test_an_item_that_the_model_does_not_know_stands_between_its_best_and_its_worst() -> None:
    assert order_of(retrieved([(10, 9, 2, False), (10, 1, 2, False), (10, None, 2, False)], FusionWeights())) == [
        0,
        2,
        1,
    ]


def test_each_weight_lifts_what_it_is_for() -> None:
    rows = [(20, 0, 0, False), (0, 20, 0, False), (0, 0, 4, False), (0, 0, 0, True)]
    nothing = FusionWeights(content=0, collaborative=0, popularity=0, same_creator=0)
    for place, name in enumerate(("content", "collaborative", "popularity", "same_creator")):
        assert order_of(retrieved(rows, replace(nothing, **{name: 1.0})))[0] == place


@given(ROWS)
def test_without_weights_for_the_rest_the_order_is_that_of_content_alone(
    rows: list[tuple[int, int | None, int, bool]],
) -> None:
    scores = scores_of(retrieved(rows, CONTENT_ALONE))
    by_place, matches = np.array([scores[place] for place in range(len(rows))]), np.array([row[0] for row in rows])
    np.testing.assert_array_equal(by_place[:, None] > by_place, matches[:, None] > matches)


@given(ROWS)
def test_without_a_model_scores_are_those_of_content_with_a_little_popularity(
    rows: list[tuple[int, int | None, int, bool]],
) -> None:
    scores = scores_of(retrieved(rows, None))
    expected = [0.9 * match / 20 + 0.1 * popularity / 4 for match, _, popularity, _ in rows]
    np.testing.assert_allclose([scores[place] for place in range(len(rows))], expected, atol=1e-6)


@given(ROWS, st.randoms(use_true_random=False))
def test_scores_are_shares_and_do_not_depend_on_the_order_in_which_items_were_found(
    rows: list[tuple[int, int | None, int, bool]], chance: object
) -> None:
    order = list(range(len(rows)))
    chance.shuffle(order)  # type: ignore[attr-defined]  # a Random
    scores = scores_of(retrieved(rows, FusionWeights(same_creator=0.5)))
    shuffled = scores_of(retrieved([rows[place] for place in order], FusionWeights(same_creator=0.5)))
    assert len(scores) == len(rows)
    assert all(0 < score < 1 for score in scores.values())
    np.testing.assert_allclose(
        [shuffled[place] for place in range(len(rows))], [scores[place] for place in order], atol=1e-5
    )


def test_a_candidate_tells_its_score_by_the_model_and_none_where_there_is_none() -> None:
    ranked = rank(retrieved([(10, 3, 2, False), (10, None, 2, False)], FusionWeights()), 2, PLAIN)
    assert {each.facts.item_id: each.collaborative for each in ranked} == {0: 3.0, 1: None}
