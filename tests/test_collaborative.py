"""The collaborative models: right by a slow, plain computation, and the same for a listener alone or in a batch."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from core.collaborative import (
    Block,
    CollaborativeModel,
    Likes,
    LinearBlock,
    Ridge,
    as_arrays,
    block_of,
    principal_axes,
    rounded,
    solve_rows,
    top_items,
)
from core.errors import ConfigurationError
from training.collaborative_fit import (
    FactorConfig,
    LinearConfig,
    LinearRegression,
    Matrix,
    content_rows,
    fit_factors,
    fit_linear,
    likes_of,
    with_content,
)

N_ITEMS = 30


def checkerboard(n: int = 30) -> Matrix:
    """Users of even number like even items, the others odd ones, each but its own."""
    places = np.arange(n)
    same = (places[:, None] + places) % 2 == 0
    np.fill_diagonal(same, val=False)
    return sp.csr_array(same.astype(np.float32))


def at_random(n_users: int, n_items: int, density: float = 0.2, seed: int = 0) -> Matrix:
    return sp.csr_array((np.random.default_rng(seed).random((n_users, n_items)) < density).astype(np.float32))


def model_of(matrix: Matrix) -> CollaborativeModel:
    blocks: list[Block] = [
        fit_linear(matrix, None, LinearConfig(ridge=1.0, rank=8)),
        fit_factors(matrix, FactorConfig(8, Ridge(0.1, 0.01))),
    ]
    return CollaborativeModel(blocks, (1.0, 1.0), np.asarray(matrix.sum(0), np.float64))


# --- likes ---


def test_an_item_that_a_list_repeats_counts_once() -> None:
    likes = Likes.of([[3, 1, 3], [], [2]])
    assert likes.items.tolist() == [3, 1, 2]
    assert likes.counts.tolist() == [2, 0, 1]


def test_a_part_of_the_lists_is_the_same_lists() -> None:
    part = Likes.of([[1], [2, 3], [], [4]]).rows(1, 3)
    assert (part.n_rows, part.items.tolist(), part.counts.tolist()) == (2, [2, 3], [2, 0])


# --- least squares ---


@settings(deadline=None, max_examples=40)
@given(
    lists=st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=20, unique=True), min_size=1, max_size=12),
    dim=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_every_list_gets_what_its_own_normal_equations_say(lists: list[list[int]], dim: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    vectors, spectrum, _ = principal_axes(chance.normal(size=(N_ITEMS, dim)).astype(np.float32))
    ridge = Ridge(0.1, 0.05, 0.7)
    solved = solve_rows(Likes.of(lists), vectors, spectrum, ridge)
    for liked, found in zip(lists, solved, strict=True):
        chosen = vectors[liked].astype(np.float64)
        penalty = 0.05 * (len(liked) + 0.1 * N_ITEMS) ** 0.7
        left = 0.1 * vectors.T @ vectors + chosen.T @ chosen + penalty * np.eye(dim)
        assert found == pytest.approx(np.linalg.solve(left, chosen.sum(0)), abs=1e-3)


def test_a_like_of_weight_two_is_two_likes_of_the_same_item() -> None:
    vectors, spectrum, _ = principal_axes(np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32))
    heavy = Likes(np.array([0, 2]), np.array([1, 4]), np.array([2, 1], np.float32))
    ridge = Ridge(0.1, 0.2, 0.0)
    left = 0.1 * np.diag(spectrum) + 0.2 * np.eye(3)
    left = left + sum(w * np.outer(vectors[i], vectors[i]) for i, w in ((1, 2), (4, 1)))
    expected = np.linalg.solve(left, 2 * vectors[1] + vectors[4])
    assert solve_rows(heavy, vectors, spectrum, ridge)[0] == pytest.approx(expected, abs=1e-4)


def test_turning_to_the_principal_axes_changes_no_inner_product() -> None:
    vectors = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    turned, spectrum, _ = principal_axes(vectors)
    assert turned @ turned.T == pytest.approx(vectors @ vectors.T, abs=1e-4)
    assert turned.T @ turned == pytest.approx(np.diag(spectrum), abs=1e-4)


# --- the linear model ---


@pytest.mark.parametrize("shape", [(12, 25), (60, 25)], ids=["fewer rows than items", "more rows than items"])
def test_the_regression_is_edlae_as_the_paper_writes_it(shape: tuple[int, int]) -> None:
    matrix, config = at_random(*shape), LinearConfig(ridge=3.0, dropout=0.5)
    dense = matrix.toarray().astype(np.float64)
    gram = dense.T @ dense
    inverse = np.linalg.inv(gram + np.diag(3.0 + 0.5 * np.diag(gram)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    found = LinearRegression.of(matrix, config).scores(np.eye(shape[1], dtype=np.float32))
    assert found == pytest.approx(weights, abs=1e-4)


def test_at_full_rank_nothing_of_the_regression_is_lost() -> None:
    matrix, config = at_random(40, 20), LinearConfig(ridge=2.0, rank=20)
    block = fit_linear(matrix, None, config)
    exact = LinearRegression.of(matrix, config).scores(matrix.toarray())
    assert block.fold_in(likes_of(matrix)) @ block.vectors.T == pytest.approx(exact, abs=0.01)


def test_beyond_the_limit_of_the_dense_block_only_popular_items_are_modelled() -> None:
    matrix = at_random(40, 20)
    popular = np.argsort(-np.asarray(matrix.sum(0)), kind="stable")[:10]
    block = fit_linear(matrix, None, LinearConfig(ridge=2.0, rank=10), dense_limit=10)
    assert set(np.flatnonzero(np.abs(block.vectors).sum(1))) <= set(popular.tolist())
    assert block.vectors.shape[0] == 20


def test_content_alone_leads_from_a_like_to_an_item_that_nobody_has() -> None:
    matrix = sp.csr_array(np.array([[1, 0, 0, 0], [0, 1, 0, 0]], np.float32))
    content = sp.csr_array(np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32))
    block = fit_linear(matrix, content, LinearConfig(ridge=0.5, rank=4))
    scores = (block.fold_in(Likes.of([[0]])) @ block.vectors.T)[0]
    assert scores[2] > scores[3]


def test_content_is_unit_rows_without_what_too_few_items_have() -> None:
    rows = content_rows(sp.csr_array(np.array([[1, 0, 5], [2, 0, 0], [1, 1, 0], [0, 0, 0]], np.float32)))
    assert rows.shape == (4, 1)
    assert rows.toarray().ravel().tolist() == pytest.approx([1, 1, 1, 0])
    assert with_content(at_random(3, 4), rows, 2.0).shape == (4, 4)


# --- the factor model ---


def test_a_checkerboard_is_completed() -> None:
    block = fit_factors(checkerboard(), FactorConfig(6, Ridge(0.1, 0.01)))
    scores = block.fold_in(Likes.of([[0, 2, 4], [1, 3, 5]])) @ block.vectors.T
    even = np.arange(30) % 2 == 0
    assert scores[0][even].min() > scores[0][~even].max()
    assert scores[1][~even].min() > scores[1][even].max()


def test_content_places_an_item_that_nobody_has_beside_those_like_it() -> None:
    matrix = checkerboard().tolil()
    matrix[:, 29] = 0
    content = sp.csr_array(np.eye(2, dtype=np.float32)[np.arange(30) % 2])
    config = FactorConfig(6, Ridge(0.1, 0.01), content_weight=1.0)
    block = fit_factors(sp.csr_array(matrix), config, content=content)
    scores = (block.fold_in(Likes.of([[29]])) @ block.vectors.T)[0]
    assert scores[1:29:2].min() > scores[0:29:2].max()


def test_the_same_seed_gives_the_same_block() -> None:
    first, second = (fit_factors(at_random(30, 20), FactorConfig(4, Ridge(0.1, 0.01)), seed=3) for _ in range(2))
    assert np.array_equal(first.vectors, second.vectors)


# --- the model ---


def test_a_batch_changes_nobodys_list() -> None:
    model, likes = model_of(at_random(60, N_ITEMS)), Likes.of([[1, 2], [], [5], list(range(20))])
    together, _ = model.top(likes, 7)
    alone = [model.top(likes.rows(row, row + 1), 7)[0][0].tolist() for row in range(4)]
    assert together.tolist() == alone


def test_scores_are_the_sum_of_z_scores_up_to_a_constant_of_the_listener() -> None:
    matrix = at_random(60, N_ITEMS)
    blocks: list[Block] = [
        fit_linear(matrix, None, LinearConfig(ridge=1.0, rank=8)),
        fit_factors(matrix, FactorConfig(8, Ridge(0.1, 0.01))),
    ]
    model = CollaborativeModel(blocks, (2.0, 1.0), np.asarray(matrix.sum(0), np.float64), popularity_weight=0.0)
    likes, expected = Likes.of([[1, 2, 9]]), np.zeros(N_ITEMS)
    for block, weight in zip(blocks, (2.0, 1.0), strict=True):
        scores = (block.fold_in(likes) @ block.vectors.T)[0].astype(np.float64)
        expected += weight * (scores - scores.mean()) / scores.std()
    found = model.scores(likes)[0]
    assert found - found.mean() == pytest.approx(expected - expected.mean(), abs=1e-3)


def test_nothing_liked_means_the_popular() -> None:
    matrix = at_random(60, N_ITEMS)
    counts = np.asarray(matrix.sum(0))
    top, _ = model_of(matrix).top(Likes.of([[]]), 5)
    assert counts[top[0]].tolist() == sorted(counts.tolist(), reverse=True)[:5]


def test_what_is_liked_is_not_recommended_and_all_else_may_be() -> None:
    top, scores = model_of(at_random(60, N_ITEMS)).top(Likes.of([range(25)]), N_ITEMS)
    finite = top[0][np.isfinite(scores[0])]
    assert sorted(finite.tolist()) == list(range(25, N_ITEMS))


def test_blocks_need_as_many_weights() -> None:
    block = LinearBlock.of(np.ones((2, 1), np.float32), np.ones((2, 1), np.float32))
    with pytest.raises(ValueError, match="1 blocks need as many weights, got 2"):
        CollaborativeModel([block], (1.0, 1.0), np.ones(2))


def test_every_vector_is_in_memory_once() -> None:
    model = model_of(at_random(60, N_ITEMS))
    assert all(np.shares_memory(block.vectors, model.item_vectors) for block in model.blocks)
    linear = model.blocks[0]
    assert isinstance(linear, LinearBlock)
    assert model.item_vectors.nbytes + linear.inputs.nbytes < model.nbytes


# --- as bytes ---


@settings(deadline=None)
@given(seed=st.integers(0, 99), scale=st.sampled_from([1e-6, 1.0, 1e4]))
def test_eight_bits_of_an_input_are_within_half_a_step_of_it(seed: int, scale: float) -> None:
    inputs = np.random.default_rng(seed).normal(scale=scale, size=(8, 5)).astype(np.float32)
    inputs[3] = 0
    folded = LinearBlock.of(np.zeros((8, 5), np.float32), inputs).fold_in(Likes.of([[item] for item in range(8)]))
    steps = np.abs(inputs).max(axis=1, keepdims=True) / 127
    assert (np.abs(folded - inputs) <= steps * 0.501).all()


def test_a_block_of_unknown_kind_is_refused() -> None:
    arrays = {**as_arrays(model_of(at_random(60, N_ITEMS)).blocks[0]), "kind": np.array("oracle")}
    with pytest.raises(ConfigurationError, match="oracle"):
        block_of(arrays)


def test_a_model_comes_back_from_bytes_the_same_to_the_last_bit() -> None:
    model = model_of(at_random(60, N_ITEMS))
    model = CollaborativeModel([rounded(block) for block in model.blocks], (1.0, 1.0), model.popularity)
    again, likes = CollaborativeModel.from_bytes(model.to_bytes()), Likes.of([[1, 3], [], [4]])
    assert np.array_equal(again.scores(likes), model.scores(likes))
    assert np.array_equal(again.popularity, model.popularity)
    assert again.to_bytes() == model.to_bytes()


@settings(deadline=None)
@given(scale=st.sampled_from([1e-9, 1e-4, 1.0, 1e6]), seed=st.integers(0, 99))
def test_sixteen_bits_keep_three_digits_of_columns_of_any_size(scale: float, seed: int) -> None:
    values = (np.random.default_rng(seed).normal(scale=scale, size=(20, 3)) * [1, 1e-3, 0]).astype(np.float32)
    block = rounded(LinearBlock.of(values, np.ones_like(values)))
    assert np.abs(block.vectors - values).max(0) == pytest.approx(np.zeros(3), abs=5e-4 * scale * 4)
    assert np.array_equal(rounded(block).vectors, block.vectors)


@pytest.mark.parametrize("payload", [b"", b"no archive", b"PK\x03\x04"])
def test_what_is_no_model_is_refused_with_a_sentence(payload: bytes) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        CollaborativeModel.from_bytes(payload)


def test_a_model_cut_short_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="fit it again"):
        CollaborativeModel.from_bytes(model_of(at_random(60, N_ITEMS)).to_bytes()[:-200])


# --- the best of a row ---


@settings(deadline=None)
@given(
    scores=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    popularity=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    n=st.integers(0, 14),
)
def test_equal_scores_go_to_the_more_popular_then_to_the_first(
    scores: list[int], popularity: list[int], n: int
) -> None:
    top, _ = top_items(np.array([scores], np.float32), Likes.of([[]]), np.array(popularity[: len(scores)], float), n)
    expected = sorted(range(len(scores)), key=lambda item: (-scores[item], -popularity[item], item))
    assert top[0].tolist() == expected[:n]
