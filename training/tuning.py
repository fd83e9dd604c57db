"""Chooses the parameters of the collaborative model on a validation split of the training data, by itself."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np

from core.collaborative import Block, CollaborativeModel, Doubles, Likes, Ridge, rounded
from core.evaluation import quality_at
from training.collaborative_fit import FactorConfig, LinearConfig, Matrix, fit_factors, fit_linear

_K = 20
_FEW_LIKES = 2
_N_ERRORS = 2.0
# Values to go through in each direction from the default, as long as they help.
_CONTENT_WEIGHTS = ((14.0,), (3.0, 1.0, 0.0))
_FACTOR_CONTENT_WEIGHTS = ((1.5, 3.0), (0.3, 0.0))
_RIDGES = ((200.0, 600.0, 2000.0), (25.0, 8.0))
_DROPOUTS = ((2.0, 4.0), (0.5, 0.2))
_FACTOR_RIDGES = (
    (Ridge(0.1, 3.0, 0.0), Ridge(0.1, 10.0, 0.0)),
    (Ridge(0.05, 0.5, 0.0), Ridge(0.02, 0.2, 0.0)),
    (Ridge(0.05, 0.003), Ridge(0.05, 0.01)),
)
_SHARES = ((1.5, 2.5, 5.0), (0.7, 0.4, 0.2))
_POPULARITY_WEIGHTS = (0.5, 1.0, 2.0, 4.0)

Config: TypeAlias = LinearConfig | FactorConfig
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Parameters:
    """All that a fit depends on besides the data."""

    linear: LinearConfig
    factors: tuple[FactorConfig, ...]
    weights: tuple[float, ...]
    popularity_weight: float = 1.0

    @property
    def configs(self) -> tuple[Config, ...]:
        """Of the blocks, in the order of ``weights``."""
        return (self.linear, *self.factors)


DEFAULTS = Parameters(
    linear=LinearConfig(),
    factors=(FactorConfig(128, Ridge(0.1, 1.0, 0.0), content_weight=0.7),),
    weights=(1.0, 1.0),
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
    """The whole model, at the precision of its file; the same data, parameters and seed give the same model."""
    blocks = [_block(interactions, content, config, seed) for config in parameters.configs]
    return _model(interactions, [rounded(block) for block in blocks], parameters)


def _block(interactions: Matrix, content: Matrix | None, config: Config, seed: int) -> Block:
    if isinstance(config, LinearConfig):
        return fit_linear(interactions, content, config, seed=seed)
    return fit_factors(interactions, config, content=content, seed=seed)


def _model(interactions: Matrix, blocks: Sequence[Block], parameters: Parameters) -> CollaborativeModel:
    popularity, trust = popularity_of(interactions), parameters.popularity_weight
    return CollaborativeModel(blocks, parameters.weights, popularity, popularity_weight=trust)


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
    """What is better than the defaults, parameter by parameter, by Recall@20 + NDCG@20 of the whole fusion.

    The blocks are judged together and not one by one: a part that is worse alone may be what the other one lacks. A
    change is taken only if it gains more than two standard errors over all listeners of all ``folds``: some twenty
    changes are tried, of which the luckiest would win otherwise, and a validation split has less data than what is
    fitted in the end, so that it likes more regularisation than that needs. What was not tried within ``budget_s``
    keeps its default; without a listener to judge by everything does.
    """
    if not any(fold.targets.n_rows for fold in folds):
        return DEFAULTS
    began_s = clock()
    until_s = began_s + budget_s

    def told(line: str) -> None:
        spent_s = min(clock() - began_s, budget_s)
        tell(f"choosing parameters, {spent_s:.0f} of {budget_s:.0f} s: {line}" if budget_s > 0 else line)

    search = _Search(folds, seed, told)
    best = search.fitted(DEFAULTS)
    for name, directions in search.steps():
        if clock() > until_s:
            told(f"the time is over before {name}")
            break
        best = search.improved(best, directions, lambda: clock() > until_s)
    best = search.improved(best, _each(_SHARES, _share), lambda: False)
    return search.with_popularity(best)


Change = Callable[[Parameters], Parameters]


@dataclass(frozen=True, slots=True)
class _Tried:
    """Parameters, their blocks for every fold, and Recall@20 + NDCG@20 of each listener of all folds."""

    parameters: Parameters
    blocks: Sequence[Sequence[Block]]
    figures: Doubles

    def is_better_than(self, other: "_Tried") -> bool:
        """By more than the noise."""
        return is_beyond_noise(self.figures - other.figures)


def is_beyond_noise(gains: Doubles) -> bool:
    """Whether the mean of the listeners' gains, (n_listeners,), is more than two of its standard errors."""
    return bool(gains.mean() > _N_ERRORS * gains.std() / np.sqrt(max(len(gains), 1)))


def _linear(name: str, value: float, parameters: Parameters) -> Parameters:
    changes: dict[str, Any] = {name: value}
    return replace(parameters, linear=replace(parameters.linear, **changes))


def _factors(name: str, value: float | Ridge, parameters: Parameters) -> Parameters:
    changes: dict[str, Any] = {name: value}
    return replace(parameters, factors=tuple(replace(config, **changes) for config in parameters.factors))


def _share(value: float, parameters: Parameters) -> Parameters:
    return replace(parameters, weights=(value, *parameters.weights[1:]))


class _Search:
    def __init__(self, folds: Sequence[Validation], seed: int, tell: Callable[[str], None]) -> None:
        self._folds, self._seed, self._tell = folds, seed, tell

    def steps(self) -> Iterator[tuple[str, Sequence[Sequence[Change]]]]:
        """The parameters, the most telling first, with the changes to go through in each direction."""
        if any(fold.content is not None and fold.content.nnz for fold in self._folds):
            yield "content of the factors", _each(_FACTOR_CONTENT_WEIGHTS, partial(_factors, "content_weight"))
            yield "content", _each(_CONTENT_WEIGHTS, partial(_linear, "content_weight"))
        yield "ridge", _each(_RIDGES, partial(_linear, "ridge"))
        yield "ridge of the factors", _each(_FACTOR_RIDGES, partial(_factors, "ridge"))
        yield "dropout", _each(_DROPOUTS, partial(_linear, "dropout"))

    def improved(self, best: _Tried, directions: Sequence[Sequence[Change]], is_over: Callable[[], bool]) -> _Tried:
        """After going in one direction as long as it helps; in the next one only if that did not help at all."""
        for changes in directions:
            before = best
            for change in changes:
                if is_over():
                    return best
                tried = self.fitted(change(best.parameters), best)
                if not tried.is_better_than(best):
                    break
                best = tried
            if best is not before:
                return best
        return best

    def fitted(self, parameters: Parameters, like: _Tried | None = None) -> _Tried:
        """Fit on every fold, but for the blocks that ``like`` has already."""
        known: list[dict[Config, Block]] = (
            [{}] * len(self._folds) if like is None else [_by_config(like, of_fold) for of_fold in like.blocks]
        )
        blocks = [self._blocks(fold, parameters, had) for fold, had in zip(self._folds, known, strict=True)]
        figures = self._figures(blocks, parameters)
        self._tell(f"{parameters}: Recall@{_K} + NDCG@{_K} {figures.mean():.4f}")
        return _Tried(parameters, blocks, figures)

    def _blocks(self, fold: Validation, parameters: Parameters, known: Mapping[Config, Block]) -> list[Block]:
        return [
            known[config] if config in known else _block(fold.interactions, fold.content, config, self._seed)
            for config in parameters.configs
        ]

    def with_popularity(self, best: _Tried) -> Parameters:
        """By lists cut to their first likes: for longer ones popularity hardly counts."""
        tried = [replace(best.parameters, popularity_weight=weight) for weight in _POPULARITY_WEIGHTS]
        return max(tried, key=lambda parameters: self._figures(best.blocks, parameters, _FEW_LIKES).mean())

    def _figures(
        self, blocks: Sequence[Sequence[Block]], parameters: Parameters, n_likes: int | None = None
    ) -> Doubles:
        figures = []
        for fold, of_fold in zip(self._folds, blocks, strict=True):
            model = _model(fold.interactions, of_fold, parameters)
            top, _ = model.top(fold.inputs if n_likes is None else first_likes(fold.inputs, n_likes), _K)
            quality = quality_at(top, fold.targets, _K)
            figures.append(quality.recall + quality.ndcg)
        return np.concatenate(figures)


def _by_config(tried: _Tried, blocks: Sequence[Block]) -> dict[Config, Block]:
    return dict(zip(tried.parameters.configs, blocks, strict=True))


def _each(
    directions: Sequence[Sequence[Value]], change: Callable[[Value, Parameters], Parameters]
) -> list[list[Change]]:
    return [[partial(change, value) for value in values] for values in directions]


def first_likes(likes: Likes, n: int) -> Likes:
    """Each list cut to its first ``n`` likes."""
    kept = np.arange(len(likes.items)) - np.repeat(likes.starts[:-1], likes.counts) < n
    starts = np.concatenate([[0], np.cumsum(np.minimum(likes.counts, n))]).astype(np.int64)
    return Likes(starts, likes.items[kept], likes.weights[kept])
