"""The fitted model as one file: what goes in comes out, under a name that is of its content."""

import io

import numpy as np
import pytest

from core.collaborative import Block, CollaborativeModel, FactorBlock, Likes, LinearBlock, Ridge, rounded
from core.errors import ConfigurationError
from core.fitted_collaborative import FittedCollaborative, version_of
from core.ports.arrays import Ids
from core.ports.collaborative import FusionWeights

N_ITEMS, DIM = 12, 4
IDS: Ids = np.array([2**60 + 3 * n for n in range(N_ITEMS)], np.int64)
WEIGHTS = FusionWeights(content=0.5, collaborative=2.0, popularity=0.25, same_creator=0.125)


def a_model(seed: int = 0, n_items: int = N_ITEMS) -> CollaborativeModel:
    generator = np.random.default_rng(seed)
    vectors, inputs, factors = generator.normal(size=(3, n_items, DIM)).astype(np.float32)
    blocks: list[Block] = [LinearBlock.of(vectors, inputs), FactorBlock(factors, np.ones(DIM), Ridge(0.1, 1.0))]
    popularity = generator.integers(1, 9, n_items).astype(np.float64)
    return CollaborativeModel([rounded(block) for block in blocks], (1.0, 2.0), popularity)


def fitted(seed: int = 0, weights: FusionWeights = WEIGHTS) -> FittedCollaborative:
    return FittedCollaborative(IDS, a_model(seed), weights)


def test_ids_weights_version_and_every_score_come_back() -> None:
    before, likes = fitted(), Likes.of([[0, 5], [11], []])
    after = FittedCollaborative.from_bytes(before.to_bytes())
    assert after.item_ids.dtype == np.int64
    assert after.item_ids.tolist() == IDS.tolist()
    assert (after.weights, after.version) == (WEIGHTS, before.version)
    assert np.array_equal(after.model.scores(likes), before.model.scores(likes))
    assert after.to_bytes() == before.to_bytes()


def test_the_version_is_that_of_the_bytes_whoever_fits_them() -> None:
    assert fitted().version == fitted().version == version_of(fitted().to_bytes())
    assert len(fitted().version) == 16


def test_another_model_other_weights_and_other_ids_are_other_versions() -> None:
    others = [
        fitted(),
        fitted(seed=1),
        fitted(weights=FusionWeights()),
        FittedCollaborative(IDS + 1, a_model(), WEIGHTS),
    ]
    assert len({each.version for each in others}) == len(others)


@pytest.mark.parametrize("ids", [IDS[:-1], IDS[::-1], np.zeros(N_ITEMS, np.int64), IDS[:, None]])
def test_ids_that_are_not_those_of_the_model_are_refused(ids: Ids) -> None:
    with pytest.raises(ConfigurationError, match="12 items"):
        FittedCollaborative(ids, a_model(), WEIGHTS)


def _saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


def _single() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"no model at all",
        _single(),
        _saved(ids=IDS),
        _saved(ids=IDS, model=np.zeros(5, np.uint8), fusion=np.ones(4)),
        _saved(ids=IDS, model=np.frombuffer(a_model().to_bytes(), np.uint8), fusion=np.ones(3)),
        _saved(ids=IDS[1:], model=np.frombuffer(a_model().to_bytes(), np.uint8), fusion=np.ones(4)),
        _saved(ids=IDS, model=np.array([{}], object), fusion=np.ones(4)),
        fitted().to_bytes()[:-100],
        a_model().to_bytes(),
    ],
    ids=[
        "nothing",
        "text",
        "one array",
        "ids alone",
        "no model",
        "3 weights",
        "ids short",
        "pickle",
        "cut",
        "bare",
    ],
)
def test_foreign_bytes_are_refused_in_words(payload: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"fit it again|item ids"):
        FittedCollaborative.from_bytes(payload)
