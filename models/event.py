"""An event: what a member did, once its delivery has been decoded."""

from dataclasses import dataclass
from enum import StrEnum


class EventType(StrEnum):
    """What a member may do."""

    LIKE = "like"
    UNLIKE = "unlike"
    DISLIKE = "dislike"
    PLAY = "play"
    SKIP = "skip"
    REPEAT = "repeat"
    RATING = "rating"
    PLAYLIST_ADD = "playlist_add"
    FORGET = "forget"


VERDICTS = frozenset({EventType.LIKE, EventType.UNLIKE, EventType.DISLIKE, EventType.FORGET})
"""Types that say, or take back, what a member thinks of an item; the others are signs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event.

    ``item_id`` is None only in a ``forget`` of everything. ``value``: seconds of a ``play``, the figure of a
    ``rating``. ``occurred_at_ns``: nanoseconds since the epoch (UTC), exact, or None where the publisher gave none.
    """

    event_id: str
    member_id: int
    type: EventType
    item_id: int | None = None
    value: float | None = None
    completed: bool | None = None
    occurred_at_ns: int | None = None

    @property
    def forgets_the_member(self) -> bool:
        """Whether everything that is known of the member is to go."""
        return self.type is EventType.FORGET and self.item_id is None
