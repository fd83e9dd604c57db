"""What the weights of a file are worth: plays, hours and stars have different scales, and none is a confidence.

A weight counts by how its logarithm compares with the mean of the same list, ``1 + strength * (log(1 + weight) / mean
- 1)``: of any unit, and 1 where all weights of a list are equal. It always counts a little; how much is chosen on a
validation split.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from core.collaborative import CollaborativeModel, Doubles, Floats, Indices, Likes
from core.evaluation import quality_at
from core.splits import Interactions, Split
from training.collaborative_fit import Matrix
from training.tuning import Parameters, fit
from training.validation import validation_of

_STRENGTHS = (0.05, 0.3, 1.0)
_FLOOR = 0.05
_K = 20


@dataclass(frozen=True, slots=True)
class Weighing:
    """How strongly weights count in training data and in what is asked."""

    train: float = _STRENGTHS[0]
    asked: float = _STRENGTHS[0]


def confidences(owners: Indices, weights: Doubles, strength: float) -> Floats:
    """One for each weight, float32 (n,), above 0; ``owners`` says whose list it is on."""
    logs = np.log1p(weights)
    sums, counts = np.bincount(owners, logs), np.bincount(owners)
    relative = logs / np.maximum(sums / np.maximum(counts, 1), np.finfo(np.float64).tiny)[owners]
    return np.maximum(1 + strength * (relative - 1), _FLOOR).astype(np.float32)


def weighed(data: Interactions, strength: float) -> Interactions:
    """With the confidence that its weights give every pair."""
    return replace(data, confidences=confidences(data.users, data.weights, strength))


def weighed_likes(likes: Likes, strength: float) -> Likes:
    """Lists whose weights are confidences."""
    return replace(likes, weights=confidences(likes.owners(), likes.weights.astype(np.float64), strength))


def choose_weighing(
    data: Interactions,
    split: Split,
    content: Matrix | None,
    parameters: Parameters,
    *,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Weighing:
    """The best of a few strengths by Recall@20 + NDCG@20 on a validation split; nothing to choose where all are 1."""
    if np.ptp(data.weights) == 0:
        return Weighing()
    judged = {}
    for strength in _STRENGTHS:
        fold = validation_of(weighed(data, strength), split, content)
        model = fit(fold.interactions, fold.content, parameters, seed=seed)
        for asked in _STRENGTHS:
            inputs = validation_of(weighed(data, asked), split, content).inputs
            judged[Weighing(strength, asked)] = _judged(model, inputs, fold.targets)
            tell(
                f"weighing, {len(judged)} of {len(_STRENGTHS) ** 2}: {Weighing(strength, asked)}, "
                f"Recall@{_K} + NDCG@{_K} {judged[Weighing(strength, asked)]:.4f}"
            )
    return max(judged, key=lambda weighing: judged[weighing])


def _judged(model: CollaborativeModel, inputs: Likes, targets: Likes) -> float:
    quality = quality_at(model.top(inputs, _K)[0], targets, _K)
    return float(quality.hits.sum() / quality.targets.sum() + quality.ndcg.mean())
