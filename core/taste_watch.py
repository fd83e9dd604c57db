"""Whether a member's taste has moved since their results were made: what they did may be more of the same."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

import numpy as np

from core.ports.arrays import Floats
from core.ports.clock import Clock
from core.ports.index import IndexProvider, ItemIndex
from core.profile import ProfileConfig
from core.taste import drift, taste_of
from models.catalogue import Listener


class ListenerHistory(Protocol):
    """What members liked and did."""

    async def listener_at(self, member_id: int, then_s: float) -> tuple[Listener, Listener]:
        """The member as at that second (since the epoch), and now. Raises ``DependencyUnavailable``."""


class LastResults(Protocol):
    """What members see."""

    async def made_at(self, member_id: int) -> datetime | None:
        """When the newest result of the member was asked for; None where there is none.

        Raises ``DependencyUnavailable``.
        """


class DriftWatch:
    """Compares the taste that the newest result was made from with that of now.

    Taste is one direction here, what is liked less what is disliked, each by its weight at the time.
    """

    def __init__(
        self,
        listeners: ListenerHistory,
        results: LastResults,
        index: IndexProvider,
        clock: Clock,
        *,
        config: ProfileConfig,
        threshold: float,
    ) -> None:
        self._listeners = listeners
        self._results = results
        self._index = index
        self._clock = clock
        self._config = config
        self._threshold = threshold

    async def has_moved(self, member_id: int) -> bool:
        """Further than the threshold; where no result is, there is nothing to refresh.

        Raises ``DependencyUnavailable``.
        """
        made_at = await self._results.made_at(member_id)
        if made_at is None:
            return False
        then, now = await self._listeners.listener_at(member_id, made_at.timestamp())
        if then.disliked_ids != now.disliked_ids:
            return True
        index = self._index.current()
        before = await self._direction(then, made_at, index)
        after = await self._direction(now, self._clock.now(), index)
        if not np.any(before):
            return bool(np.any(after))
        return drift(before, after) > self._threshold

    async def _direction(self, listener: Listener, at: datetime, index: ItemIndex) -> Floats:
        taste = taste_of(listener, at.timestamp(), self._config)
        signed: Mapping[int, float] = {**taste.liked, **{item: -weight for item, weight in taste.averse.items()}}
        ids, vectors = await index.vectors(list(signed))
        weights = np.array([signed[item_id] for item_id in ids.tolist()], dtype=np.float32)
        return np.asarray(weights @ vectors, dtype=np.float32)
