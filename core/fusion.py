"""One score of several: the weighted mean of z-scores, which beat a fusion of ranks on every data set that we tried.

They are taken over the candidates of one listener, so that no signal's own scale counts, and no score is a probability.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.ports.arrays import Floats
from core.ports.collaborative import FusionWeights

Doubles = npt.NDArray[np.float64]

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What speaks for each of n candidates of one listener, each (n,) and on a scale of its own.

    ``collaborative`` is NaN where the model does not know an item; ``same_creator`` is 1 for those by a creator of whom
    the listener likes something, else 0.
    """

    content: Floats
    collaborative: Floats
    popularity: Floats
    same_creator: Floats


def fuse(signals: Signals, weights: FusionWeights) -> Floats:
    """The weighted mean of the z-scores, float32 (n,), higher being better; an unknown score counts as the mean.

    What is common to few has no z-score worth the name: ``same_creator`` counts as it is, in standard deviations.
    """
    parts = (
        (weights.content, standardised(signals.content)),
        (weights.collaborative, standardised(signals.collaborative)),
        (weights.popularity, standardised(signals.popularity)),
        (weights.same_creator, np.asarray(signals.same_creator, dtype=np.float64)),
    )
    total = sum(weight for weight, _ in parts)
    if total <= 0:
        return np.zeros(len(signals.content), dtype=np.float32)
    fused = np.sum([weight * part for weight, part in parts], axis=0) / total
    return np.asarray(fused, dtype=np.float32)


def standardised(scores: Floats) -> Doubles:
    """Z-scores, float64 (n,): 0 where a score is NaN, and for all where the known ones do not differ."""
    known = np.isfinite(scores)
    z_scores = np.zeros(len(scores))
    if known.any():
        values = scores[known].astype(np.float64)
        centred, deviation = values - values.mean(), values.std()
        # Rounding alone makes equal scores differ a little.
        z_scores[known] = centred / deviation if deviation > _ROUNDING * np.abs(values).max() else 0.0
    return z_scores


def to_share(fused: Floats) -> Floats:
    """0 to 1, float32 (n,), rising with ``fused``: the logistic function, 0.5 for an average candidate.

    The normal distribution's own function is flat from three deviations on, where the best candidates are.
    """
    shares: Floats = (1 / (1 + np.exp(-np.asarray(fused, dtype=np.float64)))).astype(np.float32)
    return shares
