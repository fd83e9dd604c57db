"""Methods to be measured against: each scores every item for lists of likes, (n_listeners, n_items)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from core.collaborative import Doubles, Floats, Likes, top_items
from core.evaluation import quality_at
from training.collaborative_fit import LinearConfig, LinearRegression, Matrix, with_content
from training.tuning import Validation, popularity_of

Scorer = Callable[[Likes], Floats]
Tell = Callable[[str], None]
Value = TypeVar("Value")

_SMALL = 1e-9
_COLUMNS_AT_ONCE = 512
_MAX_EXACT = 20_000
_K = 20


def matrix_of(likes: Likes, n_items: int) -> Matrix:
    """Likes as a sparse matrix."""
    return sp.csr_array((likes.weights, likes.items, likes.starts), shape=(likes.n_rows, n_items))


def popularity(interactions: Matrix) -> Scorer:
    """The same list for everybody."""
    counts = popularity_of(interactions).astype(np.float32)
    return lambda likes: np.tile(counts, (likes.n_rows, 1))


@dataclass(frozen=True, slots=True)
class KnnConfig:
    """Of a cosine ``n_together / (sqrt(n_a * n_b) + shrinkage)``, raised to ``power``, each item's greatest kept."""

    shrinkage: float = 5.0
    power: float = 1.0
    n_neighbours: int = 1000


def item_knn(interactions: Matrix, config: KnnConfig | None = None) -> Scorer:
    """The sum of an item's likenesses to what is liked."""
    config = config or KnnConfig()
    binary = sp.csr_array(interactions > 0, dtype=np.float32)
    lengths = np.sqrt(popularity_of(binary))
    columns = binary.tocsc()
    parts = []
    for start in range(0, binary.shape[1], _COLUMNS_AT_ONCE):
        together = sp.csr_array(columns[:, start : start + _COLUMNS_AT_ONCE].T @ binary)
        own = start + np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
        likeness = together.data / (lengths[own] * lengths[together.indices] + config.shrinkage + _SMALL)
        together.data = np.where(own == together.indices, 0, likeness**config.power).astype(np.float32)
        parts.append(_greatest(together, config.n_neighbours))
    neighbours = sp.csr_array(sp.vstack(parts).T)
    return lambda likes: np.asarray((matrix_of(likes, binary.shape[1]) @ neighbours).toarray())


def _greatest(rows: Matrix, n: int) -> Matrix:
    """Each row's ``n`` greatest values, and all that are equal to the last of them."""
    for start, stop in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
        values = rows.data[start:stop]
        if len(values) > n:
            values[values < np.partition(values, -n)[-n]] = 0
    rows.eliminate_zeros()
    return rows


def ease(interactions: Matrix, ridge: float = 100.0) -> Scorer:
    """EASE exactly (Steck 2019): EDLAE without dropout and content; of catalogues of at most 20,000 items."""
    if interactions.shape[1] > _MAX_EXACT:
        raise ValueError(f"EASE: {too_large(interactions.shape[1])}")
    return edlae(interactions, None, LinearConfig(ridge=ridge, dropout=0.0, content_weight=0.0))


def too_large(n_items: int) -> str:
    """Why EASE is not run on so many items."""
    return f"it holds items x items: at most {_MAX_EXACT:,} of them, got {n_items:,}"


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


EASE_GRID = (30.0, 100.0, 300.0, 1000.0)
KNN_GRID = tuple(
    KnnConfig(shrinkage, power, n) for shrinkage in (1.0, 5.0, 20.0) for power in (0.5, 1.0) for n in (100, 1000)
)
ALS_GRID = tuple(
    ImplicitConfig(regularization=strength, alpha=alpha)
    for strength, alpha in ((1.0, 3.0), (3.0, 3.0), (3.0, 10.0), (10.0, 3.0), (10.0, 10.0), (30.0, 10.0), (30.0, 30.0))
)


@dataclass(frozen=True, slots=True)
class BaselineConfigs:
    """What each baseline runs at; ``ease`` is None where the catalogue is too large for it."""

    knn: KnnConfig
    als: ImplicitConfig
    ease: float | None


def tuned(folds: Sequence[Validation], n_items: int, *, seed: int = 0, tell: Tell = lambda _: None) -> BaselineConfigs:
    """The best of a small grid for each, by Recall@20 + NDCG@20 on validation splits, as ours are chosen."""

    def best(what: str, values: Sequence[Value], scorer: Callable[[Matrix, Value], Scorer]) -> Value:
        judged = []
        for n, value in enumerate(values, 1):
            tell(f"{what}, {n} of {len(values)}: trying {value}")
            judged.append(float(np.mean([_judged(fold, scorer(fold.interactions, value)) for fold in folds])))
        found = values[int(np.argmax(judged))]
        tell(f"{what}: {found} is the best of {len(values)}, Recall@{_K} + NDCG@{_K} {max(judged):.4f}")
        return found

    if n_items > _MAX_EXACT:
        tell(f"EASE: left out, {too_large(n_items)}")
    return BaselineConfigs(
        knn=best("item-kNN", KNN_GRID, item_knn),
        als=best("ALS", ALS_GRID, lambda matrix, config: implicit_als(matrix, config, seed=seed)),
        ease=best("EASE", EASE_GRID, ease) if n_items <= _MAX_EXACT else None,
    )


def _judged(fold: Validation, scorer: Scorer) -> float:
    top, _ = top_items(scorer(fold.inputs), fold.inputs, popularity_of(fold.interactions), _K)
    quality = quality_at(top, fold.targets, _K)
    return float(quality.hits.sum() / quality.targets.sum() + quality.ndcg.mean())


def collaborative(interactions: Matrix, configs: BaselineConfigs, *, seed: int = 0) -> dict[str, Scorer]:
    """The baselines by name."""
    found = {
        "popularity": popularity(interactions),
        "item-kNN": item_knn(interactions, configs.knn),
        "ALS": implicit_als(interactions, configs.als, seed=seed),
    }
    return found if configs.ease is None else {**found, "EASE": ease(interactions, configs.ease)}


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
