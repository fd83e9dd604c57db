"""What was shown again and again without a reaction sinks, so that tomorrow's list is not today's."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import numpy as np

from core.ports.arrays import Floats, Ids

_HALF_LIFE_DAYS = 7.0
"""Age of the last showing at which it counts half: what sank comes up again."""


@dataclass(frozen=True, slots=True)
class Shown:
    """On how many days before today an item was shown since the last reaction to it, and how long ago the last was."""

    n_days: int
    since_last: timedelta


class Impressions(Protocol):
    """What members were shown."""

    async def shown(self, member_id: int) -> Mapping[int, Shown]:
        """By item; what they reacted to since is left out. Raises ``DependencyUnavailable``."""


def repetition_factors(item_ids: Ids, shown: Mapping[int, Shown], strength: float) -> Floats:
    """What is left of the score of each of ``item_ids``, float32 (n,), above 0 and up to 1, which is all of it."""
    counts = [_faded(shown[item_id]) if item_id in shown else 0.0 for item_id in item_ids.tolist()]
    return (1 / (1 + strength * np.array(counts, dtype=np.float32))).astype(np.float32)


def _faded(shown: Shown) -> float:
    return float(shown.n_days * 0.5 ** (shown.since_last / timedelta(days=_HALF_LIFE_DAYS)))
