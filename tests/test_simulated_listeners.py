"""Simulated listeners: what they are like, that they are the same again, and that what they do follows their tastes."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.errors import ConfigurationError
from models.catalogue import Item
from tests.support.small_world import made_up_items, small_world
from training.simulator.assumptions import Assumptions
from training.simulator.happenings import DISLIKE, LIKE, PLAY, REPEAT, SKIP, UNLIKE, Happenings
from training.simulator.history import DAY_S, GROUP_SIZE, histories
from training.simulator.reacting import N_DRAWS, react, react_to_lists
from training.simulator.tastes import Tastes
from training.simulator.world import World

KNOWN = Assumptions()


def happened(n_members: int = 200, n_days: int = 30, seed: int = 3, world: World | None = None) -> Happenings:
    return Happenings.joined(past.happenings for past in histories(world or small_world(), n_members, n_days, seed))


def in_bytes(found: Happenings) -> bytes:
    return b"".join(getattr(found, column.name).tobytes() for column in fields(found))


def truth_of(
    found: Happenings, seed: int = 3, world: World | None = None
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """How much each event's item suits its member, at that time."""
    world = world or small_world()
    tastes = Tastes.of(world, np.arange(1, found.members.max() + 1), seed)
    places = np.searchsorted(world.ids, found.items)
    return tastes.affinity(found.members - 1, places, found.at_us / 1e6 / DAY_S)


# --- the same again ---


@hypothesis_settings(max_examples=8)
@given(st.integers(0, 2**31), st.integers(1, 90), st.integers(1, 20))
def test_the_same_seed_gives_the_same_bytes_and_another_one_others(seed: int, n_members: int, n_days: int) -> None:
    once, again = (happened(n_members, n_days, seed) for _ in range(2))
    assert in_bytes(once) == in_bytes(again)
    other = happened(n_members, n_days, seed + 1)
    assert len(once) + len(other) == 0 or in_bytes(other) != in_bytes(once)


@hypothesis_settings(max_examples=8)
@given(st.integers(1, 3 * GROUP_SIZE), st.integers(0, 3))
def test_a_member_does_not_depend_on_how_many_others_there_are_or_where_one_begins(
    n_members: int, skipped: int
) -> None:
    everybody = happened(3 * GROUP_SIZE)
    some = happened(n_members)
    assert in_bytes(some) == in_bytes(everybody.only(everybody.members <= n_members))
    rest = list(histories(small_world(), 3 * GROUP_SIZE, 30, 3, first_group=skipped))
    later = everybody.only(everybody.members > skipped * GROUP_SIZE)
    assert in_bytes(
        Happenings.joined([later.only(np.zeros(0, np.int64)), *(past.happenings for past in rest)])
    ) == in_bytes(later)


def test_a_taste_is_the_seeds_and_the_members_alone() -> None:
    world = small_world()
    among_others, alone = Tastes.of(world, [5, 6, 7, 900], 3), Tastes.of(world, [900], 3)
    assert among_others.affinities(3, 12.5).tobytes() == alone.affinities(0, 12.5).tobytes()
    assert among_others.affinities(2, 12.5).tobytes() != alone.affinities(0, 12.5).tobytes()


def test_a_member_has_several_interests_whose_shares_make_a_whole() -> None:
    tastes = Tastes.of(small_world(), range(300), 1)
    n_interests = np.isneginf(tastes.begins[:, :, 0]).sum(axis=1)
    assert set(n_interests.tolist()) == set(range(KNOWN.min_interests, KNOWN.max_interests + 1))
    assert np.allclose(tastes.shares.sum(axis=1), 1)
    assert ((tastes.shares > 0).sum(axis=1) == n_interests).all()


def test_affinity_is_that_to_the_nearest_interest_in_force() -> None:
    world = small_world()
    tastes = Tastes.of(world, range(40), 1)
    rows, items = np.repeat(np.arange(40), 5), np.arange(200) % len(world.ids)
    found = tastes.affinity(rows, items, 50.0)
    for row, item, value in zip(rows.tolist(), items.tolist(), found.tolist(), strict=True):
        distances = [
            float(((tastes.centres[row, slot, life] - world.places[item]) ** 2).sum())
            for slot in range(tastes.begins.shape[1])
            if (life := int((tastes.begins[row, slot] <= 50.0).sum()) - 1) >= 0
        ]
        assert value == pytest.approx(np.exp(-KNOWN.strangeness * min(distances)), rel=1e-4)


def test_tastes_drift_with_time_and_stay_where_interests_live_long() -> None:
    def kept(assumptions: Assumptions) -> float:
        tastes = Tastes.of(small_world(assumptions=assumptions), range(100), 1)
        then, now = (np.stack([tastes.affinities(row, day) for row in range(100)]) for day in (0.0, 60.0))
        return float(np.corrcoef(then.ravel(), now.ravel())[0, 1])

    assert kept(replace(KNOWN, interest_life_days=1e9)) == pytest.approx(1.0)
    assert kept(replace(KNOWN, interest_life_days=20.0)) < kept(KNOWN) < 0.95


# --- what they do ---


def test_what_is_chosen_suits_far_better_than_chance_and_what_is_liked_better_still() -> None:
    found = happened()
    truth = truth_of(found)
    chance = Tastes.of(small_world(), range(1, 201), 3)
    at_random = np.mean([chance.affinities(row, 10.0).mean() for row in range(50)])
    played = truth[np.isin(found.kinds, (PLAY, SKIP, REPEAT))].mean()
    assert played > 1.5 * at_random
    assert truth[found.kinds == LIKE].mean() > truth[found.kinds == PLAY].mean() > truth[found.kinds == SKIP].mean()
    assert truth[found.kinds == DISLIKE].mean() < played
    assert truth[found.kinds == REPEAT].mean() > played


def test_skips_and_plays_that_end_are_as_frequent_as_they_were_measured() -> None:
    found = happened(400)
    plays = found.only(np.isin(found.kinds, (PLAY, SKIP, REPEAT)))
    assert 0.42 < (plays.completed == 1).mean() < 0.60  # 51 % in "The Skip"
    assert 0.25 < (plays.kinds == SKIP).mean() < 0.42  # 35 % within 30 s
    assert (plays.seconds[plays.kinds == SKIP] <= KNOWN.skip_within_s).all()
    assert (plays.completed[plays.kinds == SKIP] == 0).all()
    assert (plays.completed[plays.kinds == REPEAT] == 1).all()
    assert np.isfinite(plays.seconds).all()
    assert plays.seconds.min() >= 0


def test_a_repeat_is_of_what_the_member_played_before() -> None:
    found = happened()
    before: set[tuple[int, int]] = set()
    for member, item, kind in zip(found.members.tolist(), found.items.tolist(), found.kinds.tolist(), strict=True):
        assert kind != REPEAT or (member, item) in before
        before.add((member, item))


def test_a_like_comes_once_after_a_play_and_is_taken_back_only_later() -> None:
    found = happened(2000, 60)
    liked: set[tuple[int, int]] = set()
    n_unliked = 0
    for member, item, kind in zip(found.members.tolist(), found.items.tolist(), found.kinds.tolist(), strict=True):
        if kind == LIKE:
            assert (member, item) not in liked
            liked.add((member, item))
        if kind == UNLIKE:
            assert (member, item) in liked
            n_unliked += 1
    assert n_unliked > 20


def test_events_stand_in_order_of_member_and_time_and_are_numbered() -> None:
    found = happened()
    order = np.lexsort((found.at_us, found.members))
    assert order.tolist() == list(range(len(found)))
    for member in np.unique(found.members)[:50].tolist():
        assert found.numbers[found.members == member].tolist() == list(range((found.members == member).sum()))


def test_popular_items_are_played_more_than_others_of_the_same_appeal_to_the_member() -> None:
    found, world = happened(400), small_world()
    counts = np.bincount(np.searchsorted(world.ids, found.items), minlength=len(world.ids))
    famous, unknown = world.appeal >= np.quantile(world.appeal, 0.9), world.appeal <= np.quantile(world.appeal, 0.5)
    assert counts[famous].mean() > 3 * counts[unknown].mean()


def test_sessions_follow_the_hours_of_the_day() -> None:
    evening = tuple(float(hour == 20) for hour in range(24))
    world = small_world(assumptions=replace(KNOWN, hours=evening, early_or_late_h=0.0))
    hours = [past.session_at_s / 3600 % 24 for past in histories(world, 100, 20, 3)]
    assert ((np.concatenate(hours) >= 20) & (np.concatenate(hours) < 21)).all()
    usual = np.concatenate([past.session_at_s / 3600 % 24 for past in histories(small_world(), 400, 30, 3)])
    assert ((usual >= 18) & (usual < 22)).mean() > 3 * ((usual >= 2) & (usual < 6)).mean()


def test_more_days_bring_more_events_and_all_lie_within_them() -> None:
    short, long = happened(200, 10), happened(200, 40)
    assert 3 < len(long) / len(short) < 5
    assert long.at_us.min() >= 0
    assert (long.at_us / 1e6 / DAY_S).max() < 41  # a session goes on beyond midnight


# --- what they make of a play, and of a list ---


def test_the_better_it_suits_the_likelier_it_is_heard_out_and_liked() -> None:
    draws, lengths_s = np.random.default_rng(0).random((20_000, N_DRAWS)), np.full(20_000, 200.0)
    suits, bores = (react(np.full(20_000, value, np.float32), lengths_s, draws, KNOWN) for value in (0.9, 0.1))
    assert suits.completed.mean() == pytest.approx(KNOWN.completed_floor + KNOWN.completed_slope * 0.9, abs=0.02)
    assert bores.completed.mean() == pytest.approx(KNOWN.completed_floor + KNOWN.completed_slope * 0.1, abs=0.02)
    assert suits.liked.sum() > 10 * bores.liked.sum()
    assert bores.disliked.sum() > 10 * suits.disliked.sum()
    assert not (suits.completed & suits.skipped).any()


def test_further_down_a_list_less_is_played() -> None:
    world = small_world()
    tastes = Tastes.of(world, range(1, 2001), 3)
    # The same item all the way down: what differs is the place alone.
    lists = np.repeat(np.arange(2000)[:, None] % len(world.ids), 20, axis=1)
    draws = [react_to_lists(tastes, lists[:, :n], 0.0, 1, 3) for n in (1, 4, 20)]
    first, four, all_of_them = (np.isin(found.kinds, (PLAY, SKIP)).sum() for found in draws)
    assert four / first == pytest.approx(sum(place**-0.5 for place in range(1, 5)), rel=0.1)
    assert all_of_them / first == pytest.approx(sum(place**-0.5 for place in range(1, 21)), rel=0.1)


def test_of_a_list_that_suits_more_is_played_and_liked() -> None:
    world = small_world()
    tastes = Tastes.of(world, range(1, 301), 3)
    truth = np.stack([tastes.affinities(row, 0.0) for row in range(300)])
    best, worst = np.argsort(-truth, axis=1)[:, :20], np.argsort(truth, axis=1)[:, :20]
    suits, bores = (react_to_lists(tastes, lists, 0.0, 1, 3) for lists in (best, worst))
    assert len(suits) > 2 * len(bores)
    assert (suits.kinds == LIKE).sum() > 20 * max((bores.kinds == LIKE).sum(), 1)


def test_the_same_list_in_the_same_round_is_met_alike_and_in_another_one_otherwise() -> None:
    tastes = Tastes.of(small_world(), range(1, 51), 3)
    lists = np.tile(np.arange(20), (50, 1))
    assert in_bytes(react_to_lists(tastes, lists, 0.0, 1, 3)) == in_bytes(react_to_lists(tastes, lists, 0.0, 1, 3))
    assert in_bytes(react_to_lists(tastes, lists, 0.0, 2, 3)) != in_bytes(react_to_lists(tastes, lists, 0.0, 1, 3))


def test_nobody_plays_an_empty_place() -> None:
    tastes = Tastes.of(small_world(), range(1, 51), 3)
    assert len(react_to_lists(tastes, np.full((50, 20), -1), 0.0, 1, 3)) == 0


# --- the world ---


def test_items_alike_lie_nearer_than_others() -> None:
    world, items = small_world(), made_up_items()
    creators, genres = [item.creator for item in items], [item.genres[0] for item in items]
    pairs = np.random.default_rng(0).integers(0, len(items), (20_000, 2))
    squared = ((world.places[pairs[:, 0]] - world.places[pairs[:, 1]]) ** 2).sum(axis=1)
    other = pairs[:, 0] != pairs[:, 1]
    by_creator = np.array([creators[a] == creators[b] for a, b in pairs.tolist()]) & other
    by_genre = np.array([genres[a] == genres[b] for a, b in pairs.tolist()]) & other & ~by_creator
    neither = other & ~by_creator & ~by_genre
    assert squared[by_creator].mean() < 0.7 * squared[by_genre].mean() < 0.5 * squared[neither].mean()


def bare(n: int, **known: object) -> list[Item]:
    return [Item(item_id=number, titles={"en": f"T{number}"}, **known) for number in range(1, n + 1)]  # type: ignore[arg-type]


def test_any_one_kind_of_content_is_enough_to_have_tastes_in() -> None:
    numbered = bare(60)
    kinds: Sequence[list[Item]] = (
        [replace(item, genres=(f"g{item.item_id % 6}",)) for item in numbered],
        [replace(item, creator=f"c{item.item_id % 20}") for item in numbered],
        [replace(item, features={"hours": float(item.item_id % 7), "odd": float("nan")}) for item in numbered],
    )
    for items in kinds:
        world = World.of(items, KNOWN)
        assert np.isfinite(world.places).all()
        found = happened(64, 30, 1, world)
        assert truth_of(found, 1, world)[found.kinds == LIKE].mean() > 0.3


def test_a_catalogue_that_tells_nothing_apart_and_one_that_is_too_small_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no features, genres or creators tell the items apart"):
        World.of(bare(60), KNOWN)
    with pytest.raises(ConfigurationError, match="too few items to simulate listeners on: 5, 20 are needed"):
        World.of(made_up_items()[:5], KNOWN)


def test_without_any_popularity_a_few_items_are_popular_all_the_same() -> None:
    world = World.of([replace(item, popularity=0.0) for item in made_up_items()], KNOWN)
    assert world.appeal.max() > 5 * np.median(world.appeal)
    assert (world.appeal > 0).all()


def test_a_digest_changes_with_what_listeners_depend_on() -> None:
    items = made_up_items()
    other = [replace(items[0], genres=("something else",)), *items[1:]]
    digests = {
        World.of(items, KNOWN).digest(),
        World.of(items[1:], KNOWN).digest(),
        World.of(other, KNOWN).digest(),
        World.of(items, replace(KNOWN, chart_share=0.2)).digest(),
    }
    assert len(digests) == 4
    assert World.of(items[::-1], KNOWN).digest() == World.of(items, KNOWN).digest()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"chart_share": 1.2}, "from 0 to 1"),
        ({"try_slope": 0.95}, "from 0 to 1"),
        ({"min_interests": 5}, "at least one interest"),
        ({"hours": (1.0,) * 23}, "24 hours"),
    ],
)
def test_assumptions_that_cannot_be_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(KNOWN, **wrong)  # type: ignore[arg-type]
