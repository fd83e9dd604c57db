"""The catalogue and its members.

The docstrings are the contract that every adapter is tested by. Where a method names no other error, the only one that
it raises is ``DependencyUnavailable``.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from core.ports.arrays import Ids
from models.catalogue import Item, Listener


class Catalogue(Protocol):
    """Items as the source of truth holds them at this moment."""

    async def items(self, item_ids: Collection[int]) -> dict[int, Item]:
        """The active items among ``item_ids`` by id, in one round trip; unknown and inactive ids are left out.

        What only offline steps need, ``features`` and ``popularity``, is not looked up.
        """

    async def active_ids(self, item_ids: Collection[int]) -> set[int]:
        """Those of ``item_ids`` that exist and are active, in one round trip."""

    def stream(self, batch_size: int = 1000) -> AsyncIterator[Sequence[Item]]:
        """All active items, complete, in order of id and in batches: for offline steps, never for a job."""


@dataclass(frozen=True, slots=True)
class ItemsMark:
    """What was known of the items at some time: ``active_ids`` int64 (n,), rising, and when each was changed.

    ``dates`` int64 (n,): numbers that differ where the dates do. ``modified_at`` is the last of the dates, None where
    no item has one.
    """

    modified_at: datetime | None
    active_ids: Ids
    dates: Ids


@dataclass(frozen=True, slots=True)
class ItemChanges:
    """``changed``: active items that are new or may have changed; ``gone``: those that no longer are; ids, rising."""

    changed: Ids
    gone: Ids
    mark: ItemsMark


class ChangingCatalogue(Catalogue, Protocol):
    """A catalogue that tells what has changed: for steps that keep something of every item."""

    async def mark(self) -> ItemsMark:
        """What there is now."""

    async def changes(self, mark: ItemsMark) -> ItemChanges:
        """What is not as it was at ``mark``."""

    async def complete_items(self, item_ids: Collection[int]) -> Sequence[Item]:
        """The active items among ``item_ids``, complete as ``stream`` has them, in order of id."""


@dataclass(frozen=True, slots=True)
class SearchHit:
    """An item that a search by name found; ``score`` is comparable within one search only, higher is better."""

    item_id: int
    score: float


class ItemSearch(Protocol):
    """Finds items by what people type of their names."""

    async def search(self, text: str, n: int) -> Sequence[SearchHit]:
        """The best ``n``, best first; none where ``text`` holds no letter or digit.

        Raises ``DependencyUnavailable`` also while the names are still being read.
        """


class FeatureStore(Protocol):
    """What was measured of items."""

    async def features(self, item_ids: Collection[int]) -> dict[int, Mapping[str, float]]:
        """Numbers by name of those of ``item_ids`` that have any, in one round trip."""


class ListenerStore(Protocol):
    """What members like and have."""

    async def listener(self, member_id: int) -> Listener:
        """The member's likes, lists and dislikes, in one round trip; an unknown member has none."""


class ActiveMembers(Protocol):
    """Who is worth a refresh before they ask."""

    async def active_member_ids(self, limit: int, offset: int = 0) -> Sequence[int]:
        """At most ``limit`` members from ``offset`` on, those with the newest likes first, in one round trip."""
