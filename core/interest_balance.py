"""Keeps every interest of a listener in the list by its weight, whatever scores its candidates have.

Scores compare likenesses, and these are lower throughout where songs are rare or an interest holds few likes: by score
alone such an interest all but vanishes. Calibrated recommendations (Steck, RecSys 2018) weigh how far the shares of a
list are from those of the taste against its relevance, one place after the other. So does this, but by places and not
by the divergence of the shares: that is steepest at the head of a list, where relevance counts most, and cost more
accuracy wherever it was measured.
"""

import numpy as np

from core.ports.arrays import Floats, Ids


class InterestBalance:
    """What speaks for each candidate because of what was chosen so far.

    ``interests`` int64 (n,): the interest of each candidate; ``weights`` float32 (k,): their shares of the taste, which
    add up to 1; ``strength``: what one place that an interest lacks is worth to each of its candidates.
    """

    def __init__(self, interests: Ids, weights: Floats, strength: float) -> None:
        self._interests = interests
        self._per_place = np.float32(strength)
        self._due = self._per_place * weights
        self._lacking = self._due.copy()

    def gains(self) -> Floats:
        """To be added to the candidates' scores for the next place, float32 (n,); negative where there are too many."""
        return self._lacking.take(self._interests)  # by [] it takes twice as long

    def choose(self, place: int) -> None:
        """The candidate at ``place`` takes the next place."""
        self._lacking += self._due
        self._lacking[self._interests[place]] -= self._per_place
