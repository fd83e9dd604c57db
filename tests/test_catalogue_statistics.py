"""What is counted of a catalogue, and how it is kept."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.catalogue_statistics import (
    BOUND,
    CatalogueCount,
    CatalogueStatistics,
    Heaviest,
    fit_statistics,
    version_of,
    waves,
)
from core.errors import ConfigurationError
from core.text_features import hashes_of
from models.catalogue import Item

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
contents = st.lists(
    st.builds(
        Item,
        item_id=st.just(0),
        titles=st.dictionaries(st.sampled_from(["en", "ko"]), st.text("ab 가か!", max_size=8), max_size=2),
        creator=st.none() | st.sampled_from(["Ann", "봄"]),
        genres=st.lists(st.sampled_from(["rock", "indie rock", "팝"]), max_size=2).map(tuple),
        features=st.dictionaries(st.sampled_from(["energy", "", "a\nb", "\ud800"]), st.floats(), max_size=3),
    ),
    max_size=12,
).map(lambda items: [replace(item, item_id=number) for number, item in enumerate(items, 1)])


def titled(*titles: str) -> list[Item]:
    return [Item(item_id=number, titles={"en": title}) for number, title in enumerate(titles, 1)]


def rarity(statistics: CatalogueStatistics, *tokens: str) -> list[float]:
    return [float(each) for each in statistics.rarity(hashes_of(tokens))]


# --- fitting ---


@given(contents, st.integers(1, 5))
def test_fitting_in_batches_is_fitting_at_once(items: list[Item], size: int) -> None:
    counting = CatalogueCount()
    for start in range(0, len(items), size):
        counting.add(items[start : start + size])
    assert counting.statistics().to_bytes() == fit_statistics(items).to_bytes()


@given(contents, st.randoms())
def test_the_order_of_the_items_does_not_matter(items: list[Item], chance: object) -> None:
    shuffled = list(items)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fit_statistics(shuffled).version == fit_statistics(items).version


def test_much_is_counted_in_parts_that_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    items = titled(*(f"word{number % 7} and word{number % 3}" for number in range(60)))
    at_once = fit_statistics(items).to_bytes()
    monkeypatch.setattr("core.catalogue_statistics._MERGE_FROM", 10)
    monkeypatch.setattr("core.catalogue_statistics._MAX_SAMPLED", 4)
    counting = CatalogueCount()
    for item in items:
        counting.add([item])
    assert counting.statistics().to_bytes() == at_once


def test_a_word_is_the_rarer_the_fewer_items_have_it_and_nothing_where_one_has() -> None:
    found = rarity(fit_statistics(titled(*["love"] * 8, *["love you"] * 4, "love you rarely")), "love", "you", "rarely")
    assert found[0] == pytest.approx(0)
    assert 0.3 < found[1] < 1
    assert found[2] == 0


def test_a_word_that_nobody_had_counts_nothing_after_a_fit_and_much_without() -> None:
    fitted, plain = fit_statistics(titled(*["love"] * 5)), CatalogueStatistics.plain(frequent_words=["remix"])
    assert rarity(fitted, "zyx") == [0]
    assert rarity(plain, "zyx")[0] > 4 * rarity(plain, "remix")[0] > 0


def test_of_very_many_words_those_that_most_items_have_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.catalogue_statistics._MAX_TOKENS", 4)
    statistics = fit_statistics(titled(*["ab cd"] * 9, *["ef"] * 2, *["zz"] * 3))
    found = rarity(statistics, "ab", "cd", "ef")
    assert found[0] > 0
    assert found[1] > 0
    assert found[2] == 0


def test_scores_follow_ranks_and_equal_values_share_theirs() -> None:
    items = [Item(item_id=n, titles={}, features={"x": float(max(n, 50)) ** 3}) for n in range(100)]
    feature = fit_statistics(items).features["x"]
    scores = feature.scores_of(np.array([50.0**3, 60.0**3, 99.0**3, 1e300, -1e300]))
    # Half of the items and one more are tied at the lowest value.
    assert scores[0] == pytest.approx(-0.66, abs=0.02)
    assert scores[0] == scores[4] < scores[1] < scores[2] == scores[3] <= BOUND


@given(st.lists(finite, min_size=1, max_size=40))
def test_a_greater_number_has_no_lower_score(values: list[float]) -> None:
    items = [Item(item_id=n, titles={}, features={"x": value}) for n, value in enumerate(values)]
    scores = fit_statistics(items).features["x"].scores_of(np.sort(np.array(values)))
    assert all(one <= other for one, other in pairwise(scores.tolist()))
    assert np.all(np.abs(scores) <= BOUND)


def test_inner_products_of_waves_fall_linearly_with_the_distance_of_scores() -> None:
    scores = np.linspace(-BOUND, BOUND, 41)
    weights = np.repeat(1 / np.array([1.0, 9.0, 25.0]), 2) * 8 / np.pi**2
    products = waves(scores) * weights @ waves(scores).T
    expected = 1 - 2 * np.abs(scores[:, None] - scores) / (2 * BOUND)
    assert np.max(np.abs(products - expected)) < 0.08


def test_a_sample_stands_for_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.catalogue_statistics._MAX_SAMPLED", 500)
    items = [Item(item_id=n, titles={}, features={"x": float(n)}) for n in range(3000)]
    counting = CatalogueCount()
    for start in range(0, 3000, 100):
        counting.add(items[start : start + 100])
    feature = counting.statistics().features["x"]
    assert feature.share == 1
    assert feature.scores_of(np.array([1500.0]))[0] == pytest.approx(0, abs=0.15)


def test_weights_of_features_are_those_that_were_given() -> None:
    items = [Item(item_id=1, titles={}, features={"x": 1.0, "y": 2.0})]
    features = fit_statistics(items, feature_weights={"x": 0.5, "absent": 3.0}).features
    assert {name: feature.weight for name, feature in features.items()} == {"x": 0.5, "y": 1.0}


@pytest.mark.parametrize(
    ("n_items", "is_outgrown"), [(50, False), (100, False), (200, False), (201, True), (49, True), (0, True)]
)
def test_a_catalogue_that_has_doubled_or_halved_has_outgrown_them(n_items: int, is_outgrown: bool) -> None:
    assert fit_statistics(titled(*["a"] * 100)).is_outgrown(n_items) == is_outgrown


# --- bytes ---


def assert_equal(one: CatalogueStatistics, other: CatalogueStatistics) -> None:
    assert one.to_bytes() == other.to_bytes()
    assert one.features.keys() == other.features.keys()
    assert (one.n_items, one.salt, one.count_of_unknown, one.is_fitted, one.tag_square) == (
        other.n_items,
        other.salt,
        other.count_of_unknown,
        other.is_fitted,
        other.tag_square,
    )
    np.testing.assert_array_equal(one.counts, other.counts)
    for name in Heaviest.__slots__:
        np.testing.assert_array_equal(getattr(one.heaviest, name), getattr(other.heaviest, name))
    for name, feature in one.features.items():
        np.testing.assert_array_equal(feature.knots, other.features[name].knots)
        np.testing.assert_array_equal(feature.means, other.features[name].means)
        assert (feature.share, feature.weight, feature.plane) == (
            other.features[name].share,
            other.features[name].weight,
            other.features[name].plane,
        )


@given(contents, st.integers(0, 2**60))
def test_what_was_written_is_read(items: list[Item], salt: int) -> None:
    statistics = replace(fit_statistics(items), salt=salt)
    read = CatalogueStatistics.from_bytes(statistics.to_bytes())
    assert_equal(read, statistics)
    assert read.version == statistics.version == version_of(statistics.to_bytes())


def test_plain_statistics_can_be_written_too() -> None:
    plain = CatalogueStatistics.plain()
    assert_equal(CatalogueStatistics.from_bytes(plain.to_bytes()), plain)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(ConfigurationError, match="embed --refit"):
        CatalogueStatistics.from_bytes(payload)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.97])
def test_statistics_that_were_cut_off_are_refused(place: float) -> None:
    payload = fit_statistics(titled("one two", "two three")).to_bytes()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        CatalogueStatistics.from_bytes(payload[: int(len(payload) * place)])


def test_parts_that_do_not_fit_together_are_refused() -> None:
    statistics = fit_statistics(titled("one two", "two three", "three one"))
    for broken in (
        replace(statistics, counts=statistics.counts[1:]),
        replace(statistics, hashes=statistics.hashes[::-1].copy()),
        replace(statistics, heaviest=replace(statistics.heaviest, is_tag=np.zeros(0, np.bool_))),
        replace(statistics, n_items=-1),
    ):
        with pytest.raises(ConfigurationError, match="fit together"):
            CatalogueStatistics.from_bytes(broken.to_bytes())
