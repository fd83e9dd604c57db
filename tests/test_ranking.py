"""The first stage: scores, labels, diversity, caps and discoveries."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ranking import Ranked, RankingConfig, rank
from core.retrieval import Retrieved
from models.catalogue import ItemFacts
from models.recommendation import Discovery, RecommendationType
from tests.support.builders import make_item

PLAIN = RankingConfig(diversity=0.0, discovery_share=0.0, max_per_creator=100, popularity_weight=0.0)
LIKED = ItemFacts(900, creator="Loved", genres=("pop",), moods=("happy",))


def facts(
    item_id: int,
    *,
    creator: str | None = None,
    genres: Sequence[str] = ("pop",),
    moods: Sequence[str] = (),
    popularity: float = 0.5,
) -> ItemFacts:
    return ItemFacts(item_id, creator or f"Artist {item_id}", tuple(genres), tuple(moods), popularity)


def retrieved(
    found: Sequence[tuple[ItemFacts, float]], *, liked: Sequence[ItemFacts] = (LIKED,), cold: bool = False
) -> Retrieved:
    """Items with their similarities; their vectors have no more in common than these ask for."""
    scores = np.array([similarity for _, similarity in found], dtype=np.float32)
    vectors = np.zeros((len(found), len(found) + 1), dtype=np.float32)
    vectors[:, 0] = scores
    vectors[np.arange(len(found)), np.arange(1, len(found) + 1)] = np.sqrt(1 - scores**2)
    return Retrieved(
        facts=[each for each, _ in found],
        vectors=vectors,
        similarity=scores,
        liked=liked,
        affinity=np.repeat(scores[:, None], len(liked), axis=1),
        is_popular=cold,
    )


def ids(ranked: Sequence[Ranked]) -> list[int]:
    return [each.facts.item_id for each in ranked]


def test_the_closest_match_comes_first() -> None:
    found = retrieved([(facts(1), 0.2), (facts(2), 0.9), (facts(3), 0.5)])
    assert ids(rank(found, 10, PLAIN)) == [2, 3, 1]


def test_nothing_found_is_an_empty_list() -> None:
    assert rank(retrieved([]), 10, PLAIN) == []


def test_each_kind_says_what_speaks_for_the_item() -> None:
    found = retrieved(
        [
            (facts(1, creator="Loved", genres=("rock",), popularity=0.9), 0.5),
            (facts(2, genres=("jazz",), popularity=0.9), 0.5),
            (facts(3, moods=("happy",), popularity=0.9), 0.5),
            (facts(4, moods=("sad",), popularity=0.9), 0.5),
            (facts(5, moods=("sad",), popularity=0.01), 0.9),
        ]
    )
    assert {each.facts.item_id: each.kind for each in rank(found, 10, PLAIN)} == {
        1: RecommendationType.ARTIST,
        2: RecommendationType.CROSSOVER,
        3: RecommendationType.SIMILAR,
        4: RecommendationType.GENRE,
        5: RecommendationType.HIDDEN_GEM,
    }


def test_a_cold_start_is_ranked_and_labelled_by_popularity() -> None:
    found = retrieved([(facts(1, popularity=0.1), 0.0), (facts(2, popularity=0.8), 0.0)], liked=(), cold=True)
    ranked = rank(found, 10, PLAIN)
    assert ids(ranked) == [2, 1]
    assert {each.kind for each in ranked} == {RecommendationType.POPULAR}


def test_the_likes_nearest_to_an_item_are_named_nearest_first() -> None:
    found = retrieved([(facts(1), 0.9)], liked=[facts(901), facts(902), facts(903)])
    found.affinity[0] = [0.1, 0.9, 0.5]
    (ranked,) = rank(found, 10, PLAIN)
    assert ranked.near_ids == (902, 903)
    assert ranked.near_similarity == pytest.approx((0.9, 0.5))


def test_a_candidates_evidence_holds_what_the_catalogue_still_has() -> None:
    found = retrieved([(facts(1, creator="Loved", moods=("happy", "sad")), 0.9)], liked=[LIKED, facts(903)])
    (ranked,) = rank(found, 10, PLAIN)
    candidate = ranked.candidate({1: make_item(1), 903: make_item(903)})
    assert [item.item_id for item in candidate.evidence.near] == [903]
    assert candidate.evidence.near_similarity == pytest.approx((0.9,))
    assert (candidate.evidence.shared_genres, candidate.evidence.shared_moods) == (("pop",), ("happy",))
    assert candidate.evidence.same_creator
    assert candidate.score == pytest.approx(0.9)
    with pytest.raises(KeyError):
        ranked.candidate({903: make_item(903)})


def test_an_artist_fills_no_more_than_the_cap_while_others_are_there() -> None:
    found = retrieved([(facts(i, creator="Same" if i <= 5 else None), 1 - i / 20) for i in range(1, 10)])
    ranked = rank(found, 6, RankingConfig(diversity=0.0, discovery_share=0.0, max_per_creator=2))
    assert Counter(each.facts.creator for each in ranked)["Same"] == 2


def test_the_cap_gives_way_rather_than_leave_the_list_short() -> None:
    found = retrieved([(facts(i, creator="Same"), 0.5) for i in range(1, 6)])
    assert len(rank(found, 4, RankingConfig(discovery_share=0.0, max_per_creator=2))) == 4


def test_diversity_prefers_the_different_of_two_near_equals() -> None:
    found = retrieved([(facts(1), 0.9), (facts(2), 0.89), (facts(3), 0.88)])
    found.vectors[1] = found.vectors[0]
    assert ids(rank(found, 3, RankingConfig(diversity=0.5, discovery_share=0.0, popularity_weight=0.0))) == [1, 3, 2]
    assert ids(rank(found, 3, PLAIN)) == [1, 2, 3]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_discoveries_get_their_share_of_places(share: float) -> None:
    known = [(facts(i), 0.95) for i in range(1, 41)]
    foreign = [(facts(i, genres=("jazz",)), 0.3) for i in range(41, 81)]
    only = {Discovery.CROSSOVER: 1.0}
    config = RankingConfig(diversity=0.0, discovery_share=share, discovery_mix=only, popularity_weight=0.0)
    ranked = rank(retrieved([*known, *foreign]), 20, config)
    assert sum(each.kind is RecommendationType.CROSSOVER for each in ranked) == round(20 * share)


@pytest.mark.parametrize("wrong", [{"diversity": 1.5}, {"discovery_share": -0.1}, {"max_per_creator": 0}])
def test_a_ranking_config_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        RankingConfig(**wrong)  # type: ignore[arg-type]  # that is the point


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.floats(0, 1)), max_size=25),
    st.integers(1, 30),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_ranking_is_complete_unique_and_repeatable(
    rows: list[tuple[float, int, float]], n: int, diversity: float, share: float
) -> None:
    found = retrieved(
        [
            (facts(i, creator=f"A{creator}", popularity=popular), similarity)
            for i, (similarity, creator, popular) in enumerate(rows)
        ]
    )
    config = RankingConfig(diversity=diversity, discovery_share=share)
    ranked = rank(found, n, config)
    assert len(set(ids(ranked))) == len(ranked) == min(n, len(rows))
    assert ranked == rank(found, n, config)
