"""The taste profile: a listener's interests as a few weighted directions in embedding space.

A listener of ballads and of metal is not their mean, which lies near neither. Likes are grouped by spherical k-means
(Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001), seeded by
farthest-first traversal instead of chance, so that the same likes give the same profile.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.ports.arrays import Floats, Ids
from models.catalogue import Interest

Labels = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """``n_interests``: centroids at the most; ``half_life_days``: age at which a dated like counts half.

    The recent taste, in which it does after ``recent_half_life_days``, is up to ``recent_share`` (0 to 1) of the whole.
    """

    n_interests: int = 4
    half_life_days: float = 365.0
    max_likes: int = 500
    recent_half_life_days: float = 14.0
    recent_share: float = 0.3

    def __post_init__(self) -> None:
        if min(self.n_interests, self.half_life_days, self.max_likes, self.recent_half_life_days) <= 0:
            raise ValueError(f"every value of a profile's config but the share must be positive: {self}")
        if not 0 <= self.recent_share <= 1:
            raise ValueError(f"a profile's recent_share must be from 0 to 1: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TasteProfile:
    """What a listener likes.

    ``liked_ids`` int64 (n,) and ``liked_vectors`` float32 (n, dim) are the likes that the index knows, unit vectors;
    ``liked_weights`` float32 (n,) how much each counts; ``centroids`` float32 (k, dim), unit vectors, ``weights``
    float32 (k,), falling and adding up to 1. A cold start has n = k = 0.
    """

    liked_ids: Ids
    liked_vectors: Floats
    liked_weights: Floats
    centroids: Floats
    weights: Floats

    @property
    def is_cold(self) -> bool:
        """Whether nothing is known that a search could start from."""
        return len(self.centroids) == 0


def interest_weights(interests: Sequence[Interest], now_s: float, config: ProfileConfig) -> dict[int, float]:
    """Weight by item id: strength, halved with every half-life of age. ``now_s``: seconds since the epoch."""
    weights: dict[int, float] = {}
    for interest in interests[: config.max_likes]:
        age_s = 0.0 if interest.occurred_at_s is None else max(0.0, now_s - interest.occurred_at_s)
        decay = 0.5 ** (age_s / 86_400 / config.half_life_days)
        weights[interest.item_id] = max(weights.get(interest.item_id, 0.0), interest.weight * decay)
    return weights


def build_profile(liked_ids: Ids, vectors: Floats, weights: Floats, config: ProfileConfig) -> TasteProfile:
    """The profile of likes with unit ``vectors`` float32 (n, dim); zero vectors and weights count for nothing."""
    usable = (np.linalg.norm(vectors, axis=1) > 0) & (weights > 0)
    liked_ids, vectors, weights = liked_ids[usable], vectors[usable], weights[usable]
    n_clusters = min(config.n_interests, max(1, len(liked_ids) // 3)) if len(liked_ids) else 0
    labels = _cluster(vectors, weights, n_clusters)
    centroids, shares = _summarise(vectors, weights, labels, n_clusters)
    return TasteProfile(
        liked_ids=liked_ids, liked_vectors=vectors, liked_weights=weights, centroids=centroids, weights=shares
    )


def _cluster(vectors: Floats, weights: Floats, n_clusters: int, n_rounds: int = 10) -> Labels:
    if n_clusters < 2:  # noqa: PLR2004 - one cluster needs no search
        return np.zeros(len(vectors), dtype=np.intp)
    centroids = vectors[_farthest_first(vectors, weights, n_clusters)]
    labels: Labels = np.argmax(vectors @ centroids.T, axis=1)
    for _ in range(n_rounds):
        centroids = _means(vectors, weights, labels, n_clusters)
        moved = np.argmax(vectors @ centroids.T, axis=1)
        if np.array_equal(moved, labels):
            break
        labels = moved
    return labels


def _farthest_first(vectors: Floats, weights: Floats, n: int) -> list[int]:
    chosen = [int(np.argmax(vectors @ (weights @ vectors)))]
    nearest = vectors @ vectors[chosen[0]]
    for _ in range(n - 1):
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
    return chosen


def _means(vectors: Floats, weights: Floats, labels: Labels, n: int) -> Floats:
    shares = np.where(labels == np.arange(n)[:, None], weights, np.float32(0))
    sums = shares @ vectors
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    means: Floats = np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 0)
    return means


def _summarise(vectors: Floats, weights: Floats, labels: Labels, n: int) -> tuple[Floats, Floats]:
    centroids = _means(vectors, weights, labels, n)
    shares = np.bincount(labels, weights=weights, minlength=n).astype(np.float32) if n else np.zeros(0, np.float32)
    kept = np.flatnonzero(np.linalg.norm(centroids, axis=1) > 0) if n else np.zeros(0, np.intp)
    kept = kept[np.argsort(-shares[kept], kind="stable")]
    total = shares[kept].sum()
    return centroids[kept], shares[kept] / total if total > 0 else shares[kept]
