"""What simulated members did, as columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from training.simulator.world import Doubles, Indices

KINDS = ("play", "skip", "repeat", "like", "unlike", "dislike")
"""Types of events; ``Happenings.kinds`` are places in this."""
PLAY, SKIP, REPEAT, LIKE, UNLIKE, DISLIKE = range(len(KINDS))
_US = 1e6


@dataclass(frozen=True, slots=True, eq=False)
class Happenings:
    """Events in order of member and time, n of them.

    ``members`` int64 ids; ``items`` int64 ids; ``kinds`` int8; ``seconds`` float64 listened, NaN where that makes no
    sense; ``completed`` int8, -1 where it makes none; ``at_us`` int64, microseconds since the first day's midnight;
    ``numbers`` int64, the place among the member's, from 0. All of shape (n,).
    """

    members: Indices
    items: Indices
    kinds: npt.NDArray[np.int8]
    seconds: Doubles
    completed: npt.NDArray[np.int8]
    at_us: Indices
    numbers: Indices

    def __len__(self) -> int:
        """How many there are."""
        return len(self.members)

    @classmethod
    def in_order(
        cls,
        members: Indices,
        items: Indices,
        kinds: Indices,
        seconds: Doubles,
        completed: Indices,
        at_s: Doubles,
    ) -> "Happenings":
        """Sorted by member, time, and the order given."""
        at_us = np.round(at_s * _US).astype(np.int64)
        order = np.lexsort((np.arange(len(members)), at_us, members))
        members = members[order]
        _, starts, counts = np.unique(members, return_index=True, return_counts=True)
        numbers = np.arange(len(members)) - np.repeat(starts, counts)
        return cls(
            members=members,
            items=items[order],
            kinds=kinds[order].astype(np.int8),
            seconds=np.round(seconds[order], 1),
            completed=completed[order].astype(np.int8),
            at_us=at_us[order],
            numbers=numbers.astype(np.int64),
        )

    @classmethod
    def joined(cls, parts: Iterable["Happenings"]) -> "Happenings":
        """One after the other."""
        columns = [[getattr(part, each.name) for each in fields(cls)] for part in parts]
        return cls(*(np.concatenate(column) for column in zip(*columns, strict=True)))

    @classmethod
    def merged(cls, parts: Sequence["Happenings"]) -> "Happenings":
        """All of them in order of member and time, numbered anew."""
        found = cls.joined(parts)
        seconds, completed = found.seconds, found.completed.astype(np.int64)
        at_s = found.at_us / _US
        return cls.in_order(found.members, found.items, found.kinds.astype(np.int64), seconds, completed, at_s)

    def only(self, mask: npt.NDArray[np.bool_] | Indices) -> "Happenings":
        """Those that ``mask`` keeps, or in the order of the places that it names."""
        return Happenings(*(getattr(self, each.name)[mask] for each in fields(self)))

    def numbered_from(self, firsts: Indices) -> "Happenings":
        """The same with ``numbers`` raised by ``firsts``, (n,)."""
        return replace(self, numbers=self.numbers + firsts)
