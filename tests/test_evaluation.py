"""Measures against their definitions written plainly, splits against what they promise."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.collaborative import Likes
from core.evaluation import (
    Interval,
    Quality,
    bootstrap,
    bootstrap_coverage,
    bootstrap_mean,
    coverage,
    intra_list_diversity,
    mean_of,
    novelty,
    paired_bootstrap,
    pooled_recall,
    quality_at,
)
from core.splits import Interactions, Split, hold_out_items, hold_out_per_user, hold_out_users, split_by_time

TOP = np.array([[4, 1, 7], [2, 3, -1]])


def interactions(n_users: int = 40, n_items: int = 25, seed: int = 0, *, timed: bool = True) -> Interactions:
    users, items = np.nonzero(np.random.default_rng(seed).random((n_users, n_items)) < 0.4)
    times = np.random.default_rng(seed + 1).random(len(users)) * 1e9
    user_ids, item_ids = [f"u{place}" for place in range(n_users)], [f"i{place}" for place in range(n_items)]
    return Interactions(users, items, np.ones(len(users)), times if timed else None, user_ids, item_ids)


# --- measures ---


def test_every_measure_of_one_list() -> None:
    quality = quality_at(TOP[:1], Likes.of([[4, 7, 9, 11]]), 3)
    assert quality.recall.tolist() == [2 / 4]
    assert quality.precision.tolist() == [2 / 3]
    assert quality.hit_rate.tolist() == [1]
    assert quality.average_precision == pytest.approx([(1 / 1 + 2 / 3) / 3])
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert quality.ndcg == pytest.approx([(1 + 1 / 2) / ideal])


def test_listeners_without_targets_are_left_out_and_empty_places_hit_nothing() -> None:
    quality = quality_at(np.array([[1, 2], [-1, -1], [0, 1]]), Likes.of([[], [0], [1]]), 2)
    assert quality.hits.tolist() == [0, 1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=10, unique=True), st.sets(st.integers(0, 9), min_size=1))
def test_measures_stay_within_their_bounds_and_a_perfect_list_reaches_them(order: list[int], wanted: set[int]) -> None:
    targets, k = Likes.of([sorted(wanted)]), 5
    found = quality_at(np.array([order]), targets, k)
    for name in ("recall", "precision", "hit_rate", "average_precision", "ndcg"):
        assert 0 <= getattr(found, name)[0] <= 1 + 1e-12
    ideal = quality_at(np.array([[*sorted(wanted), *(set(range(10)) - wanted)]]), targets, k)
    assert (ideal.ndcg[0], ideal.average_precision[0]) == pytest.approx((1, 1))


def test_coverage_counts_what_stands_on_any_list() -> None:
    assert coverage(TOP, 10) == 5 / 10


def test_what_half_of_the_users_have_is_one_bit_of_news() -> None:
    popularity = np.array([8.0, 8.0, 0.0])
    assert novelty(np.array([[0, 1], [2, -1], [-1, -1]]), popularity, 16).tolist() == [1, 4, 0]


def test_diversity_is_none_among_equals_and_whole_among_strangers() -> None:
    vectors = np.array([[1, 0], [2, 0], [0, 3]], np.float32)
    lists = np.array([[0, 1, -1], [0, 2, -1], [0, 1, 2], [0, -1, -1], [-1, -1, -1]])
    assert intra_list_diversity(lists, vectors).tolist() == pytest.approx([0, 1, 2 / 3, 0, 0])
    assert intra_list_diversity(lists[:0], vectors).tolist() == []


# --- intervals ---


def quality_of(hits: list[float]) -> Quality:
    values = np.array(hits)
    return Quality(values, np.full(len(hits), 2.0), *([values / 2] * 5))


def test_an_interval_holds_its_figure_and_is_the_same_again() -> None:
    quality = quality_of([0, 1, 2, 1, 0, 2, 1, 1] * 10)
    found = bootstrap(quality, pooled_recall, seed=5)
    assert found == bootstrap(quality, pooled_recall, seed=5)
    assert found.low < found.value == 0.5 < found.high


def test_a_figure_per_list_has_an_interval_as_wide_as_its_spread_allows() -> None:
    values = np.random.default_rng(0).normal(3, 1, 400)
    found = bootstrap_mean(values)
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_the_interval_of_coverage_holds_it_and_narrows_with_more_lists() -> None:
    lists = np.random.default_rng(0).zipf(1.3, (400, 5)) % 3000
    few, many = bootstrap_coverage(lists[:50], 3000), bootstrap_coverage(lists, 3000)
    for found in (few, many):
        assert 0 < found.low < found.value < found.high < 1
    assert (many.high - many.low) / many.value < (few.high - few.low) / few.value


def test_lists_that_all_agree_cover_the_same_whoever_is_drawn() -> None:
    assert bootstrap_coverage(np.array([[0, 1]] * 9), 4) == Interval(0.5, 0.5, 0.5)


def test_a_small_gain_of_everybody_is_seen_where_listeners_differ_much() -> None:
    chance = np.random.default_rng(0)
    theirs = chance.random(200) * 2
    ours = theirs + 0.05 + chance.random(200) * 0.01
    found = paired_bootstrap(quality_of(ours.tolist()), quality_of(theirs.tolist()), mean_of("ndcg"))
    assert 0 < found.low < found.value < found.high < 0.05


def test_methods_are_compared_on_the_same_listeners_only() -> None:
    with pytest.raises(ValueError, match="same listeners"):
        paired_bootstrap(quality_of([1]), quality_of([1, 1]), pooled_recall)


# --- splits ---

SPLITS: list[Callable[..., Split]] = [
    hold_out_per_user,
    hold_out_users,
    hold_out_items,
    lambda data, seed: split_by_time(data),
]


@pytest.mark.parametrize("divide", SPLITS, ids=["per user", "users", "items", "time"])
def test_what_is_asked_for_is_never_shown_and_every_one_asked_is_told_something(
    divide: Callable[..., Split],
) -> None:
    data = interactions()
    split = divide(data, seed=1)
    again = divide(data, seed=1)
    assert np.array_equal(split.targets, again.targets)
    assert split.targets.any()
    assert not (split.targets & (split.train | split.inputs)).any()
    assert set(data.users[split.targets]) <= set(data.users[split.inputs])


def test_new_listeners_are_unknown_to_training() -> None:
    data = interactions()
    split = hold_out_users(data, seed=1)
    assert not set(data.users[split.train]) & set(data.users[split.targets])
    assert len(set(data.users[split.targets])) == 8


def test_nobody_in_training_has_a_cold_item() -> None:
    data = interactions()
    split = hold_out_items(data, share=0.2, seed=1)
    assert not set(data.items[split.train]) & set(data.items[split.targets])
    assert len(set(data.items[split.targets])) == 5


def test_a_fifth_of_each_listeners_items_is_asked_for() -> None:
    data = interactions()
    counts = np.bincount(data.users)
    asked = np.bincount(data.users[hold_out_per_user(data, seed=1).targets], minlength=40)
    assert asked[counts >= 5] == pytest.approx(0.2 * counts[counts >= 5], abs=0.51)


def test_users_of_few_items_are_asked_only_where_those_of_more_are_few() -> None:
    many, few = interactions(n_users=300, n_items=12), interactions(n_users=60, n_items=8)
    counts = np.bincount(many.users)
    assert (counts < 5).any()
    asked = np.bincount(many.users[hold_out_per_user(many, seed=1).targets], minlength=300)
    assert (asked > 0).tolist() == (counts >= 5).tolist()
    counts = np.bincount(few.users, minlength=60)
    assert (counts >= 5).sum() < 50
    asked = np.bincount(few.users[hold_out_per_user(few, seed=1).targets], minlength=60)
    fewest = counts[asked > 0].min()
    assert 2 <= fewest < 5
    assert (counts >= fewest).sum() >= 50 > (counts > fewest).sum()


def test_the_past_is_trained_on_and_the_future_asked_for() -> None:
    data = interactions()
    split = split_by_time(data)
    assert data.times_s is not None
    assert data.times_s[split.train].max() < data.times_s[split.targets].min()


def test_without_times_there_is_no_split_by_time() -> None:
    with pytest.raises(ValueError, match="needs times"):
        split_by_time(interactions(timed=False))


def test_another_seed_asks_for_other_items() -> None:
    data = interactions()
    assert not np.array_equal(hold_out_per_user(data, seed=1).targets, hold_out_per_user(data, seed=2).targets)
