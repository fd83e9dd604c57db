"""The first stage: scores, labels, diversity, caps and discoveries."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ranking import RankingConfig, rank
from core.retrieval import Retrieved
from models.catalogue import Item
from models.recommendation import RecommendationType
from tests.support.builders import make_item

PLAIN = RankingConfig(diversity=0.0, discovery_share=0.0, max_per_creator=100, popularity_weight=0.0)


def retrieved(similarity: Mapping[int, float], *, liked_ids: tuple[int, ...] = (900,), cold: bool = False) -> Retrieved:
    ids = np.array(list(similarity), dtype=np.int64)
    scores = np.array(list(similarity.values()), dtype=np.float32)
    vectors = np.zeros((len(ids), len(ids) + 1), dtype=np.float32)
    vectors[:, 0] = scores
    vectors[np.arange(len(ids)), np.arange(1, len(ids) + 1)] = np.sqrt(1 - scores**2)
    return Retrieved(
        ids=ids,
        vectors=vectors,
        similarity=scores,
        liked_ids=np.array(liked_ids, dtype=np.int64),
        affinity=np.repeat(scores[:, None], len(liked_ids), axis=1),
        is_popular=cold,
    )


def items_of(*items: Item) -> dict[int, Item]:
    return {item.item_id: item for item in items}


LIKED = items_of(make_item(900, creator="Loved", genres=("pop",), moods=("happy",)))


def kinds(found: Retrieved, items: dict[int, Item], config: RankingConfig = PLAIN) -> dict[int, RecommendationType]:
    return {candidate.item.item_id: candidate.kind for candidate in rank(found, items, LIKED, 10, config)}


def test_the_closest_match_comes_first() -> None:
    found = retrieved({1: 0.2, 2: 0.9, 3: 0.5})
    ranked = rank(found, items_of(*(make_item(i) for i in (1, 2, 3))), LIKED, 10, PLAIN)
    assert [candidate.item.item_id for candidate in ranked] == [2, 3, 1]


def test_a_retrieved_item_that_is_no_longer_eligible_is_left_out() -> None:
    ranked = rank(retrieved({1: 0.9, 2: 0.8}), items_of(make_item(2)), LIKED, 10, PLAIN)
    assert [candidate.item.item_id for candidate in ranked] == [2]


def test_nothing_eligible_is_an_empty_list() -> None:
    assert rank(retrieved({1: 0.9}), {}, LIKED, 10, PLAIN) == []


def test_each_kind_says_what_speaks_for_the_item() -> None:
    items = items_of(
        make_item(1, creator="Loved", genres=("rock",), popularity=0.9),
        make_item(2, creator="New", genres=("jazz",), popularity=0.9),
        make_item(3, creator="New", genres=("pop",), moods=("happy",), popularity=0.9),
        make_item(4, creator="New", genres=("pop",), moods=("sad",), popularity=0.9),
        make_item(5, creator="New", genres=("pop",), moods=("sad",), popularity=0.01),
    )
    assert kinds(retrieved({1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5, 5: 0.9}), items) == {
        1: RecommendationType.ARTIST,
        2: RecommendationType.CROSSOVER,
        3: RecommendationType.SIMILAR,
        4: RecommendationType.GENRE,
        5: RecommendationType.HIDDEN_GEM,
    }


def test_a_cold_start_is_ranked_and_labelled_by_popularity() -> None:
    found = retrieved({1: 0.0, 2: 0.0}, liked_ids=(), cold=True)
    ranked = rank(found, items_of(make_item(1, popularity=0.1), make_item(2, popularity=0.8)), {}, 10, PLAIN)
    assert [(candidate.item.item_id, candidate.kind) for candidate in ranked] == [
        (2, RecommendationType.POPULAR),
        (1, RecommendationType.POPULAR),
    ]


def test_the_evidence_names_the_nearest_likes_that_the_catalogue_still_has() -> None:
    found = retrieved({1: 0.9}, liked_ids=(901, 902, 903))
    found.affinity[0] = [0.1, 0.9, 0.5]
    liked = items_of(make_item(901), make_item(903))
    (candidate,) = rank(found, items_of(make_item(1)), liked, 10, PLAIN)
    assert [item.item_id for item in candidate.evidence.near] == [903, 901]


def test_an_artist_fills_no_more_than_the_cap_while_others_are_there() -> None:
    items = items_of(*(make_item(i, creator="Same" if i <= 5 else f"Other {i}") for i in range(1, 10)))
    config = RankingConfig(diversity=0.0, discovery_share=0.0, max_per_creator=2)
    ranked = rank(retrieved({i: 1 - i / 20 for i in range(1, 10)}), items, LIKED, 6, config)
    assert Counter(candidate.item.creator for candidate in ranked)["Same"] == 2


def test_the_cap_gives_way_rather_than_leave_the_list_short() -> None:
    items = items_of(*(make_item(i, creator="Same") for i in range(1, 6)))
    config = RankingConfig(discovery_share=0.0, max_per_creator=2)
    assert len(rank(retrieved(dict.fromkeys(range(1, 6), 0.5)), items, LIKED, 4, config)) == 4


def test_diversity_prefers_the_different_of_two_near_equals() -> None:
    found = retrieved({1: 0.9, 2: 0.89, 3: 0.88})
    found.vectors[1] = found.vectors[0]
    items = items_of(*(make_item(i) for i in (1, 2, 3)))
    config = RankingConfig(diversity=0.5, discovery_share=0.0, popularity_weight=0.0)
    assert [c.item.item_id for c in rank(found, items, LIKED, 3, config)] == [1, 3, 2]
    assert [c.item.item_id for c in rank(found, items, LIKED, 3, PLAIN)] == [1, 2, 3]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_discoveries_get_their_share_of_places(share: float) -> None:
    items = items_of(*(make_item(i, creator=f"A{i}", genres=("pop",) if i <= 40 else ("jazz",)) for i in range(1, 81)))
    config = RankingConfig(diversity=0.0, discovery_share=share, popularity_weight=0.0, gem_popularity_quantile=0.0)
    found = retrieved({i: 0.95 if i <= 40 else 0.3 for i in range(1, 81)})
    ranked = rank(found, items, LIKED, 20, config)
    n_crossovers = sum(candidate.kind is RecommendationType.CROSSOVER for candidate in ranked)
    assert n_crossovers == round(20 * share)


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
    found = retrieved({i: similarity for i, (similarity, _, _) in enumerate(rows)})
    items = items_of(
        *(make_item(i, creator=f"A{creator}", popularity=popular) for i, (_, creator, popular) in enumerate(rows))
    )
    config = RankingConfig(diversity=diversity, discovery_share=share)
    ranked = rank(found, items, LIKED, n, config)
    assert len({candidate.item.item_id for candidate in ranked}) == len(ranked) == min(n, len(rows))
    assert ranked == rank(found, items, LIKED, n, config)
