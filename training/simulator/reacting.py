"""What a listener makes of a play, given how much it truly suits."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.simulator.assumptions import Assumptions
from training.simulator.world import Doubles, Floats

Mask = npt.NDArray[np.bool_]

N_DRAWS = 6
"""Numbers between 0 and 1 that a reaction takes."""


@dataclass(frozen=True, slots=True, eq=False)
class Reactions:
    """To n plays: ``seconds`` float64 listened; of ``completed`` and ``skipped`` one at the most; and verdicts."""

    seconds: Doubles
    completed: Mask
    skipped: Mask
    liked: Mask
    disliked: Mask


def react(affinity: Floats, lengths_s: Doubles, draws: Doubles, known: Assumptions) -> Reactions:
    """``draws`` are uniform on [0, 1), of shape (n, N_DRAWS); the others (n,)."""
    hears_out, leaves_soon, how_long, likes, dislikes, _ = draws.T
    completed = hears_out < known.completed_floor + known.completed_slope * affinity
    skipped = ~completed & (leaves_soon < known.skipped_share)
    soon_s = np.minimum(-np.log1p(-how_long) * known.skip_mean_s, np.minimum(known.skip_within_s, lengths_s))
    late_s = known.skip_within_s + how_long * np.maximum(lengths_s - known.skip_within_s, 0)
    return Reactions(
        seconds=np.where(completed, lengths_s, np.where(skipped, soon_s, np.minimum(late_s, lengths_s))),
        completed=completed,
        skipped=skipped,
        liked=completed & (likes < known.like_rate * affinity**2),
        disliked=skipped & (dislikes < known.dislike_rate * (1 - affinity) ** 2),
    )
