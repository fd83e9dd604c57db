"""Discoveries: what counts as one, and the places that they get."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.discovery import DiscoveryPlaces, find_discoveries
from core.ranking import Ranked, RankingConfig, rank
from core.retrieval import Retrieved
from models.catalogue import ItemFacts
from models.recommendation import CandidateSource, Discovery, RecommendationType

GEM, CROSSOVER, NEW = Discovery.HIDDEN_GEM, Discovery.CROSSOVER, Discovery.NEW_CREATOR
LOVED = [ItemFacts(901, "Loved", ("pop",)), ItemFacts(902, "Loved", ("pop",)), ItemFacts(903, "Once", ("rock",))]
Row = tuple[ItemFacts, Sequence[float]]
"""A candidate and its cosines to the likes."""


def song(
    item_id: int, creator: str | None = "", genres: Sequence[str] = ("pop",), popularity: float = 0.5
) -> ItemFacts:
    return ItemFacts(item_id, f"Artist {item_id}" if creator == "" else creator, tuple(genres), (), popularity)


def retrieved(rows: Sequence[Row], liked: Sequence[ItemFacts] = LOVED) -> Retrieved:
    affinity = np.array([cosines for _, cosines in rows], dtype=np.float32).reshape(len(rows), len(liked))
    return Retrieved(
        facts=[facts for facts, _ in rows],
        vectors=np.eye(len(rows), dtype=np.float32),
        similarity=affinity.max(axis=1, initial=0.0),
        liked=liked,
        affinity=affinity,
        is_popular=False,
    )


def found(*rows: Row, liked: Sequence[ItemFacts] = LOVED) -> list[Discovery | None]:
    what = retrieved(rows, liked)
    return find_discoveries(what, what.similarity, 0.25)


NEAR_LOVED, NEAR_ONCE, FAR = (0.9, 0.8, 0.1), (0.1, 0.2, 0.9), (0.1, 0.1, 0.1)


def test_a_new_creator_is_one_whose_nearest_like_is_by_a_creator_of_several_likes() -> None:
    assert found((song(1), NEAR_LOVED), (song(2), NEAR_ONCE), (song(3), FAR)) == [NEW, None, None]


def test_where_nobody_has_several_likes_every_liked_creator_is_loved() -> None:
    assert found((song(1), (0.9, 0.1)), (song(2), (0.1, 0.9)), liked=LOVED[1:]) == [NEW, NEW]


def test_what_listeners_of_a_like_taste_found_may_be_a_new_creator_too() -> None:
    what = retrieved([(song(1), NEAR_ONCE), (song(2), NEAR_ONCE)])
    what = replace(what, sources=[(CandidateSource.CONTENT,), (CandidateSource.CONTENT, CandidateSource.COLLABORATIVE)])
    assert find_discoveries(what, what.similarity, 0.25) == [None, NEW]


def test_a_creator_of_the_listeners_own_is_no_discovery() -> None:
    assert found((song(1, "Loved"), NEAR_LOVED), (song(2, "Once", ("jazz",)), NEAR_ONCE)) == [None, None]


def test_an_unknown_creator_is_not_a_new_one() -> None:
    assert found((song(1, None), NEAR_LOVED), (song(2, None), NEAR_LOVED)) == [None, None]


def test_a_hidden_gem_is_close_and_less_popular_than_the_others() -> None:
    popular = [(song(item_id, popularity=0.9), NEAR_ONCE) for item_id in range(2, 10)]
    unknown_and_far = (song(10, popularity=0.0), FAR)
    assert found((song(1, popularity=0.0), NEAR_ONCE), *popular, unknown_and_far) == [GEM, *[None] * 9]


def test_a_crossover_has_a_genre_and_none_of_the_likes() -> None:
    without_genre, shared = (song(2, genres=[]), NEAR_ONCE), (song(3), NEAR_ONCE)
    assert found((song(1, genres=["jazz"]), FAR), without_genre, shared) == [CROSSOVER, None, None]
    assert found((song(1, genres=["jazz"]), [0.9]), liked=[replace(LOVED[0], genres=())]) != [CROSSOVER]


def test_a_list_by_popularity_alone_has_no_discoveries() -> None:
    what = replace(retrieved([(song(1), NEAR_LOVED)]), is_popular=True)
    assert find_discoveries(what, what.similarity, 0.25) == [None]


def test_a_discovery_s_type_is_one_that_the_backend_knows() -> None:
    rows = [(song(1), NEAR_LOVED), (song(2, genres=["jazz"]), FAR), (song(3, popularity=0.0), NEAR_ONCE)]
    ranked = rank(retrieved(rows), 3, RankingConfig(discovery_share=1.0))
    assert {each.facts.item_id: (each.discovery, each.kind) for each in ranked} == {
        1: (NEW, RecommendationType.GENRE),
        2: (CROSSOVER, RecommendationType.CROSSOVER),
        3: (GEM, RecommendationType.HIDDEN_GEM),
    }


def test_what_only_other_listeners_led_to_is_called_so() -> None:
    what = replace(retrieved([(song(1), FAR)]), sources=[(CandidateSource.COLLABORATIVE,)])
    (only,) = rank(what, 1, RankingConfig(discovery_share=1.0))
    assert (only.kind, only.discovery) == (RecommendationType.COLLABORATIVE, NEW)


# --- places ---


def crowd(n_gems: int, n_crossovers: int, n_new: int) -> Retrieved:
    """Forty close songs of a known creator, and discoveries that score less than any of them but more than the rest."""
    known = [(song(i, f"Once {i}", popularity=0.9), NEAR_ONCE) for i in range(1, 41)]
    gems = [(song(100 + i, popularity=i / 1000), (0.1, 0.1, 0.8)) for i in range(n_gems)]
    crossovers = [(song(200 + i, genres=["jazz"], popularity=0.9), (0.1, 0.1, 0.7)) for i in range(n_crossovers)]
    new = [(song(300 + i, popularity=0.9), (0.8, 0.1, 0.1)) for i in range(n_new)]
    rest = [(song(400 + i, f"Once {i}", popularity=0.9), FAR) for i in range(100)]
    return retrieved([*known, *gems, *crossovers, *new, *rest])


def counts(ranked: Sequence[Ranked]) -> Counter[Discovery | None]:
    return Counter(each.discovery for each in ranked)


CONFIG = RankingConfig(diversity=0.0, popularity_weight=0.0, discovery_share=0.3)


def test_each_kind_of_discovery_gets_its_share_of_places() -> None:
    shown = counts(rank(crowd(10, 10, 10), 20, CONFIG))
    assert (shown[GEM], shown[CROSSOVER], shown[NEW]) == (2, 2, 2)


def test_the_mix_weighs_the_kinds() -> None:
    only_gems = replace(CONFIG, discovery_mix={GEM: 1.0})
    mostly_new = replace(CONFIG, discovery_mix={GEM: 1.0, NEW: 5.0, CROSSOVER: 0.0})
    assert counts(rank(crowd(10, 10, 10), 20, only_gems))[GEM] == 6
    shown = counts(rank(crowd(10, 10, 10), 20, mostly_new))
    assert (shown[GEM], shown[CROSSOVER], shown[NEW]) == (1, 0, 5)


def test_places_that_one_kind_cannot_fill_go_to_the_others() -> None:
    shown = counts(rank(crowd(1, 0, 10), 20, CONFIG))
    assert (shown[GEM], shown[CROSSOVER], shown[NEW]) == (1, 0, 5)


def test_without_a_share_discoveries_stand_where_their_scores_put_them() -> None:
    assert counts(rank(crowd(10, 10, 10), 20, replace(CONFIG, discovery_share=0.0))) == {None: 20}


def test_new_creators_are_called_so_no_oftener_than_they_have_places() -> None:
    many_new = crowd(0, 0, 60)
    assert find_discoveries(many_new, many_new.similarity, 0.25).count(NEW) == 60
    assert counts(rank(many_new, 100, CONFIG)) == {NEW: 30, None: 70}
    assert counts(rank(many_new, 100, replace(CONFIG, discovery_share=0.0)))[NEW] == 0
    assert counts(rank(many_new, 100, replace(CONFIG, discovery_mix={GEM: 1.0})))[NEW] == 0


def test_a_gem_or_crossover_is_called_so_beyond_its_places_too() -> None:
    shown = counts(rank(crowd(12, 12, 0), 64, replace(CONFIG, discovery_share=0.1)))
    assert min(shown[GEM], shown[CROSSOVER]) > 6


@given(st.integers(1, 60), st.integers(0, 30), st.floats(0, 1))
def test_the_new_creators_of_a_list_s_head_are_their_share_of_it(n: int, n_shown: int, share: float) -> None:
    what = crowd(0, 0, 60)
    ranked = rank(what, n, replace(CONFIG, discovery_share=share, discovery_mix={NEW: 1.0}))
    n_shown = min(n_shown, n)
    n_new = counts(ranked[:n_shown])[NEW]
    quota = int(share * n)
    assert quota * n_shown // n <= n_new <= -(-quota * n_shown // n)


@pytest.mark.parametrize("n_shown", [10, 20, 40])
def test_discoveries_are_spread_over_the_list(n_shown: int) -> None:
    ranked = rank(crowd(15, 15, 15), 60, CONFIG)
    n_discoveries = sum(each.discovery is not None for each in ranked[:n_shown])
    assert abs(n_discoveries - 0.3 * n_shown) <= 3


KINDS = st.sampled_from([None, *Discovery])
MIXES = st.dictionaries(st.sampled_from(list(Discovery)), st.floats(0, 10), max_size=3)


@given(st.lists(KINDS, max_size=40), st.integers(0, 40), st.floats(0, 1), MIXES)
def test_places_are_no_more_than_the_share_nor_than_there_are_candidates(
    kinds: list[Discovery | None], n: int, share: float, mix: dict[Discovery, float]
) -> None:
    quotas = DiscoveryPlaces.of(kinds, n, share, mix).quotas
    wanted = {kind for kind, weight in mix.items() if weight > 0}
    n_found = Counter(kinds)
    assert set(quotas) == wanted
    assert all(quota <= n_found[kind] for kind, quota in quotas.items())
    assert sum(quotas.values()) == min(int(share * n), sum(n_found[kind] for kind in wanted))


@given(st.lists(st.tuples(KINDS, st.floats(0, 1)), min_size=1, max_size=40), st.floats(0, 1), MIXES, st.data())
def test_whatever_is_chosen_meanwhile_every_quota_is_met(
    rows: list[tuple[Discovery | None, float]], share: float, mix: dict[Discovery, float], data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, len(rows)))
    places = DiscoveryPlaces.of([kind for kind, _ in rows], n, share, mix)
    left, labels = list(rows), Counter[Discovery | None]()
    for _ in range(n):
        due = places.due()
        best = max(left, key=lambda row: (row[0] in due, row[1]))
        left.remove(best)
        label = places.choose(best[0])
        assert label in (best[0], None if best[0] is NEW else best[0])
        labels[label] += 1
    assert all(labels[kind] >= quota for kind, quota in places.quotas.items())
    assert labels[NEW] <= places.quotas.get(NEW, 0)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12), st.integers(1, 40), st.floats(0, 1), st.floats(0, 1))
def test_a_ranked_list_holds_the_share_of_discoveries_where_there_are_so_many(
    n_gems: int, n_crossovers: int, n_new: int, n: int, share: float, diversity: float
) -> None:
    what = crowd(n_gems, n_crossovers, n_new)
    config = replace(CONFIG, discovery_share=share, diversity=diversity)
    labels = find_discoveries(what, what.similarity, config.gem_popularity_quantile)
    shown = counts(rank(what, n, config))
    quotas = DiscoveryPlaces.of(labels, n, share, config.discovery_mix).quotas
    assert all(shown[kind] >= quota for kind, quota in quotas.items())
