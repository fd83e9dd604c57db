"""The methods that ours is measured against, by plain computations; and what weights of a file are worth."""

from collections.abc import Iterator

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from core.collaborative import Likes
from core.splits import Interactions, hold_out_users
from training import baselines
from training.baselines import ALS_GRID, EASE_GRID, KNN_GRID, ImplicitConfig, KnnConfig
from training.collaborative_fit import LinearConfig, Matrix
from training.tuning import DEFAULTS, Validation
from training.validation import interaction_matrix, validation_of
from training.weighing import Weighing, choose_weighing, confidences, weighed, weighed_likes

LIKES = Likes.of([[0], [1, 2], [5, 8, 9], []])


@pytest.fixture(autouse=True)
def _one_blas_thread() -> Iterator[None]:
    """As the commands have it: on matrices this small a second thread only spins."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    """Two crowds with tastes of their own."""
    chance = np.random.default_rng(0)
    same = np.arange(60)[:, None] % 2 == np.arange(20) % 2
    return sp.csr_array((chance.random((60, 20)) < np.where(same, 0.5, 0.05)).astype(np.float32))


def test_ease_is_its_closed_form(matrix: Matrix) -> None:
    dense = matrix.toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + 7 * np.eye(20))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    expected = baselines.matrix_of(LIKES, 20).toarray() @ weights
    assert baselines.ease(matrix, 7.0)(LIKES) == pytest.approx(expected, abs=1e-4)


def test_ease_is_for_catalogues_that_fit_in_memory() -> None:
    with pytest.raises(ValueError, match="at most 20,000 of them, got 20,001"):
        baselines.ease(sp.csr_array((3, 20_001), dtype=np.float32))


@pytest.mark.parametrize("config", [KnnConfig(0.0, 1.0, 1000), KnnConfig(5.0, 0.5, 1000), KnnConfig(1.0, 1.0, 3)])
def test_item_knn_is_its_definition(matrix: Matrix, config: KnnConfig) -> None:
    dense = matrix.toarray().astype(np.float64)
    together, lengths = dense.T @ dense, np.sqrt(dense.sum(0))
    likeness = (together / (np.outer(lengths, lengths) + config.shrinkage)) ** config.power
    np.fill_diagonal(likeness, 0)
    for row in likeness:
        row[row < np.sort(row)[-min(config.n_neighbours, 20)] - 1e-9] = 0
    expected = baselines.matrix_of(LIKES, 20).toarray() @ likeness.T
    assert baselines.item_knn(matrix, config)(LIKES) == pytest.approx(expected, abs=1e-4)


def test_als_tells_the_crowds_apart_and_is_the_same_again(matrix: Matrix) -> None:
    config = ImplicitConfig(factors=4, regularization=1.0)
    scores = baselines.implicit_als(matrix, config)(Likes.of([[0, 2, 4]]))[0]
    assert scores[6::2].min() > scores[1::2].max()
    assert baselines.implicit_als(matrix, config)(Likes.of([[0, 2, 4]]))[0].tolist() == scores.tolist()


def test_popularity_is_the_same_list_for_everybody(matrix: Matrix) -> None:
    scores = baselines.popularity(matrix)(LIKES)
    assert scores.tolist() == [matrix.sum(axis=0).tolist()] * 4


def test_scores_are_fused_on_one_scale(matrix: Matrix) -> None:
    knn = baselines.item_knn(matrix)
    alone, doubled = baselines.fused(knn)(LIKES), baselines.fused(knn, lambda likes: 1000 * knn(likes) + 7)(LIKES)
    assert doubled == pytest.approx(2 * alone, abs=1e-3)


def test_baselines_are_chosen_on_the_validation_alone(matrix: Matrix) -> None:
    fold = Validation(matrix, None, Likes.of([[0, 2], [1, 3]]), Likes.of([[4], [5]]))
    told: list[str] = []
    found = baselines.tuned([fold], 20, tell=told.append)
    assert (found.knn in KNN_GRID, found.als in ALS_GRID, found.ease in EASE_GRID) == (True, True, True)
    grids = (("item-kNN", len(KNN_GRID)), ("ALS", len(ALS_GRID)), ("EASE", len(EASE_GRID)))
    expected = [each for name, n in grids for each in (*(f"{name}, {i} of {n}" for i in range(1, n + 1)), name)]
    assert [line.partition(":")[0] for line in told] == expected
    assert list(baselines.collaborative(matrix, found)) == ["popularity", "item-kNN", "ALS", "EASE"]
    told.clear()
    too_large = baselines.tuned([fold], 20_001, tell=told.append)
    assert too_large.ease is None
    assert told[0] == "EASE: left out, it holds items x items: at most 20,000 of them, got 20,001"
    assert "EASE" not in baselines.collaborative(matrix, too_large)


def test_edlae_without_dropout_and_content_is_ease(matrix: Matrix) -> None:
    config = LinearConfig(ridge=50.0, dropout=0.0, content_weight=0.0)
    assert baselines.edlae(matrix, None, config)(LIKES) == pytest.approx(baselines.ease(matrix, 50.0)(LIKES), abs=1e-5)


# --- weights ---


@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=20), st.floats(0.01, 1))
def test_confidences_are_above_0_about_1_and_grow_with_the_weight(weights: list[float], strength: float) -> None:
    found = confidences(np.zeros(len(weights), np.int64), np.array(weights), strength)
    assert (found > 0).all()
    order = np.argsort(weights)
    assert (np.diff(found[order]) >= -1e-6).all()
    assert found.mean() == pytest.approx(1, abs=0.3)


def test_equal_weights_of_any_unit_are_1() -> None:
    owners = np.array([0, 0, 1, 1, 1])
    assert confidences(owners, np.array([3.0, 3, 5e6, 5e6, 5e6]), 1.0) == pytest.approx([1] * 5)


def data_of(weights: str) -> Interactions:
    chance = np.random.default_rng(0)
    same = np.arange(60)[:, None] % 2 == np.arange(20) % 2
    users, items = np.nonzero(chance.random((60, 20)) < 0.5)
    # with "telling" weights, what fits the crowd was played a hundred times as often
    values = np.where(same[users, items], 100.0, 1.0) if weights == "telling" else np.ones(len(users))
    return Interactions(
        users, items, values, None, [f"u{place}" for place in range(60)], [f"i{place}" for place in range(20)]
    )


def test_matrices_hold_confidences_where_there_are_any() -> None:
    data = data_of("telling")
    assert set(interaction_matrix(data).data.tolist()) == {1}
    matrix = interaction_matrix(weighed(data, 1.0))
    assert matrix[0, matrix.indices[0]] != 1
    assert matrix.sum() == pytest.approx(matrix.nnz, rel=1e-4)


def test_lists_are_weighed_each_by_itself() -> None:
    likes = Likes(np.array([0, 2, 4]), np.array([0, 1, 0, 1]), np.array([1, 9, 100, 900], np.float32))
    found = weighed_likes(likes, 1.0).weights
    assert found[1] > 1 > found[0]
    assert found[3] > 1 > found[2]


def test_the_strength_is_chosen_where_weights_differ_and_counts_a_little_at_least() -> None:
    alike, telling = data_of("alike"), data_of("telling")
    told: list[str] = []
    assert choose_weighing(alike, hold_out_users(alike), None, DEFAULTS, tell=told.append) == Weighing(0.05, 0.05)
    assert not told
    found = choose_weighing(telling, hold_out_users(telling), None, DEFAULTS, tell=told.append)
    assert [line.partition(":")[0] for line in told] == [f"weighing, {n} of 9" for n in range(1, 10)]
    assert min(found.train, found.asked) >= 0.05


def test_a_validation_keeps_the_confidences() -> None:
    data = weighed(data_of("telling"), 1.0)
    fold = validation_of(data, hold_out_users(data), None)
    assert np.ptp(fold.inputs.weights) > 0.1
