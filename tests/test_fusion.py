"""One score of several, by properties that any fusion of z-scores must have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fusion import Signals, fuse, standardised, to_share
from core.ports.arrays import Floats
from core.ports.collaborative import FusionWeights

NUMBERS = st.floats(-50, 50, width=16)
ROWS = st.lists(
    st.tuples(NUMBERS, NUMBERS | st.just(float("nan")), st.floats(0, 1, width=16), st.booleans()), max_size=30
)
WEIGHTS = st.builds(
    FusionWeights,
    content=st.floats(0, 3),
    collaborative=st.floats(0, 3),
    popularity=st.floats(0, 3),
    same_creator=st.floats(0, 3),
)  # fmt: skip
CONTENT_ALONE = FusionWeights(content=1, collaborative=0, popularity=0, same_creator=0)


def floats(*numbers: float) -> Floats:
    return np.array(numbers, dtype=np.float32)


def signals_of(rows: list[tuple[float, float, float, bool]]) -> Signals:
    columns = np.array(rows, dtype=np.float32).reshape(len(rows), 4)
    return Signals(
        content=columns[:, 0], collaborative=columns[:, 1], popularity=columns[:, 2], same_creator=columns[:, 3]
    )


@given(ROWS, WEIGHTS, st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_changes_no_score(
    rows: list[tuple[float, float, float, bool]], weights: FusionWeights, chance: object
) -> None:
    order = np.arange(len(rows))
    chance.shuffle(order)  # type: ignore[attr-defined]  # a Random
    permuted = fuse(signals_of([rows[place] for place in order]), weights)
    np.testing.assert_allclose(permuted, fuse(signals_of(rows), weights)[order], atol=1e-4)


@given(ROWS, WEIGHTS)
def test_every_candidate_gets_a_finite_score_between_0_and_1(
    rows: list[tuple[float, float, float, bool]], weights: FusionWeights
) -> None:
    shares = to_share(fuse(signals_of(rows), weights))
    assert shares.shape == (len(rows),)
    assert np.isfinite(shares).all()
    assert ((shares >= 0) & (shares <= 1)).all()


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=30), ROWS)
def test_with_all_other_weights_0_content_alone_decides(
    content: list[int], others: list[tuple[float, float, float, bool]]
) -> None:
    rows = [(float(mine), *rest) for mine, (_, *rest) in zip(content, others, strict=False)]
    fused = fuse(signals_of(rows), CONTENT_ALONE)  # type: ignore[arg-type]  # a row of four
    mine = np.array([row[0] for row in rows])
    np.testing.assert_array_equal(fused[:, None] > fused, mine[:, None] > mine)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=30), st.floats(0.01, 100), st.floats(-100, 100))
def test_neither_unit_nor_offset_of_a_signal_counts(scores: list[int], unit: float, offset: float) -> None:
    plain, other = floats(*scores), floats(*(unit * score + offset for score in scores))
    assert standardised(other).tolist() == pytest.approx(standardised(plain).tolist(), abs=0.02)


def test_an_unknown_score_is_an_average_one() -> None:
    assert standardised(floats(1, float("nan"), 3)).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("scores", [floats(), floats(float("nan")), floats(0.1, 0.1, 0.1), floats(7)])
def test_what_does_not_differ_speaks_for_nobody(scores: Floats) -> None:
    assert standardised(scores).tolist() == [0.0] * len(scores)


def test_weights_say_what_each_signal_is_worth() -> None:
    signals = Signals(
        content=floats(2, 1, 0, 0),
        collaborative=floats(0, 1, 2, 0),
        popularity=floats(0, 0, 0, 1),
        same_creator=floats(0, 0, 0, 0),
    )
    assert np.argmax(fuse(signals, FusionWeights(content=2, collaborative=1, popularity=0))) == 0
    assert np.argmax(fuse(signals, FusionWeights(content=1, collaborative=2, popularity=0))) == 2
    assert np.argmax(fuse(signals, FusionWeights(content=0, collaborative=0, popularity=1))) == 3


def test_a_loved_creator_counts_by_its_weight_however_rare_it_is() -> None:
    n = 1000
    rare = np.zeros(n, dtype=np.float32)
    rare[5] = 1
    signals = Signals(
        content=np.zeros(n, np.float32),
        collaborative=rare * np.nan,
        popularity=np.zeros(n, np.float32),
        same_creator=rare,
    )
    fused = fuse(signals, FusionWeights(content=1, collaborative=0, popularity=0, same_creator=1))
    assert (fused[5], fused[0]) == (0.5, 0)


def test_no_weight_at_all_makes_all_alike() -> None:
    nothing = FusionWeights(content=0, collaborative=0, popularity=0, same_creator=0)
    assert to_share(fuse(signals_of([(1, 2, 0.3, True), (3, 1, 0.2, False)]), nothing)).tolist() == [0.5, 0.5]


def test_the_best_candidates_stay_apart() -> None:
    shares = to_share(floats(0, 3, 4, 5))
    assert shares[0] == 0.5
    assert (np.diff(shares) > 0.004).all()
