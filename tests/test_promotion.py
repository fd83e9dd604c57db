"""A new version beside the active one: what is held out, who stands for whom, and who wins."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from core.collaborative import Likes
from core.evaluation import Interval
from core.fitted_collaborative import FittedCollaborative
from core.ports.collaborative import FusionWeights
from tests.support.fitted_models import fitted_of
from tests.support.observed_tastes import (
    BEGAN_S,
    DAY_S,
    N_ITEMS,
    N_TASTES,
    Pair,
    bots,
    listeners,
    observed_of,
    taste_of,
)
from training.observations import Observed
from training.promotion import ActiveVersion, AsStored, Comparison, Trial, hold_out
from training.recipe import Asked, Recipe
from training.tuning import DEFAULTS

SMALL = replace(DEFAULTS, linear=replace(DEFAULTS.linear, rank=16), factors=(replace(DEFAULTS.factors[0], dim=8),))
GOOD = Recipe(SMALL)
# Of content and popularity alone, which say nothing here.
BLIND = Recipe(SMALL, weights=FusionWeights(content=1.0, collaborative=0.0, popularity=0.1))

Shown = Mapping[int, list[int]]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1, user_api="blas"):
        yield


def day(n: float) -> float:
    return BEGAN_S + n * DAY_S


def fitted_by(recipe: Recipe, observed: Observed) -> FittedCollaborative:
    return FittedCollaborative(observed.item_ids, recipe.fitted(observed, seed=0), recipe.weights)


def active_by(recipe: Recipe, observed: Observed, *, known: bool = True) -> ActiveVersion:
    fitted = fitted_by(recipe, observed)
    return ActiveVersion(fitted.version, fitted, recipe if known else None, observed.until_s)


def compared(observed: Observed, recipe: Recipe, active: ActiveVersion | None) -> Comparison:
    holdout = hold_out(observed, active.until_s if active else None, seed=0)
    return Trial(observed, holdout, seed=0).compare(recipe, active)


# --- what is held out ---


def test_what_came_last_is_held_out_of_listeners_who_were_there_before() -> None:
    observed = observed_of([*listeners(), *listeners(80, first=1000)[: 80 * 2]])
    holdout = hold_out(observed, None, seed=0)
    assert holdout.cut_s is not None
    late, users = observed.times_s > holdout.cut_s, observed.data.users
    assert holdout.split.train.tolist() == (~late).tolist()
    assert not (holdout.split.targets & ~late).any()
    assert 0.1 < late.mean() <= 0.2
    n_before = np.bincount(users[~late], minlength=users.max() + 1)
    assert (n_before[users[holdout.split.targets]] >= 5).all()
    assert "liked after 2026-01-1" in str(holdout)


def test_the_cut_is_where_the_active_versions_data_ended_if_enough_came_since() -> None:
    observed = observed_of(listeners())
    assert hold_out(observed, day(13.5), seed=0).cut_s == day(13.5)
    quantile = hold_out(observed, None, seed=0).cut_s
    assert quantile is not None
    for too_late_or_too_early in (day(15.5), day(400), day(1)):
        assert hold_out(observed, too_late_or_too_early, seed=0).cut_s == quantile


def test_what_nobody_knows_the_instant_of_is_never_asked_for() -> None:
    observed = observed_of(listeners())
    untimed = np.random.default_rng(0).random(len(observed.times_s)) < 0.3
    holdout = hold_out(replace(observed, first_s=np.where(untimed, -np.inf, observed.first_s)), None, seed=0)
    assert holdout.cut_s is not None
    assert holdout.split.targets.any()
    assert not (holdout.split.targets & untimed).any()
    assert holdout.split.train[untimed].all()


def test_what_members_had_before_and_came_back_to_is_never_asked_for() -> None:
    observed = observed_of(listeners())
    early = observed.first_s < day(5)
    holdout = hold_out(replace(observed, times_s=np.where(early, day(16), observed.times_s)), day(13.5), seed=0)
    assert holdout.cut_s == day(13.5)
    assert holdout.split.targets.any()
    assert holdout.split.train[early].all()


@pytest.mark.parametrize("timed", [False, True])
def test_without_instants_a_seeded_share_of_each_list_is_held_out(timed: bool) -> None:
    # All at one instant, as after an import, are no more order than none.
    observed = observed_of([(member, item, 3.0) for member, item, _ in listeners()], timed=timed)
    holdout, again = hold_out(observed, None, seed=1), hold_out(observed, day(2), seed=1)
    assert holdout.cut_s is again.cut_s is None
    assert holdout.split.targets.tolist() == again.split.targets.tolist()
    assert holdout.split.targets.tolist() != hold_out(observed, None, seed=2).split.targets.tolist()
    counts = np.bincount(observed.data.users[holdout.split.targets])
    assert counts.min() >= 1
    assert "a seeded fifth" in str(holdout)


# --- who wins ---


def test_the_first_version_has_nobody_to_be_compared_with() -> None:
    found = compared(observed_of(listeners()), GOOD, None)
    assert found.reason == "no version was in force"
    assert not found.worse_in
    assert found.new["recall"] > 0.3
    assert dict(found.metrics()).keys() == {"holdout_listeners", "holdout_recall", "holdout_ndcg"}


def test_a_better_recipe_wins_and_a_worse_one_loses_with_its_figures() -> None:
    observed = observed_of(listeners())
    better = compared(observed, GOOD, active_by(BLIND, observed))
    assert better.contender == "its recipe, fitted anew"
    assert better.differences["recall"].low > 0
    assert better.reason.startswith("not worse than ")
    worse = compared(observed, BLIND, active_by(GOOD, observed))
    assert worse.worse_in == ["recall", "ndcg"]
    assert worse.reason.startswith(f"worse than {worse.active_version} (its recipe, fitted anew) on ")
    assert f"Recall@20 {worse.new['recall']:.4f} against {worse.active['recall']:.4f}, difference -" in worse.reason
    # The same two, the other way round.
    assert worse.differences["ndcg"].value == pytest.approx(-better.differences["ndcg"].value)
    assert dict(worse.metrics())["holdout_recall_gain_high"] == worse.differences["recall"].high < 0


def test_equal_recipes_are_equal_so_that_newer_data_come_into_force() -> None:
    observed = observed_of(listeners())
    found = compared(observed, GOOD, active_by(GOOD, observed))
    assert found.differences["recall"] == Interval(0.0, 0.0, 0.0)
    assert not found.worse_in


def test_an_active_version_that_has_seen_the_answers_is_not_asked_as_it_is() -> None:
    observed = observed_of(listeners())
    # Fit on everything it would know what is asked for, and beat any honest fit.
    seen = active_by(GOOD, observed)
    split = hold_out(observed, None, seed=0)
    assert split.cut_s is not None
    cheating = Trial(observed, split, seed=0).compare(GOOD, replace(seen, until_s=split.cut_s))
    assert cheating.contender == "as it is stored"
    assert cheating.worse_in
    honest = Trial(observed, split, seed=0).compare(GOOD, seen)
    assert honest.contender == "its recipe, fitted anew"
    assert not honest.worse_in


def test_an_active_version_whose_data_ended_before_the_cut_is_asked_as_it_serves() -> None:
    pairs = listeners()
    early = observed_of([pair for pair in pairs if pair[2] < 12])
    found = compared(observed_of(pairs), GOOD, active_by(GOOD, early))
    assert found.contender == "as it is stored"
    assert not found.worse_in
    blind = compared(observed_of(pairs), BLIND, active_by(GOOD, early))
    assert blind.contender == "as it is stored"
    assert blind.worse_in == ["recall", "ndcg"]


def test_data_that_went_bad_since_the_active_version_count_against_the_new_one() -> None:
    pairs = listeners()
    active = active_by(GOOD, observed_of([pair for pair in pairs if pair[2] < 9]))
    flooded = observed_of([*pairs, *bots(3000, 10.0)])
    found = compared(flooded, GOOD, active)
    assert found.contender == "as it is stored"
    assert found.worse_in


def test_what_is_not_known_of_the_active_version_is_the_default() -> None:
    observed = observed_of(listeners())
    found = compared(observed, BLIND, active_by(GOOD, observed, known=False))
    assert found.contender == "the default recipe with its mixture"
    assert found.worse_in


def test_an_active_version_that_cannot_be_read_gives_way() -> None:
    found = compared(observed_of(listeners()), BLIND, ActiveVersion("spoilt", None))
    assert found.reason == "spoilt, which was in force, cannot be read"
    assert not found.worse_in


def test_listeners_without_instants_are_judged_too() -> None:
    observed = observed_of(listeners(), timed=False)
    found = compared(observed, BLIND, active_by(GOOD, observed))
    assert found.contender == "its recipe, fitted anew"
    assert found.worse_in == ["recall", "ndcg"]
    assert found.held_out.startswith("a seeded fifth")


# --- what members were shown ---


def shown_amiss() -> tuple[list[Pair], Shown]:
    """Likes of days 12 to 16 that came of being shown items of the taste beside one's own; and what was shown."""
    chance, pairs, shown = np.random.default_rng(3), [], {}
    for member in range(240):
        items = [item for item in range(N_ITEMS) if taste_of(item) == (member + 1) % N_TASTES][:12]
        pairs += [(member, item, float(chance.uniform(12, 16))) for item in items]
        shown[member] = [item + 1 for item in items]
    return pairs, shown


def test_likes_of_what_was_shown_do_not_speak_for_the_version_that_showed_it() -> None:
    alone, (because_shown, shown) = listeners(), shown_amiss()
    own = {(member, item) for member, item, _ in alone}
    because_shown = [pair for pair in because_shown if pair[:2] not in own]
    # It lists what it listed before.
    early = [pair for pair in alone if pair[2] < 12]
    bad = active_by(GOOD, observed_of([*early, *because_shown]))
    observed = observed_of([*alone, *because_shown])
    split = hold_out(observed, day(11.5), seed=0)
    active = replace(bad, until_s=day(11.5))
    told: list[str] = []
    flattered = Trial(observed, split, seed=0, tell=told.append).compare(GOOD, active)
    assert flattered.contender == "as it is stored"
    assert flattered.worse_in == ["recall", "ndcg"]
    asked_for: list[int] = []

    def shown_to(member_ids: Sequence[int]) -> Shown:
        asked_for.extend(member_ids)
        return shown

    told.clear()
    found = Trial(observed, split, seed=0, tell=told.append, shown_to=shown_to).compare(GOOD, active)
    assert not found.worse_in
    assert found.differences["recall"].value > flattered.differences["recall"].high
    assert set(asked_for) <= set(shown)
    assert len(asked_for) == flattered.n_listeners >= found.n_listeners >= 50
    n_left_out = re.search(r", but the ([\d,]+) of ([\d,]+) likes of items that had been recommended", found.held_out)
    assert n_left_out
    assert 0 < int(n_left_out[1].replace(",", "")) < int(n_left_out[2].replace(",", ""))
    assert told[0].endswith(f": {found.n_listeners} listeners")


# --- which recipe ---


def nearly(recipe: Recipe) -> Recipe:
    """Of a little more ridge, which changes hardly a list."""
    linear = recipe.parameters.linear
    return replace(recipe, parameters=replace(recipe.parameters, linear=replace(linear, ridge=1.01 * linear.ridge)))


@pytest.mark.parametrize(
    ("chosen", "before", "settled"),
    [(nearly(GOOD), GOOD, GOOD), (BLIND, GOOD, GOOD), (GOOD, BLIND, GOOD), (GOOD, GOOD, GOOD)],
    ids=["as good", "worse", "better", "the same"],
)
def test_a_recipe_that_is_not_better_beyond_noise_does_not_take_the_active_ones_place(
    chosen: Recipe, before: Recipe, settled: Recipe
) -> None:
    observed, told = observed_of(listeners()), list[str]()
    trial = Trial(observed, hold_out(observed, None, seed=0), seed=0, tell=told.append)
    assert trial.settled(chosen, active_by(before, observed)) == settled
    assert [line for line in told if "recipe stays" in line] == (
        [f"the active version's recipe stays: {chosen} is not better beyond noise"] if chosen != settled else []
    )


def test_a_recipe_is_new_where_no_other_is_known_or_serves() -> None:
    observed = observed_of(listeners())
    trial = Trial(observed, hold_out(observed, None, seed=0), seed=0)
    active = active_by(GOOD, observed)
    for nothing_known in (None, replace(active, recipe=None), replace(active, fitted=None)):
        assert trial.settled(BLIND, nothing_known) == BLIND


def test_a_recipe_that_is_liked_for_what_was_shown_alone_is_not_better() -> None:
    alone, (because_shown, shown) = listeners(), shown_amiss()
    own = {(member, item) for member, item, _ in alone}
    observed = observed_of([*alone, *(pair for pair in because_shown if pair[:2] not in own)])
    holdout, told = hold_out(observed, None, seed=0), list[str]()
    trial = Trial(observed, holdout, seed=0, tell=told.append, shown_to=lambda _: shown)
    assert trial.settled(BLIND, active_by(GOOD, observed)) == GOOD
    assert trial.compare(GOOD, active_by(GOOD, observed)).differences["recall"] == Interval(0.0, 0.0, 0.0)
    assert told.count("fitting without what is held out") == 2


def test_where_all_likes_are_of_what_was_shown_they_count() -> None:
    observed = observed_of(listeners())
    everything = {member: list(range(1, N_ITEMS + 1)) for member in range(240)}
    holdout = hold_out(observed, None, seed=0)
    found = Trial(observed, holdout, seed=0, shown_to=lambda _: everything).compare(GOOD, None)
    plain = Trial(observed, holdout, seed=0).compare(GOOD, None)
    assert found.held_out == f"{holdout}, of items that had been recommended too, for too few likes are of others"
    assert (found.new, found.n_listeners) == (plain.new, plain.n_listeners)
    assert plain.held_out == str(holdout)


@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_what_is_passed_over_is_on_no_list_and_no_target_and_all_else_stays(data: st.DataObject) -> None:
    observed = observed_of(listeners(30))
    asked = Asked.of(observed, observed.data, hold_out(observed, None, seed=0).split)
    rows = st.lists(st.integers(0, N_ITEMS - 1), max_size=60, unique=True).map(lambda each: np.array(each, np.int64))
    over = data.draw(st.lists(rows, min_size=asked.targets.n_rows, max_size=asked.targets.n_rows))
    left = asked.passing_over(over)
    for row, items in enumerate(over):
        before, after = (set(each.targets.rows(row, row + 1).items.tolist()) for each in (asked, left))
        assert after == before - set(items.tolist())
    model = GOOD.fitted(observed, seed=0)
    for before_, after_, items in zip(asked.candidates(model), left.candidates(model), over, strict=True):
        assert after_.items.tolist() == [item for item in before_.items.tolist() if item not in items]
        assert len(after_.signals.content) == len(after_.items)


# --- a stored model over the items of today ---


@settings(deadline=None)
@given(
    stored=st.sets(st.integers(1, 30), min_size=2),
    today=st.sets(st.integers(1, 30), min_size=1),
    seed=st.integers(0, 100),
)
def test_a_stored_model_scores_what_it_knows_as_it_does_by_itself(stored: set[int], today: set[int], seed: int) -> None:
    chance = np.random.default_rng(seed)
    model = fitted_of(chance.normal(size=(len(stored), 4)).astype(np.float32), item_ids=sorted(stored))
    ids = np.array(sorted(today), np.int64)
    rows = [chance.choice(len(ids), chance.integers(0, len(ids) + 1), replace=False).tolist() for _ in range(4)]
    scores = AsStored(model, ids).scores(Likes.of(rows))
    places = {item: place for place, item in enumerate(sorted(stored))}
    for row, liked in zip(scores, rows, strict=True):
        known = [places[int(ids[item])] for item in liked if int(ids[item]) in places]
        if not known:
            assert np.isnan(row).all()
            continue
        [own] = model.model.scores(Likes.of([known]))
        for item, score in zip(ids.tolist(), row.tolist(), strict=True):
            assert (
                (score == pytest.approx(own[places[item]], rel=1e-4, abs=1e-4)) if item in places else np.isnan(score)
            )


# --- recipes ---


def test_a_recipe_comes_back_from_the_store_as_it_was() -> None:
    recipe = Recipe(replace(SMALL, weights=(2.5, 1.0), popularity_weight=4.0), 0.3, FusionWeights(content=0.1))
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("text", ["{", '{"strength": "much"}', '{"parameters": {"linear": {"ridges": 3}}}', "null"])
def test_a_recipe_of_another_program_is_none(text: str) -> None:
    assert Recipe.from_json(text) is None
