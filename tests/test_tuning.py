"""Choosing parameters: the whole fusion is judged, luck is not taken for gain, and time is kept."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from core.collaborative import FactorBlock, Likes, LinearBlock
from core.splits import Interactions, hold_out_per_user, hold_out_users
from training import tuning
from training import validation as validation_module
from training.collaborative_fit import FactorConfig, Matrix, content_rows
from training.tuning import DEFAULTS, Parameters, Validation, first_likes, fit, popularity_of, tune
from training.validation import interaction_matrix, listeners_of, validation_of

N_ITEMS, N_KINDS = 60, 4


def small() -> Parameters:
    """The defaults, at a size that fits in no time."""
    return replace(
        DEFAULTS,
        linear=replace(DEFAULTS.linear, rank=12, ridge=5.0),
        factors=tuple(replace(config, dim=8, n_iterations=3) for config in DEFAULTS.factors),
    )


def listeners_of_kinds(n_users: int = 80, seed: int = 0) -> Interactions:
    """Every user likes ten items of one kind and two of any."""
    chance, users, items = np.random.default_rng(seed), [], []
    for user in range(n_users):
        own = np.arange(user % N_KINDS, N_ITEMS, N_KINDS)
        liked = {*chance.choice(own, 10, replace=False).tolist(), *chance.choice(N_ITEMS, 2).tolist()}
        users += [user] * len(liked)
        items += sorted(liked)
    ids = [str(user) for user in range(n_users)], [str(item) for item in range(N_ITEMS)]
    return Interactions(np.array(users), np.array(items), np.ones(len(users)), None, *ids)


def kinds_as_content() -> Matrix:
    kinds = np.arange(N_ITEMS) % N_KINDS
    return content_rows(sp.csr_array((np.ones(N_ITEMS, np.float32), (np.arange(N_ITEMS), kinds))))


def validation(content: Matrix | None = None, seed: int = 0) -> Validation:
    data = listeners_of_kinds(seed=seed)
    return validation_of(data, hold_out_users(data, seed=seed), content)


@pytest.fixture(autouse=True)
def _small_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "DEFAULTS", small())


def test_the_same_folds_and_seed_choose_the_same() -> None:
    folds = [validation(seed=1), validation(seed=2)]
    assert tune(folds, seed=3) == tune(folds, seed=3)


def test_without_time_only_what_costs_no_fit_is_chosen() -> None:
    told: list[str] = []
    chosen = tune([validation()], budget_s=-1.0, tell=told.append)
    assert chosen.configs == small().configs
    assert any("the time is over" in line for line in told)


def test_a_fit_under_way_when_the_time_ends_is_the_last() -> None:
    told: list[str] = []
    tune([validation()], budget_s=10.0, clock=lambda: 99.0 if len(told) > 1 else float(len(told)), tell=told.append)
    fitted = {line.partition("Parameters")[2].split(", weights")[0] for line in told if "Parameters" in line}
    assert len(fitted) == 2
    assert told[0].startswith("choosing parameters, 0 of 10 s: Parameters")
    assert told[-1].startswith("choosing parameters, 10 of 10 s: ")


def test_without_content_its_weight_is_not_gone_through() -> None:
    chosen = tune([validation()])
    assert chosen.linear.content_weight == small().linear.content_weight
    assert [config.content_weight for config in chosen.factors] == [c.content_weight for c in small().factors]


def test_nobody_to_judge_by_leaves_the_defaults() -> None:
    nobody = replace(validation(), inputs=Likes.of([]), targets=Likes.of([]))
    assert tune([nobody]) == small()
    assert tune([]) == small()


def tried(figures: list[float]) -> tuning._Tried:
    return tuning._Tried(small(), [], np.array(figures))


def test_a_gain_within_two_standard_errors_is_luck() -> None:
    before = tried([0.0, 0.0, 0.0, 0.0])
    assert not tried([1.0, -0.5, 1.0, -0.5]).is_better_than(before)
    assert tried([0.1, 0.2, 0.1, 0.2]).is_better_than(before)
    assert not before.is_better_than(before)


def test_of_two_ways_the_second_is_gone_only_where_the_first_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    search = tuning._Search([], 0, lambda _: None)
    worth = {1.0: 0.0, 2.0: 1.0, 4.0: 2.0, 8.0: 1.5, 0.5: 9.0}
    asked = []

    def fitted(parameters: Parameters, like: object = None) -> tuning._Tried:
        asked.append(parameters.weights[0])
        return tuning._Tried(parameters, [], np.full(4, worth[parameters.weights[0]]))

    monkeypatch.setattr(search, "fitted", fitted)
    best = search.improved(fitted(small()), tuning._each(((2.0, 4.0, 8.0), (0.5,)), tuning._share), lambda: False)
    assert best.parameters.weights[0] == 4.0
    assert asked == [1.0, 2.0, 4.0, 8.0]


def test_a_block_that_did_not_change_is_not_fitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    search = tuning._Search([validation()], 0, lambda _: None)
    first = search.fitted(small())
    changed = replace(small(), linear=replace(small().linear, ridge=50.0))
    second = search.fitted(changed, first)
    assert second.blocks[0][1] is first.blocks[0][1]
    assert second.blocks[0][0] is not first.blocks[0][0]


def test_a_model_has_its_blocks_at_the_precision_of_its_file() -> None:
    data = validation(kinds_as_content())
    model = fit(data.interactions, data.content, small())
    linear, factors = model.blocks
    assert isinstance(linear, LinearBlock)
    assert isinstance(factors, FactorBlock)
    assert type(model).from_bytes(model.to_bytes()).scores(data.inputs).tolist() == model.scores(data.inputs).tolist()


def test_content_helps_a_like_that_nobody_else_has() -> None:
    content = kinds_as_content()
    data = listeners_of_kinds()
    matrix = validation_of(data, hold_out_users(data), content).interactions.tolil()
    matrix[:, 8] = 0
    lonely = sp.csr_array(matrix)
    lonely.eliminate_zeros()
    top, _ = fit(lonely, content, small()).top(Likes.of([[8]]), 10)
    assert (top[0] % N_KINDS == 0).mean() >= 0.8


def test_a_factor_config_without_content_weight_never_looks_at_content() -> None:
    data = validation(kinds_as_content())
    config = FactorConfig(8, small().factors[0].ridge)
    without, with_it = (
        tuning._block(data.interactions, content, config, 0).vectors for content in (None, data.content)
    )
    assert np.array_equal(without, with_it)


def test_lists_are_cut_to_their_first_likes() -> None:
    cut = first_likes(Likes.of([[5, 6, 7], [8], []]), 2)
    assert (cut.items.tolist(), cut.counts.tolist()) == ([5, 6, 8], [2, 1, 0])


def test_popularity_counts_users() -> None:
    matrix = sp.csr_array(np.array([[2.0, 0, 1], [0.5, 0, 0]], np.float32))
    assert popularity_of(matrix).tolist() == [2, 0, 1]


# --- validation data ---


def test_a_validation_hides_the_targets_from_what_is_fitted() -> None:
    data = listeners_of_kinds()
    split = hold_out_users(data, seed=5)
    made = validation_of(data, split, None)
    assert made.interactions.nnz == split.train.sum()
    assert made.targets.n_rows == made.inputs.n_rows == len(np.unique(data.users[split.targets]))
    assert made.targets.counts.sum() == split.targets.sum()


def test_of_a_large_catalogue_the_popular_items_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation_module, "_MAX_ITEMS", 20)
    data, content = listeners_of_kinds(), kinds_as_content()
    made = validation_of(data, hold_out_users(data), content)
    whole = np.bincount(data.items[hold_out_users(data).train], minlength=N_ITEMS)
    assert made.interactions.shape[1] == 20
    assert made.content is not None
    assert made.content.shape[0] == 20
    assert made.interactions.nnz == np.sort(whole)[-20:].sum()
    assert made.targets.items.max() < 20
    assert made.targets.counts.min() > 0


def test_known_listeners_ask_with_what_is_fitted() -> None:
    data = listeners_of_kinds()
    split = hold_out_per_user(data, seed=2)
    made = validation_of(data, split, None)
    assert made.inputs.counts.sum() == made.interactions.nnz
    assert not (split.train & split.targets).any()


def test_many_listeners_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation_module, "_MAX_LISTENERS", 5)
    data = listeners_of_kinds()
    split = hold_out_users(data, share=0.5)
    made = validation_of(data, split, None)
    assert made.targets.n_rows == 5
    whole, _ = listeners_of(data, split, N_ITEMS)
    assert whole.n_rows == 40


def test_confidences_are_what_the_matrix_holds() -> None:
    data = listeners_of_kinds()
    confidences = np.linspace(0.5, 2, len(data.users)).astype(np.float32)
    matrix = interaction_matrix(replace(data, confidences=confidences))
    assert matrix[data.users[7], data.items[7]] == confidences[7]
    assert interaction_matrix(data).data.tolist() == [1.0] * len(data.users)
