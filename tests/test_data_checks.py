"""Figures of data, the index of their drift, and the rules that are applied to them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data_checks import RULES, CheckReport, Finding, Limits, check
from core.data_figures import (
    DataFigures,
    ItemCount,
    Spread,
    drift_of_numbers,
    drift_of_shares,
    with_interactions,
)

RANGES = {"energy": (0.0, 1.0), "tempo": (0.0, 400.0)}
NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=200)


def counted(
    n: int = 1000,
    *,
    seed: int = 0,
    energy: float = 0.5,
    genres: Sequence[str] = ("pop", "rock"),
    before: DataFigures | None = None,
    features: Mapping[str, float] | None = None,
) -> DataFigures:
    """Of ``n`` items whose energy lies about ``energy``."""
    chance, count = np.random.default_rng(seed), ItemCount(RANGES)
    for place in range(n):
        own = {"energy": float(np.clip(chance.normal(energy, 0.1), 0, 1)), "tempo": float(chance.uniform(60, 180))}
        count.add({**own, **(features or {})}, [genres[place % len(genres)]], f"song {place}")
    return count.figures(before)


def found(report: CheckReport, rule: str, subject: str | None = None) -> Finding:
    [finding] = [each for each in report.findings if each.rule == rule and subject in (None, each.subject)]
    return finding


# --- spreads and drift ---


@given(NUMBERS)
def test_a_spread_holds_every_number_once(numbers: list[float]) -> None:
    spread = Spread.of(np.array(numbers))
    assert sum(spread.shares) == pytest.approx(1)
    assert len(spread.shares) == len(spread.edges) + 1 <= 10
    assert list(spread.edges) == sorted(set(spread.edges))
    assert (spread.n, spread.low, spread.high) == (len(numbers), min(numbers), max(numbers))


@given(NUMBERS, st.randoms())
def test_the_same_numbers_in_any_order_have_not_drifted(numbers: list[float], chance: Random) -> None:
    spread = Spread.of(np.array(numbers))
    chance.shuffle(numbers)
    assert drift_of_numbers(np.array(numbers), spread) == pytest.approx(0, abs=1e-12)


@given(NUMBERS, NUMBERS)
def test_drift_is_never_negative(now: list[float], before: list[float]) -> None:
    assert drift_of_numbers(np.array(now), Spread.of(np.array(before))) >= -1e-12


def test_the_index_is_that_of_the_book() -> None:
    # Two bins of 0.5 each become 0.8 and 0.2: 0.3 ln 1.6 + 0.3 ln 2.5
    before = Spread.of(np.array([0.0, 1.0] * 50), [0.5])
    now = np.array([0.0] * 80 + [1.0] * 20)
    assert drift_of_numbers(now, before) == pytest.approx(0.3 * math.log(1.6) + 0.3 * math.log(2.5))
    shares = {"a": 0.5, "b": 0.5}
    assert drift_of_shares({"a": 0.8, "b": 0.2}, shares) == pytest.approx(0.3 * math.log(1.6) + 0.3 * math.log(2.5))


def test_drift_grows_with_the_shift_and_a_larger_sample_of_the_same_has_none() -> None:
    chance = np.random.default_rng(0)
    before = Spread.of(chance.normal(size=20_000))
    shifts = [drift_of_numbers(chance.normal(shift, 1, 20_000), before) for shift in (0, 0.2, 0.5, 1)]
    assert shifts == sorted(shifts)
    assert shifts[0] < 0.01
    assert shifts[3] > 0.25


def test_a_frequent_value_does_not_break_the_bins() -> None:
    values = np.array([0.0] * 60 + list(np.linspace(0.1, 1, 40)))
    spread = Spread.of(values)
    assert spread.edges[0] == 0.0
    assert spread.shares[0] == pytest.approx(0.6)
    assert drift_of_numbers(np.array([0.0] * 30 + list(np.linspace(0.1, 1, 70))), spread) > 0.25


def test_names_that_were_not_there_count_with_the_others() -> None:
    assert drift_of_shares({"k-pop": 1.0}, {"pop": 1.0}) > 5
    many = {f"genre {n}": 0.02 for n in range(30)}
    assert drift_of_shares({**many, "": 0.4}, {**many, "": 0.4}) == pytest.approx(0)
    assert drift_of_shares({}, {"pop": 1.0}) == 0.0


def test_rare_genres_are_counted_together() -> None:
    count = ItemCount({})
    for n in range(100):
        count.add({}, [f"Genre {n % 50}"], str(n))
    genres = count.figures().genres
    assert len(genres) == 31
    assert genres[""] == pytest.approx(0.4)
    assert "genre 0" in genres


def test_figures_come_back_from_json_as_they_were() -> None:
    figures = with_interactions(counted(), np.array([1, 1, 2]), np.array([1.0, 0.5, 2.0]))
    figures = replace(figures, bad_rows={"tempo is not a number": 3}, n_rows=9, drift={"energy": 0.1})
    assert DataFigures.from_json(figures.to_json()) == figures


@pytest.mark.parametrize("text", ["{}", "null", "[", '{"features": {"a": {}}}', '{"features": {}, "else": 1}', "7"])
def test_figures_of_another_program_are_none(text: str) -> None:
    assert DataFigures.from_json(text) is None


# --- rules ---


def test_data_as_they_should_be_pass_every_rule() -> None:
    before = with_interactions(counted(seed=1), np.arange(900) % 90, np.ones(900))
    now = with_interactions(counted(seed=2, before=before), np.arange(950) % 95, np.ones(950), before)
    report = check(replace(now, n_rows=1000, n_signs=900), Limits(), before)
    assert {each.outcome for each in report.findings} == {"passed"}
    assert {each.rule for each in report.findings} == {rule.name for rule in RULES}
    assert report.problem is None
    assert report.compared


def test_bad_rows_beyond_their_share_fail() -> None:
    rows = DataFigures(n_rows=100, bad_rows={"a": 3, "b": 2})
    assert found(check(rows, Limits(bad_rows=0.05)), "schema").outcome == "passed"
    report = check(replace(rows, bad_rows={"a": 3, "b": 3}), Limits(bad_rows=0.05))
    assert found(report, "schema").outcome == "failed"
    assert report.problem == "a check of the data failed: schema, all rows: 0.06 is above 0.05 (bad rows of the file)"


def test_rows_that_contradict_fail_and_rows_that_repeat_warn() -> None:
    report = check(DataFigures(n_rows=100, n_conflicting=10, n_repeated=50, n_several=50), Limits())
    assert found(report, "conflicts").outcome == "failed"
    assert found(report, "duplicates").outcome == "warned"
    assert [each.rule for each in report.failed] == ["conflicts"]


def test_numbers_beyond_their_range_fail_and_those_on_its_edge_do_not() -> None:
    on_edge, beyond = ItemCount(RANGES), ItemCount(RANGES)
    for place in range(100):
        on_edge.add({"energy": float(place % 2), "tempo": 400.0 * (place % 2)}, [], str(place))
        # Twelve of a hundred, one of them no number at all; nothing is said of a feature without a range.
        odd = math.nan if place == 0 else 1.5 if place < 12 else 0.5
        beyond.add({"energy": odd, "liveness": 1e9 + place}, [], str(place))
    assert found(check(on_edge.figures(), Limits()), "ranges", "energy").figure == 0
    report = check(beyond.figures(), Limits())
    assert found(report, "ranges", "energy").figure == pytest.approx(0.12)
    assert found(report, "ranges", "energy").outcome == "failed"
    assert found(report, "ranges", "liveness").figure == 0


def test_a_feature_that_many_lack_fails_and_so_does_one_that_is_gone() -> None:
    count = ItemCount(RANGES)
    for place in range(100):
        count.add({"tempo": 100.0 + place} if place < 40 else {}, [], str(place))
    report = check(count.figures(), Limits(missing=0.5), counted())
    assert found(report, "missing", "tempo").figure == pytest.approx(0.6)
    assert found(report, "missing", "energy").figure == 1.0
    assert {each.subject for each in report.failed} == {"tempo", "energy"}
    assert not check(count.figures(), Limits(missing=0.7)).failed


def test_a_constant_feature_warns_where_there_are_enough_to_tell() -> None:
    assert found(check(counted(50, features={"liveness": 0.3}), Limits()), "constant", "liveness").outcome == "warned"
    few = check(counted(10, features={"liveness": 0.3}), Limits())
    assert [each for each in few.findings if each.rule == "constant"] == []


def test_items_that_look_alike_warn() -> None:
    count = ItemCount({})
    for place in range(100):
        count.add({}, [], f"Song {place % 60}".upper() if place % 2 else f"Song {place % 60}")
    finding = found(check(count.figures(), Limits()), "lookalikes")
    assert finding.figure == pytest.approx(0.4)
    assert finding.outcome == "warned"


def test_orphaned_interactions_beyond_their_share_fail() -> None:
    assert found(check(DataFigures(n_signs=100, n_orphaned=30), Limits(orphaned=0.2)), "orphans").outcome == "failed"
    assert not check(DataFigures(n_signs=100, n_orphaned=20), Limits(orphaned=0.2)).failed
    assert check(DataFigures(), Limits()).findings == ()


@pytest.mark.parametrize(
    ("changed", "subject"),
    [({"energy": 0.8}, "energy"), ({"genres": ("pop", "trot", "enka")}, "genres")],
)
def test_data_that_drifted_fail_by_name(changed: Mapping[str, object], subject: str) -> None:
    before = counted()
    now = counted(seed=3, before=before, **changed)  # type: ignore[arg-type] # one of several keywords
    report = check(now, Limits(drift=0.25), before)
    assert [(each.rule, each.subject) for each in report.failed] == [("drift", subject)]
    assert check(now, Limits(drift=0), before).failed == []


def test_what_members_do_may_drift_too() -> None:
    before = with_interactions(counted(), np.arange(1000) % 100, np.ones(1000))
    lists = with_interactions(counted(before=before), np.arange(4000) % 100, np.ones(4000), before)
    weights = with_interactions(counted(before=before), np.arange(1000) % 100, 0.5 + np.arange(1000.0) % 7, before)
    for now, subject in ((lists, "interactions of a member"), (weights, "weights of interactions")):
        assert [each.subject for each in check(now, Limits(), before).failed] == [subject]


def test_a_report_is_a_document_too() -> None:
    document = check(DataFigures(n_rows=10, bad_rows={"a": 10}), Limits()).document()
    assert json.loads(json.dumps(document)) == document
    assert document["passed"] is False
    assert document["compared_with_last_version"] is False
