"""Chooses the parameters of the collaborative model on a validation split of the training data, by itself."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from core.collaborative import Block, CollaborativeModel, Doubles, Likes, Ridge, rounded
from core.evaluation import quality_at
from training.collaborative_fit import FactorConfig, LinearConfig, Matrix, fit_factors, fit_linear

_K = 20
# Values to go through in each direction from the default, as long as they help.
_RIDGES = ((200.0, 600.0, 2000.0), (25.0, 8.0))
_DROPOUTS = ((2.0, 4.0), (0.5, 0.2))
_CONTENT_WEIGHTS = ((4.0, 8.0), (1.0, 0.0))
_FACTOR_RIDGES = (
    Ridge(0.05, 0.01),
    Ridge(0.1, 0.003),
    Ridge(0.05, 0.003),
    Ridge(0.2, 0.003),
    Ridge(0.5, 0.001),
    Ridge(0.1, 0.3, 0.0),
    Ridge(0.1, 3.0, 0.0),
)
_FUSIONS = (
    (1.0, 1.0, 1.0, 1.0),
    (2.0, 1.0, 1.0, 1.0),
    (1.0, 1.0, 1.0, 0.0),
    (1.0, 0.0, 1.0, 1.0),
    (1.0, 1.0, 0.0, 1.0),
    (1.0, 0.0, 0.0, 1.0),
    (3.0, 1.0, 1.0, 1.0),
)
_POPULARITY_WEIGHTS = (0.5, 1.0, 2.0, 4.0)
_FEW_LIKES = 2


@dataclass(frozen=True, slots=True)
class Parameters:
    """All that a fit depends on besides the data."""

    linear: LinearConfig
    factors: tuple[FactorConfig, ...]
    weights: tuple[float, ...]
    popularity_weight: float = 1.0


DEFAULTS = Parameters(
    linear=LinearConfig(),
    factors=(
        FactorConfig(64, Ridge(0.05, 0.003)),
        FactorConfig(128, Ridge(0.05, 0.01)),
        FactorConfig(128, Ridge(0.1, 1.0, 0.0)),
    ),
    weights=(1.0, 1.0, 1.0, 1.0),
)


@dataclass(frozen=True, slots=True)
class Validation:
    """Training data and listeners whose further likes are known; nothing of the test is in it.

    ``interactions`` (n_users, n_items) positive weights; ``content`` (n_items, n_features) or None.
    """

    interactions: Matrix
    content: Matrix | None
    inputs: Likes
    targets: Likes


def fit(interactions: Matrix, content: Matrix | None, parameters: Parameters, *, seed: int = 0) -> CollaborativeModel:
    """The whole model; the same data, parameters and seed give the same model."""
    blocks: list[Block] = [fit_linear(interactions, content, parameters.linear, seed=seed)]
    blocks += [fit_factors(interactions, config, seed=seed) for config in parameters.factors]
    return CollaborativeModel(
        [rounded(block) for block in blocks],
        parameters.weights,
        popularity_of(interactions),
        popularity_weight=parameters.popularity_weight,
    )


def popularity_of(interactions: Matrix) -> Doubles:
    """How many users have each item, shape (n_items,)."""
    return np.bincount(interactions.indices, minlength=interactions.shape[1]).astype(np.float64)


def tune(
    folds: Sequence[Validation],
    *,
    budget_s: float = 120.0,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[str], None] = lambda _: None,
) -> Parameters:
    """The best of a small grid, parameter by parameter, by Recall@20 + NDCG@20, averaged over ``folds``.

    The linear model gets half of ``budget_s``; what was not tried when the time is over keeps its default.
    """
    search = _Search(folds, seed, clock, tell)
    start_s = clock()
    linear = search.linear(start_s + budget_s / 2)
    factors = search.factors(start_s + budget_s)
    blocks = [list(fold) for fold in zip(linear.blocks, *(tried.blocks for tried in factors), strict=True)]
    weights = search.fusion(blocks)
    popularity_weight = search.popularity_weight(blocks, weights)
    used = [tried.config for tried, weight in zip(factors, weights[1:], strict=True) if weight > 0]
    return Parameters(linear.config, tuple(used), tuple(weight for weight in weights if weight > 0), popularity_weight)


Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class _Tried(Generic[Config]):
    """One configuration, its block for every fold, and how good they are."""

    config: Config
    blocks: Sequence[Block]
    score: float


class _Search:
    def __init__(
        self, folds: Sequence[Validation], seed: int, clock: Callable[[], float], tell: Callable[[str], None]
    ) -> None:
        self._folds, self._seed, self._clock, self._tell = folds, seed, clock, tell

    def linear(self, until_s: float) -> _Tried[LinearConfig]:
        best = self._tried_linear(DEFAULTS.linear)
        for name, values in self._linear_steps():
            for value in values:
                if self._clock() > until_s:
                    return best
                change: dict[str, Any] = {name: value}
                tried = self._tried_linear(replace(best.config, **change))
                if tried.score <= best.score:
                    break
                best = tried
        return best

    def _linear_steps(self) -> Iterator[tuple[str, Sequence[float]]]:
        """Values to go through, one direction after the other, as long as they help."""
        described = any(fold.content is not None and fold.content.nnz for fold in self._folds)
        steps = {"ridge": _RIDGES, "dropout": _DROPOUTS, "content_weight": _CONTENT_WEIGHTS if described else ()}
        yield from ((name, values) for name, directions in steps.items() for values in directions)

    def _tried_linear(self, config: LinearConfig) -> _Tried[LinearConfig]:
        blocks = [fit_linear(fold.interactions, fold.content, config, seed=self._seed) for fold in self._folds]
        return _Tried(config, blocks, self._judged([[block] for block in blocks], (1.0,), str(config)))

    def factors(self, until_s: float) -> list[_Tried[FactorConfig]]:
        """The best ridge for each place in the fusion; the places share the time that is left."""
        found = []
        for left, default in zip(range(len(DEFAULTS.factors), 0, -1), DEFAULTS.factors, strict=True):
            now_s = self._clock()
            found.append(self._best_factors(default, now_s + max(until_s - now_s, 0.0) / left))
        return found

    def _best_factors(self, default: FactorConfig, until_s: float) -> _Tried[FactorConfig]:
        """Only ridges of the default's exponent: what makes a fusion better is that its parts differ."""
        best = self._tried_factors(default)
        others = [ridge for ridge in _FACTOR_RIDGES if ridge.exponent == default.ridge.exponent]
        for ridge in (ridge for ridge in others if ridge != default.ridge):
            if self._clock() > until_s:
                break
            tried = self._tried_factors(replace(default, ridge=ridge))
            best = tried if tried.score > best.score else best
        return best

    def _tried_factors(self, config: FactorConfig) -> _Tried[FactorConfig]:
        blocks = [fit_factors(fold.interactions, config, seed=self._seed) for fold in self._folds]
        return _Tried(config, blocks, self._judged([[block] for block in blocks], (1.0,), str(config)))

    def fusion(self, blocks: Sequence[Sequence[Block]]) -> tuple[float, ...]:
        return max(_FUSIONS, key=lambda weights: self._judged(blocks, weights, f"weights {weights}"))

    def popularity_weight(self, blocks: Sequence[Sequence[Block]], weights: Sequence[float]) -> float:
        """By lists cut to their first likes: for longer ones popularity hardly counts."""
        return max(
            _POPULARITY_WEIGHTS,
            key=lambda weight: self._judged(blocks, weights, "two likes", n_likes=_FEW_LIKES, popularity=weight),
        )

    def _judged(
        self,
        blocks: Sequence[Sequence[Block]],
        weights: Sequence[float],
        what: str,
        *,
        n_likes: int | None = None,
        popularity: float = 0.0,
    ) -> float:
        figures = []
        for fold, of_fold in zip(self._folds, blocks, strict=True):
            counts = popularity_of(fold.interactions)
            model = CollaborativeModel(of_fold, weights, counts, popularity_weight=popularity)
            top, _ = model.top(fold.inputs if n_likes is None else first_likes(fold.inputs, n_likes), _K)
            quality = quality_at(top, fold.targets, _K)
            figures.append((quality.hits.sum() / quality.targets.sum(), quality.ndcg.mean()))
        recall, ndcg = (float(figure) for figure in np.mean(figures, axis=0))
        self._tell(f"{what}, popularity {popularity:g}: Recall@{_K} {recall:.4f}, NDCG@{_K} {ndcg:.4f}")
        return recall + ndcg


def first_likes(likes: Likes, n: int) -> Likes:
    """Each list cut to its first ``n`` likes."""
    kept = np.arange(len(likes.items)) - np.repeat(likes.starts[:-1], likes.counts) < n
    starts = np.concatenate([[0], np.cumsum(np.minimum(likes.counts, n))]).astype(np.int64)
    return Likes(starts, likes.items[kept], likes.weights[kept])
