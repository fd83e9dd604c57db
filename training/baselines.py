"""Methods to be measured against: each scores every item for lists of likes, (n_listeners, n_items)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from core.collaborative import Doubles, Floats, Likes
from training.collaborative_fit import LinearConfig, LinearRegression, Matrix, with_content
from training.tuning import popularity_of

Scorer = Callable[[Likes], Floats]

_SMALL = 1e-9
_EASE_RIDGE = 300.0
_KNN_SHRINKAGE = 10.0
_MAX_EXACT = 20_000


def matrix_of(likes: Likes, n_items: int) -> Matrix:
    """Likes as a sparse matrix."""
    return sp.csr_array((likes.weights, likes.items, likes.starts), shape=(likes.n_rows, n_items))


def popularity(interactions: Matrix) -> Scorer:
    """The same list for everybody."""
    counts = popularity_of(interactions).astype(np.float32)
    return lambda likes: np.tile(counts, (likes.n_rows, 1))


def item_knn(interactions: Matrix) -> Scorer:
    """The sum of cosines with what is liked, shrunk where few users have both."""
    binary = sp.csr_array(interactions > 0, dtype=np.float32)
    together = sp.csr_array(binary.T @ binary)
    lengths = np.sqrt(together.diagonal())
    rows = np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
    cosines = together.data / np.maximum(lengths[rows] * lengths[together.indices], _SMALL)
    together.data = (cosines * together.data / (together.data + _KNN_SHRINKAGE)).astype(np.float32)
    return lambda likes: np.asarray((matrix_of(likes, interactions.shape[1]) @ together).toarray())


def ease(interactions: Matrix, ridge: float = _EASE_RIDGE) -> Scorer:
    """EASE exactly (Steck 2019): items x items, so of catalogues of at most 20,000."""
    n_items = interactions.shape[1]
    if n_items > _MAX_EXACT:
        raise ValueError(f"EASE holds items x items: at most {_MAX_EXACT}, got {n_items}")
    gram = np.asfortranarray((interactions.T @ interactions).toarray(), dtype=np.float32)
    gram[np.diag_indices_from(gram)] += ridge
    inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights = -inverse / np.diag(inverse)
    weights[np.diag_indices_from(weights)] = 0
    return lambda likes: np.asarray(matrix_of(likes, n_items) @ weights)


def edlae(interactions: Matrix, content: Matrix | None, config: LinearConfig) -> Scorer:
    """EDLAE at full rank."""
    regression = LinearRegression.of(with_content(interactions, content, config.content_weight), config)
    return lambda likes: regression.scores(matrix_of(likes, interactions.shape[1]).toarray())


@dataclass(frozen=True, slots=True)
class ImplicitConfig:
    """Of ``implicit.als.AlternatingLeastSquares``."""

    factors: int = 128
    regularization: float = 10.0
    alpha: float = 10.0
    iterations: int = 15


def implicit_als(interactions: Matrix, config: ImplicitConfig | None = None, *, seed: int = 0) -> Scorer:
    """ALS by the library ``implicit``, listeners folded in."""
    config = config or ImplicitConfig()
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=config.factors,
            regularization=config.regularization,
            alpha=config.alpha,
            iterations=config.iterations,
            random_state=seed,
            num_threads=1,
        )
        model.fit(sp.csr_matrix(interactions), show_progress=False)

    def score(likes: Likes) -> Floats:
        with threadpool_limits(1, "blas"):
            users = model.recalculate_user(
                np.arange(likes.n_rows), sp.csr_matrix(matrix_of(likes, interactions.shape[1]))
            )
        return np.asarray(users @ model.item_factors.T)

    return score


def fused(*scorers: Scorer) -> Scorer:
    """The sum of z-scores."""
    return lambda likes: np.asarray(sum(_z_scores(scorer(likes)) for scorer in scorers), np.float32)


def _z_scores(scores: Floats) -> Floats:
    deviations: Doubles = scores.std(1, keepdims=True)
    return np.asarray((scores - scores.mean(1, keepdims=True)) / (deviations + _SMALL))
