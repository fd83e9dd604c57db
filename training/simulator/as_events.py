"""Simulated happenings as events, with ids that a second run gives again."""

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from math import isnan

import numpy as np

from models.event import Event, EventType
from training.simulator.happenings import KINDS, Happenings
from training.simulator.world import World

PREFIX = "sim-"
"""Of the ids of all simulated events, and of no others."""

_TYPES = tuple(EventType(kind) for kind in KINDS)
_COMPLETED = (False, True, None)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def run_prefix(world: World, *parts: object) -> str:
    """Of the ids of one run: it changes with the catalogue, the assumptions and ``parts``."""
    digest = blake2b(world.digest() + repr(parts).encode(), digest_size=6)
    return f"{PREFIX}{digest.hexdigest()}-"


def event_id(prefix: str, member_id: int, number: int) -> str:
    """Ids rise with the member and the number, so that a table in their order is appended to."""
    return f"{prefix}{member_id:012}-{number:06}"


def member_of(found_id: str) -> int:
    """The member in an id that ``event_id`` made."""
    return int(found_id.split("-")[2])


def events_of(found: Happenings, start: datetime, prefix: str) -> list[Event]:
    """``start`` is the midnight, in UTC, that the times of ``found`` are counted from."""
    since_us = (start - _EPOCH) // timedelta(microseconds=1)
    completed = np.where(found.completed < 0, 2, found.completed)
    columns = (
        found.members.tolist(),
        found.items.tolist(),
        found.kinds.tolist(),
        found.seconds.tolist(),
        completed.tolist(),
        ((found.at_us + since_us) * 1000).tolist(),
        found.numbers.tolist(),
    )
    return [
        Event(
            event_id=event_id(prefix, member, number),
            member_id=member,
            type=_TYPES[kind],
            item_id=item,
            value=None if isnan(seconds) else seconds,
            completed=_COMPLETED[heard],
            occurred_at_ns=at_ns,
        )
        for member, item, kind, seconds, heard, at_ns, number in zip(*columns, strict=True)
    ]
