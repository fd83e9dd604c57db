"""Items that nobody has touched, ranked by what they are: tags, words, numbers.

Two regressions on content are added by z-scores: one from content to the vectors of a factorisation, which knows what
goes together, and one from content to the listener's own list, which knows this listener alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from core.collaborative import FactorBlock, Floats, Indices, Likes, Ridge, top_items
from core.evaluation import quality_at
from training.collaborative_fit import FactorConfig, Matrix, fit_factors, likes_of

_K = 20
_SHARE_HELD_OUT = 0.1
_MAX_LISTENERS = 2000
_LENGTH_POWERS = (0.5, 0.0, 1.0)
_RIDGES = (0.3, 1.0, 3.0, 10.0)
_OWN_SHARES = (0.0, 0.25, 0.5, 1.0)
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class ColdConfig:
    """``length_power`` is how much of a row's length is kept: 0 makes unit rows, 1 leaves them.

    ``ridge`` is of the regression to factors, ``own_ridge`` of the listener's own, of weight ``own_share``.
    """

    length_power: float = 0.5
    ridge: float = 1.0
    own_ridge: float = 3.0
    own_share: float = 0.5
    factors: FactorConfig = field(default_factory=lambda: FactorConfig(128, Ridge(0.05, 0.01)))


def content_features(counts: Matrix, length_power: float, min_items: int = 3) -> Matrix:
    """``log(1 + count)`` times inverse document frequency, (n_items, n_kept); the mean square of row lengths is 1.

    Features of fewer than ``min_items`` items are left out.
    """
    n_with = np.bincount(counts.indices, minlength=counts.shape[1])
    kept = np.flatnonzero(n_with >= min_items)
    rows = sp.csr_array(counts[:, kept], dtype=np.float32)
    rows.data = np.log1p(rows.data)
    rows = rows @ sp.diags_array(np.log(max(counts.shape[0], 1) / n_with[kept]).astype(np.float32))
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    wanted = lengths**length_power * (lengths > 0)
    scale = np.sqrt((wanted**2).sum() / max((lengths > 0).sum(), 1))
    factors = wanted / np.maximum(lengths, _TINY) / max(scale, _TINY)
    return sp.csr_array(sp.diags_array(factors.astype(np.float32)) @ rows)


@dataclass(frozen=True, slots=True)
class ColdModel:
    """Scores items by content, for lists of items that the fit knew.

    ``features`` (n_items, n_features); ``weights`` (n_features, dim) leads to the vectors of ``block``; ``own`` is the
    Cholesky factor (n_features, n_features) by which a listener's own regression is solved.
    """

    config: ColdConfig
    features: Matrix
    block: FactorBlock
    weights: Floats
    own: Floats

    @classmethod
    def fit(
        cls, interactions: Matrix, counts: Matrix, config: ColdConfig | None = None, *, seed: int = 0
    ) -> "ColdModel":
        """From (n_users, n_items) of weights and (n_items, n_features) of counts; items without users tell nothing."""
        config = config or ColdConfig()
        features = content_features(counts, config.length_power)
        block = fit_factors(interactions, config.factors, seed=seed)
        gram, leading = _normal_equations(interactions, features, block)
        weights = scipy.linalg.cho_solve((_cholesky(gram, config.ridge), True), leading)
        return cls(config, features, block, np.asarray(weights), _cholesky(gram, config.own_ridge))

    def scores(self, likes: Likes, items: Indices) -> Floats:
        """Of ``items`` for each list, (likes.n_rows, len(items)); the scale is one list's own."""
        content = self.features[items]
        by_factors = self.block.fold_in(likes) @ (content @ self.weights).T
        own = (
            _own_scores(likes, self.features, self.own, content) if self.config.own_share else np.zeros_like(by_factors)
        )
        return z_scores(by_factors) + np.float32(self.config.own_share) * z_scores(own)


def mean_cosines(likes: Likes, counts: Matrix, items: Indices) -> Floats:
    """What ``ColdModel`` is measured against: cosine of the mean unit row of a list with each of ``items``."""
    features = content_features(counts, 0.0)
    return np.asarray((_sparse(likes, counts.shape[0]) @ features @ features[items].T).toarray())


def z_scores(scores: Floats) -> Floats:
    """Each row at mean 0 and deviation 1."""
    deviations = np.maximum(scores.std(axis=1, keepdims=True), _TINY)
    return np.asarray((scores - scores.mean(axis=1, keepdims=True)) / deviations, np.float32)


def tune_cold(
    interactions: Matrix,
    counts: Matrix,
    *,
    n_folds: int = 2,
    budget_s: float = 120.0,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[str], None] = lambda _: None,
) -> ColdConfig:
    """The best of a small grid by Recall@20 + NDCG@20 on items that are held out of ``interactions`` once more.

    A length power that was not begun within ``budget_s`` is not tried.
    """
    until_s = clock() + budget_s
    folds = [_Fold.of(interactions, counts, seed + fold) for fold in range(n_folds)]
    folds = [fold for fold in folds if fold.targets.n_rows]
    best, best_score = ColdConfig(), -np.inf
    for n, power in enumerate(_LENGTH_POWERS if folds else (), 1):
        if best_score > -np.inf and clock() > until_s:
            break
        config, score = _best_ridges(folds, power)
        tell(f"choosing parameters, {n} of {len(_LENGTH_POWERS)}: {config}, Recall@{_K} + NDCG@{_K} {score:.4f}")
        if score > best_score:
            best, best_score = config, score
    return best


@dataclass(frozen=True, slots=True)
class _Fold:
    """Training data without the items in ``cold``, which the listeners of ``inputs`` are asked for."""

    train: Matrix
    block: FactorBlock
    counts: Matrix
    cold: Indices
    inputs: Likes
    targets: Likes

    @classmethod
    def of(cls, interactions: Matrix, counts: Matrix, seed: int) -> "_Fold":
        chance = np.random.default_rng(seed)
        known = np.unique(interactions.indices)
        cold = np.sort(
            chance.choice(known, min(max(round(_SHARE_HELD_OUT * len(known)), 1), len(known)), replace=False)
        )
        shown = np.ones(interactions.shape[1], np.float32)
        shown[cold] = 0
        train = sp.csr_array(interactions @ sp.diags_array(shown))
        train.eliminate_zeros()
        asked = sp.csr_array(interactions[:, cold])
        rows = np.flatnonzero((np.diff(asked.indptr) > 0) & (np.diff(train.indptr) > 0))
        if len(rows) > _MAX_LISTENERS:
            rows = np.sort(chance.choice(rows, _MAX_LISTENERS, replace=False))
        block = fit_factors(train, ColdConfig().factors, seed=seed)
        return cls(train, block, counts, cold, likes_of(train[rows]), likes_of(asked[rows]))

    def judged(self, scores: Floats) -> float:
        top, _ = top_items(scores, Likes.of([[]] * len(scores)), np.zeros(scores.shape[1]), _K)
        quality = quality_at(top, self.targets, _K)
        return float(quality.hits.sum() / quality.targets.sum() + quality.ndcg.mean())


def _best_ridges(folds: Sequence[_Fold], power: float) -> tuple[ColdConfig, float]:
    """The two ridges each by itself, then the share of the listener's own regression."""
    by_ridge = [_by_ridge(fold, power) for fold in folds]

    def judged(ridge: float, own_ridge: float, share: float) -> float:
        scores = (found[ridge][0] + np.float32(share) * found[own_ridge][1] for found in by_ridge)
        return float(np.mean([fold.judged(of_fold) for fold, of_fold in zip(folds, scores, strict=True)]))

    ridge = max(_RIDGES, key=lambda value: judged(value, value, 0.0))
    own_ridge = max(_RIDGES, key=lambda value: judged(ridge, value, 0.5))
    share = max(_OWN_SHARES, key=lambda value: judged(ridge, own_ridge, value))
    return ColdConfig(power, ridge, own_ridge, share), judged(ridge, own_ridge, share)


def _by_ridge(fold: _Fold, power: float) -> dict[float, tuple[Floats, Floats]]:
    """Z-scores of both regressions at every ridge."""
    features = content_features(fold.counts, power)
    gram, leading = _normal_equations(fold.train, features, fold.block)
    content, listeners = features[fold.cold], fold.block.fold_in(fold.inputs)
    found = {}
    for ridge in _RIDGES:
        factor = _cholesky(gram, ridge)
        weights = scipy.linalg.cho_solve((factor, True), leading)
        by_factors = z_scores(np.asarray(listeners @ (content @ weights).T))
        found[ridge] = (by_factors, z_scores(_own_scores(fold.inputs, features, factor, content)))
    return found


def _normal_equations(interactions: Matrix, features: Matrix, block: FactorBlock) -> tuple[Floats, Floats]:
    known = np.unique(interactions.indices)
    rows = features[known]
    gram = np.asarray((rows.T @ rows).toarray(), np.float32)
    return gram, np.asarray(rows.T @ block.vectors[known], np.float32)


def _cholesky(gram: Floats, ridge: float) -> Floats:
    return np.asarray(scipy.linalg.cholesky(gram + np.float32(ridge) * np.eye(len(gram), dtype=np.float32), lower=True))


def _own_scores(likes: Likes, features: Matrix, factor: Floats, content: Matrix) -> Floats:
    """Each listener's list regressed on content, and what that says of ``content``."""
    sums = (_sparse(likes, features.shape[0]) @ features).toarray()
    return np.asarray(content @ scipy.linalg.cho_solve((factor, True), sums.T)).T


def _sparse(likes: Likes, n_items: int) -> Matrix:
    return sp.csr_array((likes.weights, likes.items, likes.starts), shape=(likes.n_rows, n_items))
