"""What a member's rows come to: the backend's likes and lists, and the events that we keep ourselves."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf, log2
from typing import Any

from models.catalogue import Interest, Listener
from services.signs import PLAYLIST_ADD, RATINGS

LIKES_ROW, LIST_ROW = "row of likes", "row of a list"
_LIKE, _UNLIKE, _DISLIKE, _FORGET = "like", "unlike", "dislike", "forget"
VERDICT_EVENTS = (_LIKE, _UNLIKE, _DISLIKE, _FORGET)
"""Types of events that say, or take back, what a member thinks of an item."""


@dataclass(slots=True)
class Signs:
    """What an item was given besides a like: how often each kind of sign, and the second of the last of each."""

    counts: Counter[str] = field(default_factory=Counter)
    last_s: dict[str, float] = field(default_factory=dict)

    def weight(self, strengths: Mapping[str, float]) -> float:
        """What they say together; of ratings only the last counts."""
        rating = max((kind for kind in RATINGS if kind in self.last_s), key=self.last_s.__getitem__, default=None)
        kinds = [kind for kind in self.counts if kind not in RATINGS or kind == rating]
        return round(sum(strengths.get(kind, 0.0) * _times(self.counts[kind], kind) for kind in kinds), 3)


@dataclass(slots=True)
class MemberHistory:
    """A member's rows, sorted: items by id with the second they were liked at, minus infinity where nobody knows.

    The last event on an item decides: a like counts as one of the backend's, a dislike stands until a later like, and
    ``forget`` takes either back (all of the member's where it names no item). Events of other kinds are signs.
    """

    likes: dict[int, float] = field(default_factory=dict)
    listed: set[int] = field(default_factory=set)
    events: list[tuple[float, str, int | None]] = field(default_factory=list)

    @classmethod
    def of(
        cls, rows: Iterable[Sequence[Any]], *, until_s: float = inf, after_s: float | None = None
    ) -> "MemberHistory":
        """Of rows of item id (or None), kind (a constant above, a sign or an event's type) and instant.

        Only of what was not later than ``until_s``, and of what was later than ``after_s``: what nobody knows the
        instant of was before both.
        """
        history = cls()
        for item_id, kind, at in rows:
            at_s = _seconds(at)
            if at_s <= until_s and (after_s is None or at_s > after_s):
                history._add(item_id, kind, at_s)
        return history

    def _add(self, item_id: int | None, kind: str, at_s: float) -> None:
        if kind not in (LIKES_ROW, LIST_ROW):
            self.events.append((at_s, kind, item_id))
        elif item_id is not None and kind == LIST_ROW:
            self.listed.add(item_id)
        elif item_id is not None:
            self.likes[item_id] = max(at_s, self.likes.get(item_id, -inf))

    def listener(
        self,
        member_id: int,
        like_weight: float,
        list_weight: float,
        strengths: Mapping[str, float] | None = None,
        dislike: float = -1.0,
    ) -> Listener:
        """What is liked, newest first, then what is in lists; what is disliked counts as neither, but as seen.

        Reactions by ``strengths`` of signs, in order of items; ``dislike``: that of what is disliked.
        """
        verdicts = self._verdicts()
        liked = self.likes | {item: at for item, (kind, at) in verdicts.items() if kind == _LIKE}
        disliked = frozenset(
            item for item, (kind, at) in verdicts.items() if kind == _DISLIKE and at >= self.likes.get(item, -inf)
        )
        signs = self.signs()
        listed_ids = self.listed | {item for item, given in signs.items() if given.counts[PLAYLIST_ADD]}
        newest_first = sorted(liked.keys() - disliked, key=lambda item: (-liked[item], item))
        likes = [Interest(item, like_weight, None if liked[item] == -inf else liked[item]) for item in newest_first]
        listed = [Interest(item, list_weight) for item in sorted(listed_ids - liked.keys() - disliked)]
        return Listener(
            member_id=member_id,
            interests=(*likes, *listed),
            seen_ids=frozenset(liked) | listed_ids,
            disliked_ids=disliked,
            reactions=self._reactions(signs, verdicts, disliked, strengths or {}, dislike),
        )

    def _reactions(
        self,
        signs: "Mapping[int, Signs]",
        verdicts: Mapping[int, tuple[str, float]],
        disliked: frozenset[int],
        strengths: Mapping[str, float],
        dislike: float,
    ) -> tuple[Interest, ...]:
        refused = [Interest(item, dislike, verdicts[item][1]) for item in disliked]
        done = [
            Interest(item, weight, max(given.last_s.values()))
            for item, given in signs.items()
            if item not in disliked and (weight := given.weight(strengths))
        ]
        return tuple(sorted([*refused, *done], key=lambda each: each.item_id))

    def _verdicts(self) -> dict[int, tuple[str, float]]:
        """What the events come to: like or dislike by item, and since when."""
        verdicts: dict[int, tuple[str, float]] = {}
        for at_s, kind, item_id in self._in_order():
            if item_id is None:
                if kind == _FORGET:
                    verdicts.clear()
            elif kind in (_LIKE, _DISLIKE):
                verdicts[item_id] = (kind, at_s)
            elif kind in VERDICT_EVENTS:
                verdicts.pop(item_id, None)
        return verdicts

    def signs(self) -> dict[int, Signs]:
        """By item, those that no later ``unlike``, ``dislike`` or ``forget`` took back."""
        signs: dict[int, Signs] = {}
        for at_s, kind, item_id in self._in_order():
            if item_id is None:
                if kind == _FORGET:
                    signs.clear()
            elif kind not in VERDICT_EVENTS:
                found = signs.setdefault(item_id, Signs())
                found.counts[kind] += 1
                found.last_s[kind] = at_s
            elif kind != _LIKE:
                signs.pop(item_id, None)
        return signs

    def first_s(self) -> dict[int, float]:
        """By item the second of the first thing known of it, taken back since or not; none where no instant is."""
        first = {item: at_s for item, at_s in self.likes.items() if at_s > -inf}
        for at_s, _, item_id in self.events:
            if item_id is not None:
                first[item_id] = min(at_s, first.get(item_id, inf))
        return first

    def _in_order(self) -> list[tuple[float, str, int | None]]:
        return sorted(self.events, key=lambda event: event[:2])


def _times(n: int, kind: str) -> float:
    return 1.0 if kind in RATINGS else 1 + log2(n)


def _seconds(at: datetime | None) -> float:
    # Databases give naive instants; the session's time zone is UTC.
    return at.replace(tzinfo=UTC).timestamp() if at else -inf
