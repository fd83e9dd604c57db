"""What events come to: the roles of those who keep them, act on them and refresh results."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID, uuid5

from models.event import Event, EventType
from models.job import Job

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BURSTS = UUID("0d4f8f0e-7d0f-4c5c-9a3e-2f1f5f6f3c11")


class EventLog(Protocol):
    """Keeps events; every method raises ``DependencyUnavailable``."""

    async def write(self, events: Sequence[Event], *, arrived_at: datetime) -> frozenset[str]:
        """Write all of them at once; those that are there already stay as they are.

        Returns the ids of those that were left out, since their member was forgotten after they happened.
        """

    async def delete_before(self, instant: datetime) -> int:
        """Delete all that happened before ``instant``; how many there were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """What events came to: how many of them were the first to ask for a refresh, and how many joined another.

    ``reacted``: members and types of those that were about something that the member had been shown.
    """

    n_asked: int = 0
    n_debounced: int = 0
    reacted: Sequence[tuple[int, EventType]] = ()


class Feedback(Protocol):
    """Acts on events: what was refused disappears from what is cached, and refreshes become due."""

    async def take_in(self, events: Sequence[Event], *, arrived_at: datetime) -> TakenIn:
        """All of it in one step; a second time it changes nothing, nor what was before its member was forgotten.

        Raises ``DependencyUnavailable``.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRefresh:
    """A refresh that is to be made now, by whoever took it.

    ``burst`` names what asked for it. Not ``is_sure``: only where the member's taste has moved. ``item_ids``: the
    likes, where they were told; else the worker looks them up.
    """

    member_id: int
    burst: str
    is_sure: bool
    item_ids: Sequence[int] = ()

    def job(self, *, requested_at_ns: int) -> Job:
        """Its id follows from member and burst: whoever publishes it, and how often, it is one job."""
        return Job(
            job_id=str(uuid5(_BURSTS, f"{self.member_id}:{self.burst}")),
            member_id=self.member_id,
            favorite_item_ids=tuple(sorted(self.item_ids)),
            source="favorites",
            requested_at_ns=requested_at_ns,
        )


class RefreshRequests(Protocol):
    """Debounces: what asks for a member's refresh again and again comes to one job.

    Every method raises ``DependencyUnavailable``.
    """

    async def ask(self, member_id: int, item_ids: Sequence[int] = ()) -> bool:
        """Ask for a refresh, of these likes where any are told; True where nothing had asked for it before."""

    async def take(self, n: int) -> Sequence[DueRefresh]:
        """Up to ``n`` that are due, each handed to one caller; one that is not ``done`` in time is due again."""

    async def done(self, refresh: DueRefresh) -> None:
        """Its job is published, or is not needed; what has asked since it was taken is another burst."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """How much there is of a member, by the place where it is kept; ``places`` that hold nothing are 0."""

    places: Mapping[str, int] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """In all places."""
        return sum(self.places.values())


class Forgetting(Protocol):
    """Removes all that is kept of members; every method raises ``DependencyUnavailable``."""

    async def forget(self, member_id: int, at: datetime) -> Remains:
        """Remove what the member did until ``at``, and all that was made of it; how much that was, by place.

        What is under way for them is not kept when it comes.
        """

    async def remains(self, member_id: int) -> Remains:
        """What there is of the member at this moment, looked up."""


def refused_ids(events: Collection[Event]) -> frozenset[int]:
    """The items that these events of one member, in order, leave refused."""
    refused: set[int] = set()
    for event in events:
        if event.item_id is None:
            continue
        if event.type is EventType.DISLIKE:
            refused.add(event.item_id)
        elif event.type in (EventType.LIKE, EventType.UNLIKE, EventType.FORGET):
            refused.discard(event.item_id)
    return frozenset(refused)


def happened_at(event: Event, arrived_at: datetime) -> datetime:
    """When it happened, to the microsecond: when it arrived at the latest, whatever the publisher's clock says."""
    if event.occurred_at_ns is None:
        return arrived_at
    return min(_EPOCH + timedelta(microseconds=max(0, event.occurred_at_ns) // 1000), arrived_at)
