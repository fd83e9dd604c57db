"""Event messages: bytes to ``Event`` and back, by the wire contract."""

import json
import math
from collections.abc import Mapping
from decimal import Decimal

from core.errors import InvalidMessage
from core.wire_json import (
    INT64_MAX,
    INT64_MIN,
    Fields,
    UnreadNumber,
    identifier,
    instant_ns,
    iso_instant,
    member_id,
    pairs_of,
    refuse_repeats,
    text_of,
    text_value,
)
from models.event import Event, EventType

MAX_EVENT_ID_CHARS = 200
INVALID_EVENT = "INVALID_EVENT"
"""The code of an event that can never be handled."""

_FIELDS = frozenset({"eventId", "memberId", "songId", "type", "value", "completed", "occurredAt"})


def decode_event(body: bytes) -> Event:
    """The event in ``body``.

    Null reads as absent, and unknown fields are ignored. Raises ``InvalidMessage`` naming the field and its value: also
    for a field of ours that stands twice, an event other than ``forget`` that names no song, a ``rating`` without a
    value, and a ``play`` of less than no seconds. Instants are read as those of jobs are.
    """
    try:
        members = pairs_of(text_of(body))
        refuse_repeats(members, _FIELDS)
        return _event(Fields(dict(members)))
    except InvalidMessage as error:
        error.code = INVALID_EVENT
        raise


def _event(fields: Fields) -> Event:
    kind = _type(fields.get("type"))
    return Event(
        event_id=identifier("eventId", fields.get("eventId"), MAX_EVENT_ID_CHARS),
        member_id=member_id(fields.get("memberId")),
        type=kind,
        item_id=_item_id(fields, kind),
        value=_value(fields.get("value"), kind),
        completed=_completed(fields.get("completed")),
        occurred_at_ns=instant_ns("occurredAt", fields.get("occurredAt")),
    )


def _type(value: object) -> EventType:
    try:
        return EventType(text_value("type", value))
    except ValueError:
        raise InvalidMessage("type", value, f"must be one of {', '.join(EventType)}") from None


def _item_id(fields: Fields, kind: EventType) -> int | None:
    item_id = fields.integer("songId", minimum=INT64_MIN, maximum=INT64_MAX)
    if item_id is None and kind is not EventType.FORGET:
        raise InvalidMessage("songId", None, f"must not be absent in an event of type {kind.value}")
    return item_id


def _value(value: object, kind: EventType) -> float | None:
    if value is None:
        if kind is EventType.RATING:
            raise InvalidMessage("value", None, "must not be absent in an event of type rating")
        return None
    number = _number(value)
    if kind is EventType.PLAY and number < 0:
        raise InvalidMessage("value", value, "must not be below 0: it is the seconds of a play")
    return number


def _number(value: object) -> float:
    if isinstance(value, UnreadNumber | bool) or not isinstance(value, int | Decimal):
        raise InvalidMessage("value", value, "must be a number or null")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidMessage("value", value, "must be a number of double precision")
    return number


def _completed(value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise InvalidMessage("completed", value, "must be true, false or null")
    return value


def encode_event(event: Event) -> bytes:
    """``event`` as a publisher of the backend would write it; what it does not hold is left out."""
    message: Mapping[str, object] = {
        "eventId": event.event_id,
        "memberId": event.member_id,
        "songId": event.item_id,
        "type": event.type.value,
        "value": event.value,
        "completed": event.completed,
        "occurredAt": None if event.occurred_at_ns is None else iso_instant(event.occurred_at_ns),
    }
    present = {name: value for name, value in message.items() if value is not None}
    return json.dumps(present, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
