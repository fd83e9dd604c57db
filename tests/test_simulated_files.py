"""Simulated data sets: what events come to, the files that ``evaluate`` reads, and whether a fit finds the tastes."""

import csv
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from core.errors import ConfigurationError
from tests.support.small_world import made_up_items, small_world
from training.evaluate import split_of
from training.interaction_files import dataset_files, read_interactions, read_items
from training.simulator.files import INTERACTIONS, ITEMS, positive_pairs, write_interactions, write_items
from training.simulator.happenings import DISLIKE, KINDS, LIKE, PLAY, REPEAT, SKIP, UNLIKE, Happenings
from training.simulator.history import histories
from training.simulator.recovery import BEST, CHANCE, OURS, POPULARITY, Recovery, recovered

START = datetime(2026, 1, 1, tzinfo=UTC)


def told(*events: tuple[int, int, int]) -> Happenings:
    """Of (member, item, kind), a second apart; a play is heard out."""
    members, items, kinds = (np.array(column, np.int64) for column in zip(*events, strict=True))
    seconds, at_s = np.full(len(kinds), 9.0), np.arange(len(kinds)).astype(np.float64)
    return Happenings.in_order(members, items, kinds, seconds, (kinds != SKIP).astype(np.int64), at_s)


def weights_of(found: Happenings) -> dict[tuple[int, int], float]:
    pairs = positive_pairs(found)
    return dict(
        zip(zip(pairs.members.tolist(), pairs.items.tolist(), strict=True), pairs.weights.tolist(), strict=True)
    )


# --- what events come to ---


def test_likes_plays_and_repeats_add_up() -> None:
    found = told((1, 5, PLAY), (1, 5, REPEAT), (1, 5, LIKE), (1, 6, PLAY), (2, 5, PLAY), (2, 5, PLAY), (2, 7, SKIP))
    assert weights_of(found) == pytest.approx({(1, 5): 1.7, (1, 6): 0.2, (2, 5): 0.4})
    thrice = told((1, 5, PLAY), (1, 5, PLAY), (1, 5, PLAY), (1, 5, SKIP), (1, 6, PLAY), (1, 6, SKIP))
    assert weights_of(thrice) == pytest.approx({(1, 5): 0.2 * (1 + np.log2(3)) - 0.2}, abs=1e-3)


def test_the_last_verdict_decides_and_takes_back_what_was_before_it() -> None:
    found = told((1, 5, PLAY), (1, 5, LIKE), (1, 5, UNLIKE), (1, 6, LIKE), (1, 6, DISLIKE), (1, 6, PLAY))
    assert weights_of(found) == {}
    again = told((1, 5, LIKE), (1, 5, UNLIKE), (1, 5, PLAY), (1, 6, DISLIKE), (1, 6, LIKE))
    assert weights_of(again) == pytest.approx({(1, 5): 0.2, (1, 6): 1.0})


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from(range(len(KINDS)))), max_size=30))
def test_pairs_are_what_a_reading_event_by_event_gives(events: list[tuple[int, int, int]]) -> None:
    done: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    disliked: set[tuple[int, int]] = set()
    liked: set[tuple[int, int]] = set()
    for member, item, kind in events:
        pair = (member, item)
        if kind in (UNLIKE, DISLIKE):
            done.pop(pair, None)
            liked.discard(pair)
            disliked.discard(pair)
            disliked |= {pair} if kind == DISLIKE else set()
        elif kind == LIKE:
            disliked.discard(pair)
            liked.add(pair)
        else:
            done[pair][kind] += 1
    strengths = {PLAY: 0.2, REPEAT: 0.5, SKIP: -0.2}
    expected = {
        pair: (pair in liked) + sum(strengths[kind] * (1 + np.log2(n)) for kind, n in done[pair].items())
        for pair in {*done, *liked} - disliked
    }
    kept = {pair: weight for pair, weight in expected.items() if round(weight, 3) > 0}
    assert weights_of(told(*events) if events else told((1, 1, SKIP))) == pytest.approx(kept, abs=1e-3)


# --- files ---


def write_dataset(directory: Path, n_members: int, n_days: int = 30, n_items: int = 300, seed: int = 3) -> Path:
    directory.mkdir(exist_ok=True)
    world = small_world(n_items)
    pasts = histories(world, n_members, n_days, seed)
    write_interactions(directory / INTERACTIONS, (past.happenings for past in pasts), START)
    write_items(directory / ITEMS, made_up_items(n_items))
    return directory


def test_the_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    interactions, items = dataset_files(write_dataset(tmp_path, 100))
    assert items is not None
    data, table = read_interactions(interactions), read_items(items)
    expected = positive_pairs(Happenings.joined(past.happenings for past in histories(small_world(), 100, 30, 3)))
    assert len(data.users) == len(expected.members)
    assert data.weights.sum() == pytest.approx(expected.weights.sum())
    assert data.times_s is not None
    assert data.times_s.min() >= START.timestamp()
    assert [int(each) for each in table.item_ids] == [item.item_id for item in made_up_items()]
    assert set(data.item_ids) <= set(table.item_ids)
    assert set(table.texts) == {"title", "creator", "genres"}
    assert set(table.numbers) == set(made_up_items()[0].features)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    once, again, other = (
        write_dataset(tmp_path / name, 70, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert (once / INTERACTIONS).read_bytes() == (again / INTERACTIONS).read_bytes()
    assert (once / ITEMS).read_bytes() == (again / ITEMS).read_bytes()
    assert (once / INTERACTIONS).read_bytes() != (other / INTERACTIONS).read_bytes()


def test_the_layout_is_that_of_evaluate_and_rank(tmp_path: Path) -> None:
    with (write_dataset(tmp_path, 20) / INTERACTIONS).open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["user_id", "item_id", "weight", "occurred_at"]
    assert all(len(row) == 4 for row in rows)
    assert rows[1][3].startswith("2026-01-")
    assert rows[1][3].endswith("Z")


def test_a_run_that_is_cut_off_leaves_no_file_that_looks_whole(tmp_path: Path) -> None:
    def cut_off() -> object:
        yield next(histories(small_world(), 70, 10, 3)).happenings
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_interactions(tmp_path / INTERACTIONS, cut_off(), START)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# --- the oracle ---


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("simulated"), 300)


def found_by_a_fit(dataset: Path, seed: int) -> Recovery:
    # a second BLAS thread makes small matrices many times slower
    with threadpool_limits(1, user_api="blas"):
        return recovered(dataset, small_world(), simulation_seed=seed, n_days=30)


def test_a_fit_on_simulated_data_finds_the_planted_tastes_where_popularity_cannot(dataset: Path) -> None:
    found = found_by_a_fit(dataset, 3)
    ours, popular, chance, best = (found.means[name] for name in (OURS, POPULARITY, CHANCE, BEST))
    data = read_interactions(dataset / INTERACTIONS)
    assert found.n_listeners == len(np.unique(data.users[split_of(data, "new", 0).targets])) > 40
    assert found.gains[POPULARITY].low > 0.1
    assert found.gains[CHANCE].low > 0.1
    assert ours.value > 1.4 * popular.value
    assert best.value > ours.value > popular.value > chance.value - 0.05
    assert any("collaborative above popularity: +0." in line for line in found)


def test_a_truth_that_was_not_planted_is_not_found(dataset: Path) -> None:
    assert found_by_a_fit(dataset, 4).gains[POPULARITY].low < 0.02


def test_too_little_data_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="too little data"):
        found_by_a_fit(write_dataset(tmp_path, 12, n_days=1), 3)
