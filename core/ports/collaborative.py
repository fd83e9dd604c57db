"""Collaborative signals, and the interactions that they are fitted on.

The docstrings are the contract that every adapter is tested by. Where a method names no other error, the only one that
it raises is ``DependencyUnavailable``.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from core.ports.arrays import Floats, Ids
from core.ports.index import Hits


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionWeights:
    """What each source's z-score weighs in the first stage; chosen on validation by ``main.py fit``."""

    content: float = 1.0
    collaborative: float = 1.0
    popularity: float = 0.1
    same_creator: float = 0.0


class CollaborativeSource(Protocol):
    """One immutable fitted model, for listeners whom it need not know."""

    @property
    def version(self) -> str:
        """The version under which the model is stored."""

    @property
    def weights(self) -> FusionWeights:
        """What ``fit`` found to be the best mixture on its validation split."""

    def listener(self, likes: Mapping[int, float]) -> Floats | None:
        """The vector, float32 (dim,), of one who likes these items by these weights; None where it knows none."""

    async def search(self, listener: Floats, n: int, *, excluded: Collection[int] = ()) -> Hits:
        """The ``n`` items of the highest inner product with ``listener``; scores are those products."""

    def scores(self, listener: Floats, item_ids: Ids) -> Floats:
        """The scores of ``item_ids``, float32 (n,), on the scale of ``search``; NaN where an item is unknown."""


class CollaborativeProvider(Protocol):
    """Holds the model in force; refreshing swaps it whole."""

    def current(self) -> CollaborativeSource | None:
        """The newest model, or None while there is none: a fresh site has nothing to fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """A member's positive signal on an item: ``weight`` above 0, 1 being an ordinary like.

    ``occurred_at``: its last sign; ``first_at``: the first that there was of the two, None where that is the same.
    """

    member_id: int
    item_id: int
    weight: float
    occurred_at: datetime | None = None
    first_at: datetime | None = None


class InteractionLog(Protocol):
    """What members did, for fitting."""

    def stream(self, batch_size: int = 10_000) -> AsyncIterator[Sequence[Interaction]]:
        """All positive signals on active items, in batches; of what a member takes back or dislikes, nothing."""
