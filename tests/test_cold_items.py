"""Items that nobody has touched, in a world where users like the items of one tag."""

from collections.abc import Iterator

import numpy as np
import pytest
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from core.collaborative import Likes
from training.cold_items import ColdConfig, ColdModel, content_features, mean_cosines, tune_cold
from training.collaborative_fit import Matrix, likes_of

N_TAGS, N_ITEMS, N_USERS = 5, 100, 150
COLD = np.arange(90, 100)


@pytest.fixture(autouse=True)
def _one_blas_thread() -> Iterator[None]:
    """As the commands have it: on matrices this small a second thread only spins."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="module")
def interactions() -> Matrix:
    """User u likes items of tag u % 5, and nobody has items 90 to 99."""
    chance = np.random.default_rng(0)
    same = np.arange(N_USERS)[:, None] % N_TAGS == np.arange(N_ITEMS) % N_TAGS
    liked = chance.random((N_USERS, N_ITEMS)) < np.where(same, 0.5, 0.02)
    liked[:, COLD] = False
    return sp.csr_array(liked.astype(np.float32))


@pytest.fixture(scope="module")
def counts() -> Matrix:
    """Item i has tag i % 5 often and another one by chance; tag 5 is on one item alone."""
    dense = np.zeros((N_ITEMS, N_TAGS + 1), np.float32)
    dense[np.arange(N_ITEMS), np.arange(N_ITEMS) % N_TAGS] = 3
    dense[np.arange(N_ITEMS), np.random.default_rng(1).integers(0, N_TAGS, N_ITEMS)] += 1
    dense[7, N_TAGS] = 1
    return sp.csr_array(dense)


@pytest.mark.parametrize(
    "config", [ColdConfig(), ColdConfig(own_share=0.0), ColdConfig(length_power=0.0, own_share=2.0)]
)
def test_cold_items_of_a_liked_tag_come_first(interactions: Matrix, counts: Matrix, config: ColdConfig) -> None:
    model = ColdModel.fit(interactions, counts, config)
    scores = model.scores(likes_of(interactions[:N_TAGS]), COLD)
    for tag, row in enumerate(scores):
        assert set(COLD[np.argsort(-row)[:2]] % N_TAGS) == {tag}


def test_a_listener_is_scored_alone_as_in_a_batch(interactions: Matrix, counts: Matrix) -> None:
    model, likes = ColdModel.fit(interactions, counts), likes_of(interactions[:9])
    together = model.scores(likes, COLD)
    for row in range(9):
        assert model.scores(likes.rows(row, row + 1), COLD)[0] == pytest.approx(together[row], abs=1e-4)


def test_a_listener_of_nothing_and_an_item_of_no_tag_are_scored_too(interactions: Matrix, counts: Matrix) -> None:
    bare = counts.tolil()
    bare[COLD[0]] = 0
    model = ColdModel.fit(interactions, sp.csr_array(bare.tocsr()))
    assert np.isfinite(model.scores(Likes.of([[], [0]]), COLD)).all()


def test_what_is_liked_of_cold_items_is_never_looked_at(interactions: Matrix, counts: Matrix) -> None:
    """The fit sees an item that nobody has as if it were not there: describing it otherwise changes no other."""
    before, likes = ColdModel.fit(interactions, counts, ColdConfig(length_power=1.0)), likes_of(interactions[:9])
    swapped = counts.toarray()
    swapped[COLD] = swapped[np.roll(COLD, 1)]
    after = ColdModel.fit(interactions, sp.csr_array(swapped), ColdConfig(length_power=1.0))
    assert after.weights == pytest.approx(before.weights, abs=1e-4)
    assert after.scores(likes, np.roll(COLD, -1)) == pytest.approx(before.scores(likes, COLD), abs=1e-3)


def test_what_is_chosen_is_the_same_again_and_better_than_the_mean(interactions: Matrix, counts: Matrix) -> None:
    told: list[str] = []
    config = tune_cold(interactions, counts, seed=3, tell=told.append)
    assert config == tune_cold(interactions, counts, seed=3)
    assert len(told) == 3


def test_without_time_only_one_length_power_is_tried(interactions: Matrix, counts: Matrix) -> None:
    told: list[str] = []
    clock = iter(range(1000))
    tune_cold(interactions, counts, budget_s=0.5, clock=lambda: next(clock), tell=told.append)
    assert len(told) == 1


def test_too_little_data_gets_the_defaults(counts: Matrix) -> None:
    nobody = sp.csr_array((3, N_ITEMS), dtype=np.float32)
    one = sp.csr_array((np.ones(1, np.float32), ([0], [0])), shape=(1, N_ITEMS))
    assert tune_cold(nobody, counts) == tune_cold(one, counts) == ColdConfig()


@pytest.mark.parametrize(("power", "lengths_differ"), [(0.0, False), (0.5, True), (1.0, True)])
def test_features_keep_as_much_of_their_length_as_is_asked(counts: Matrix, power: float, lengths_differ: bool) -> None:
    features = content_features(counts, power)
    squares = np.asarray(features.multiply(features).sum(axis=1)).ravel()
    assert features.shape == (N_ITEMS, N_TAGS)  # the tag of one item alone tells nothing about others
    assert squares.mean() == pytest.approx(1, rel=1e-4)
    assert (squares.std() > 0.01) == lengths_differ


def test_the_mean_of_content_is_nearest_to_its_own_kind(counts: Matrix) -> None:
    scores = mean_cosines(Likes.of([[0, 5, 10, 15], []]), counts, COLD)
    assert set(COLD[np.argsort(-scores[0])[:2]] % N_TAGS) == {0}
    assert not scores[1].any()
