"""Likes, reactions and their age as a taste: what draws, what repels, what is recent, and whether it has moved."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ports.arrays import Floats
from core.profile import ProfileConfig
from core.repetition import Shown, repetition_factors
from core.taste import Taste, aversion_factors, drift, taste_of, with_dates
from core.taste_watch import DriftWatch
from models.catalogue import Interest, Listener
from tests.support.builders import ArrayIndex
from tests.support.hand_clock import HandClock

DAY_S = 86_400.0
NOW_S = 2_000 * DAY_S
PLAIN = ProfileConfig(half_life_days=100, recent_half_life_days=10, recent_share=0.0)
RECENT = ProfileConfig(half_life_days=1e9, recent_half_life_days=10, recent_share=0.5)


def ago(item_id: int, days: float | None, weight: float = 1.0) -> Interest:
    return Interest(item_id, weight, None if days is None else NOW_S - days * DAY_S)


def taste(
    interests: Sequence[Interest] = (), reactions: Sequence[Interest] = (), config: ProfileConfig = PLAIN
) -> Taste:
    disliked = frozenset(each.item_id for each in reactions if each.weight <= -1)
    listener = Listener(member_id=1, interests=tuple(interests), reactions=tuple(reactions), disliked_ids=disliked)
    return taste_of(listener, NOW_S, config)


def test_who_did_nothing_has_no_taste() -> None:
    assert taste() == Taste({}, {})


def test_what_was_done_adds_to_what_was_liked() -> None:
    found = taste([ago(1, None), ago(2, 100)], [ago(1, 0, 0.5), ago(3, 100, 0.2)])
    assert found.liked == pytest.approx({1: 1.5, 2: 0.5, 3: 0.1})
    assert found.averse == {}


def test_what_was_skipped_counts_less_and_what_is_left_against_an_item_repels() -> None:
    found = taste([ago(1, None)], [ago(1, 0, -0.2), ago(2, 0, -0.2), ago(3, 0, -5.0)])
    assert found.liked == pytest.approx({1: 0.8})
    assert found.averse == pytest.approx({2: 0.2, 3: 1.0})


def test_an_aversion_fades_as_an_interest_does() -> None:
    assert taste(reactions=[ago(1, 100, -1.0)]).averse == pytest.approx({1: 0.5})


def test_what_is_disliked_draws_nobody_however_much_is_said_for_it() -> None:
    found = taste_of(Listener(member_id=1, reactions=(ago(1, 0, 2.0),), disliked_ids=frozenset({1})), NOW_S, PLAIN)
    assert found.liked == {}


def test_recent_interests_get_their_share_of_the_whole() -> None:
    old, new = [ago(number, 1000) for number in (1, 2, 3)], [ago(number, 0) for number in (4, 5, 6)]
    liked = taste(old + new, config=RECENT).liked
    assert sum(liked.values()) == pytest.approx(6)
    assert sum(liked[number] for number in (4, 5, 6)) == pytest.approx(0.5 * 3 + 0.5 * 6)
    assert all(liked[number] == pytest.approx(0.5) for number in (1, 2, 3))


def test_one_recent_like_is_not_half_of_a_taste() -> None:
    liked = taste([ago(1, 1000), ago(2, 1000), ago(3, 0)], config=RECENT).liked
    assert liked[3] == pytest.approx((1 - 0.5 / 3) + 0.5 / 3 * 3)


def test_without_dates_there_is_no_recent_taste() -> None:
    assert taste([ago(1, None), ago(2, None)], config=RECENT).liked == {1: 1.0, 2: 1.0}


_INTERESTS = st.lists(st.builds(ago, st.integers(1, 9), st.none() | st.floats(0, 3000), st.floats(-3, 3)), max_size=12)


@given(_INTERESTS, _INTERESTS, st.floats(0, 1))
def test_a_taste_has_positive_weights_and_no_item_on_both_sides(
    interests: list[Interest], reactions: list[Interest], share: float
) -> None:
    likes = [Interest(each.item_id, abs(each.weight), each.occurred_at_s) for each in interests]
    config = ProfileConfig(half_life_days=100, recent_half_life_days=10, recent_share=share)
    found, plain = taste(likes, reactions, config), taste(likes, reactions, PLAIN)
    assert all(weight > 0 for weight in found.liked.values())
    assert all(0 < weight <= 1 for weight in found.averse.values())
    assert not found.liked.keys() & found.averse.keys()
    assert sum(found.liked.values()) == pytest.approx(sum(plain.liked.values()), rel=1e-6)


def test_favourites_that_a_job_names_are_dated_by_what_is_known_of_them() -> None:
    known = [ago(1, 3), ago(2, None)]
    assert with_dates([Interest(1), Interest(2), Interest(3)], known) == (ago(1, 3), Interest(2), Interest(3))


def test_favourites_that_a_job_names_come_newest_first_so_that_only_old_ones_are_left_out() -> None:
    known = [ago(9, 2), ago(5, 1), ago(1, 3)]
    named = with_dates([Interest(item) for item in (1, 2, 5, 8, 9)], known)
    assert [each.item_id for each in named] == [5, 9, 1, 2, 8]


# --- what is like something disliked ---

AXES: Floats = np.eye(3, dtype=np.float32)


def test_what_is_like_a_dislike_falls_by_kinship() -> None:
    near = np.array([[0.8, 0.6, 0.0]], dtype=np.float32)
    factors = aversion_factors(np.vstack([AXES, near]), AXES[:1], np.ones(1, np.float32), 0.5)
    np.testing.assert_allclose(factors, [0.5, 1.0, 1.0, 1 - 0.5 * 0.64], atol=1e-6)


def test_a_weak_aversion_pulls_less_and_the_nearest_one_counts() -> None:
    weights = np.array([0.2, 1.0], np.float32)
    np.testing.assert_allclose(aversion_factors(AXES, AXES[:2], weights, 0.5), [0.9, 0.5, 1.0], atol=1e-6)


def test_what_is_the_opposite_of_a_dislike_gains_nothing() -> None:
    np.testing.assert_array_equal(aversion_factors(-AXES, AXES[:1], np.ones(1, np.float32), 1.0), [1, 1, 1])


@pytest.mark.parametrize(("n", "m"), [(0, 2), (2, 0), (0, 0)])
def test_without_items_or_aversions_all_is_left(n: int, m: int) -> None:
    factors = aversion_factors(AXES[:n], AXES[:m], np.ones(m, np.float32), 0.5)
    np.testing.assert_array_equal(factors, np.ones(n))


# --- what is shown again ---


def test_each_day_shown_costs_more_and_time_makes_up_for_it() -> None:
    shown = {
        1: Shown(1, timedelta(0)),
        2: Shown(4, timedelta(0)),
        3: Shown(4, timedelta(days=7)),
        4: Shown(4, timedelta(days=700)),
    }
    factors = repetition_factors(np.array([1, 2, 3, 4, 5]), shown, 0.25)
    np.testing.assert_allclose(factors, [0.8, 0.5, 1 / 1.5, 1.0, 1.0], atol=1e-4)


def test_strength_zero_forgets_that_anything_was_shown() -> None:
    np.testing.assert_array_equal(repetition_factors(np.array([1]), {1: Shown(9, timedelta(0))}, 0.0), [1.0])


# --- drift ---


def test_drift_is_none_between_the_same_and_two_between_opposites() -> None:
    assert drift(AXES[0], 3 * AXES[0]) == pytest.approx(0)
    assert drift(AXES[0], AXES[1]) == pytest.approx(1)
    assert drift(AXES[0], -AXES[0]) == pytest.approx(2)
    assert drift(AXES[0], 0 * AXES[0]) == 0


class Member:
    """What a member did then, and does now; and when their results were made."""

    def __init__(self, then: Listener, now: Listener, made_at: datetime | None) -> None:
        self.then, self.now, self.at = then, now, made_at

    async def listener_at(self, member_id: int, then_s: float) -> tuple[Listener, Listener]:
        assert self.at is not None
        assert then_s == self.at.timestamp()
        return self.then, self.now

    async def made_at(self, member_id: int) -> datetime | None:
        return self.at


class Provider:
    """Ballads are 1 to 9, metal is 11 to 19."""

    def current(self) -> ArrayIndex:
        vectors: Mapping[int, Sequence[float]] = {
            **{number: [1.0, 0.02 * number] for number in range(1, 10)},
            **{number: [0.02 * (number - 10), 1.0] for number in range(11, 20)},
        }
        return ArrayIndex(vectors)


CLOCK = HandClock()
YESTERDAY = CLOCK.now() - timedelta(days=1)


def listener(*item_ids: int, weight: float = 1.0, disliked: Sequence[int] = ()) -> Listener:
    at_s = YESTERDAY.timestamp()
    refused = tuple(Interest(item_id, -1.0, at_s) for item_id in disliked)
    return Listener(
        member_id=1,
        interests=tuple(Interest(item_id, weight, at_s) for item_id in item_ids),
        disliked_ids=frozenset(disliked),
        reactions=refused,
    )


async def has_moved(then: Listener, now: Listener, made_at: datetime | None = YESTERDAY) -> bool:
    member = Member(then, now, made_at)
    watch = DriftWatch(member, member, Provider(), CLOCK, config=ProfileConfig(), threshold=0.1)
    return await watch.has_moved(1)


async def test_more_of_the_same_is_no_drift() -> None:
    assert not await has_moved(listener(1, 2, 3), listener(1, 2, 3, 4, 5, 6))


async def test_another_genre_is_a_drift() -> None:
    assert await has_moved(listener(1, 2, 3), listener(1, 2, 3, 11, 12, 13))


async def test_a_new_dislike_is_always_one() -> None:
    assert await has_moved(listener(1, 2, 3), listener(1, 2, 3, disliked=[19]))


async def test_a_first_taste_is_one_and_none_at_all_is_not() -> None:
    assert await has_moved(listener(), listener(1))
    assert not await has_moved(listener(), listener())


async def test_who_has_no_result_has_none_to_refresh() -> None:
    assert not await has_moved(listener(1), listener(11), made_at=None)
