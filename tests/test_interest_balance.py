"""Every interest has its share of a list, whatever its candidates' scores are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.interest_balance import InterestBalance
from core.ports.arrays import Floats, Ids
from core.ranking import Ranked, RankingConfig, rank
from core.retrieval import Retrieved
from models.catalogue import ItemFacts

# By score and balance alone.
PLAIN = RankingConfig(diversity=0.0, discovery_share=0.0, max_per_creator=1000, popularity_weight=0.0)
UNBALANCED = replace(PLAIN, calibration=0.0)
LIKED = ItemFacts(900, "Loved", ("pop",))
WEIGHTS = st.lists(st.integers(1, 10), min_size=1, max_size=4)


def weights_of(parts: list[int]) -> Floats:
    return np.asarray(np.array(parts) / sum(parts), dtype=np.float32)


def retrieved(scores: list[float], interests: list[int], parts: list[int]) -> Retrieved:
    similarity = np.array(scores, dtype=np.float32)
    return Retrieved(
        facts=[ItemFacts(place, f"Artist {place}", ("pop",)) for place in range(len(scores))],
        vectors=np.eye(len(scores), dtype=np.float32),
        similarity=similarity,
        liked=[LIKED],
        affinity=similarity[:, None],
        is_popular=False,
        interests=np.array(interests, dtype=np.int64),
        interest_weights=weights_of(parts),
    )


def two_tastes(n_each: int, gap: float, parts: list[int]) -> Retrieved:
    """As many candidates of each of two interests; those of the second score less by ``gap`` throughout."""
    near = [0.9 - place / 10_000 for place in range(n_each)]
    return retrieved([*near, *(score - gap for score in near)], [0] * n_each + [1] * n_each, parts)


def counts(found: Retrieved, ranked: list[Ranked]) -> list[int]:
    """How many of ``ranked`` are of each interest."""
    assert found.interests is not None
    assert found.interest_weights is not None
    homes = found.interests[[each.facts.item_id for each in ranked]]
    return list(np.bincount(homes, minlength=len(found.interest_weights)).tolist())


def order(found: Retrieved, n: int, config: RankingConfig = PLAIN) -> list[int]:
    return [each.facts.item_id for each in rank(found, n, config)]


def test_an_interest_whose_scores_are_lower_throughout_gets_its_share() -> None:
    found = two_tastes(100, 0.2, [1, 1])
    assert counts(found, rank(found, 100, UNBALANCED)) == [100, 0]
    first, second = counts(found, rank(found, 100, PLAIN))
    assert second >= 35
    assert first + second == 100


@pytest.mark.parametrize("parts", [[1, 1], [3, 1], [9, 1]])
def test_shares_follow_the_weights_where_scores_are_alike(parts: list[int]) -> None:
    found = two_tastes(100, 0.0, parts)
    expected = 100 * weights_of(parts)
    assert np.abs(np.array(counts(found, rank(found, 100, PLAIN))) - expected).max() <= 2


def test_within_an_interest_the_better_still_comes_first() -> None:
    found = two_tastes(50, 0.1, [1, 1])
    assert found.interests is not None
    listed = order(found, 60)
    for interest in (0, 1):
        own = [place for place in listed if found.interests[place] == interest]
        assert own == sorted(own)


def test_the_best_of_all_still_leads_the_list() -> None:
    assert order(two_tastes(50, 0.1, [1, 1]), 60)[0] == 0


def test_what_an_interest_has_no_candidates_for_goes_to_the_others() -> None:
    found = retrieved([0.9] * 20 + [0.88] * 2, [0] * 20 + [1] * 2, [1, 1])
    assert counts(found, rank(found, 20, PLAIN)) == [18, 2]


def test_one_interest_or_none_changes_nothing() -> None:
    scores = [0.3, 0.9, 0.5, 0.7]
    alone = retrieved(scores, [0] * 4, [1])
    unknown = replace(alone, interests=None, interest_weights=None)
    assert order(alone, 4) == order(unknown, 4) == order(alone, 4, UNBALANCED) == [1, 3, 2, 0]


def test_a_negative_calibration_is_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        RankingConfig(calibration=-0.1)


@given(WEIGHTS, st.lists(st.integers(0, 3), min_size=1, max_size=30), st.data())
def test_the_gain_is_the_strength_times_the_places_that_an_interest_lacks(
    parts: list[int], homes: list[int], data: st.DataObject
) -> None:
    interests: Ids = np.array([home % len(parts) for home in homes], dtype=np.int64)
    weights = weights_of(parts)
    balance = InterestBalance(interests, weights, 0.5)
    chosen = data.draw(st.permutations(range(len(homes)))) if data.draw(st.booleans()) else []
    for place in chosen:
        balance.choose(place)
    had = np.bincount(interests[chosen], minlength=len(parts))
    expected = 0.5 * (weights * (len(chosen) + 1) - had)
    assert balance.gains() == pytest.approx(expected[interests], abs=1e-4)


@given(WEIGHTS, st.floats(0, 0.5), st.integers(1, 60))
def test_a_score_s_lead_costs_an_interest_no_more_places_than_it_is_worth(parts: list[int], gap: float, n: int) -> None:
    """The lead divided by the strength of the balance, and a place for rounding."""
    homes = [place % len(parts) for place in range(100 * len(parts))]
    scores = [0.9 - gap * home / len(parts) for home in homes]
    found = retrieved(scores, homes, parts)
    lacking = weights_of(parts) * n - counts(found, rank(found, n, PLAIN))
    assert lacking.max() <= gap / PLAIN.calibration + len(parts)


@given(WEIGHTS, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), min_size=1, max_size=30), st.integers(1, 30))
def test_a_balanced_list_is_complete_unique_and_repeatable(
    parts: list[int], rows: list[tuple[float, int]], n: int
) -> None:
    found = retrieved([score for score, _ in rows], [home % len(parts) for _, home in rows], parts)
    listed = order(found, n, RankingConfig())
    assert len(set(listed)) == len(listed) == min(n, len(rows))
    assert listed == order(found, n, RankingConfig())
