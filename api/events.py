"""What members did, told by HTTP: onto the queue that the backend's own events come by."""

import asyncio
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict
from starlette.exceptions import HTTPException

from api.query import KNOWN_ALONE
from api.recommendations import PUBLISH_WINDOW
from api.refusals import WRITE, away, documented, wrong_input
from api.responses import NO_SUCH_FIELD
from api.shapes import Body, Int64, MemberId, Shape
from core.errors import InvalidMessage
from core.event_codec import MAX_EVENT_ID_CHARS, decode_event
from core.ports.messages import EventPublisher
from models.event import Event, EventType

MAX_EVENTS = 500
EXAMPLE_EVENT: JsonDict = {
    "eventId": "0b0f3c52-1c3a-4a3e-9d55-0d8f3b7a4c11",
    "memberId": 7,
    "itemId": 4711,
    "type": "like",
    "occurredAt": "2026-01-31T09:00:00Z",
}


def _instant(value: object) -> object:
    # Said here: of a union, pydantic tells what is wrong with each of its members by the member's name.
    if isinstance(value, str) or type(value) in (int, float):
        return value
    raise ValueError("must be an instant, as text (ISO 8601) or in seconds since 1970")


class EventShape(Body):
    """One event, as the wire contract has it; ``songId`` is another name of ``itemId``.

    ``value``: seconds of a ``play``, the figure of a ``rating``. ``occurredAt``: an instant such as
    ``2026-01-31T09:00:00Z``, or seconds since 1970. Events of one ``eventId`` count once, so that a request whose
    answer was lost can be sent again; without one an id is made.
    """

    event_id: Annotated[str, Field(strict=True, min_length=1, max_length=MAX_EVENT_ID_CHARS)] | None = None
    member_id: MemberId
    item_id: Int64 | None = Field(
        None, validation_alias=AliasChoices("itemId", "songId", "item_id"), serialization_alias="songId"
    )
    type: EventType
    value: Annotated[float, Field(strict=True, allow_inf_nan=False)] | None = None
    completed: Annotated[bool, Field(strict=True)] | None = None
    occurred_at: Annotated[str | float, Field(union_mode="left_to_right"), BeforeValidator(_instant)] | None = None

    model_config = ConfigDict(json_schema_extra={"example": EXAMPLE_EVENT})


class EventsBody(Body):
    """Events, oldest first."""

    events: Annotated[tuple[EventShape, ...], Field(min_length=1, max_length=MAX_EVENTS)]

    model_config = ConfigDict(json_schema_extra={"example": {"events": [EXAMPLE_EVENT]}})


class AcceptedShape(Shape):
    """The events are safe on the queue; their ids in order."""

    accepted: int
    event_ids: Sequence[str]

    model_config = ConfigDict(
        json_schema_extra={"example": {"accepted": 1, "eventIds": ["0b0f3c52-1c3a-4a3e-9d55-0d8f3b7a4c11"]}}
    )


def events_router(publisher: EventPublisher, *, may_forget: bool) -> APIRouter:
    """The route; ``may_forget``: whether events of type ``forget``, which delete, are taken."""
    slip = wrong_input("events.0.itemID", NO_SUCH_FIELD, 4711)
    router = APIRouter(tags=["events"], dependencies=[KNOWN_ALONE], responses=documented(WRITE) | away("broker") | slip)

    @router.post("/events", summary="Tell what members did", status_code=HTTPStatus.ACCEPTED)
    async def publish(body: EventsBody) -> AcceptedShape:
        """Put what members did on the queue of events, all of it or, where the broker is away, some of it (503)."""
        events = [_event(place, shape) for place, shape in enumerate(body.events)]
        if not may_forget and any(event.type is EventType.FORGET for event in events):
            raise HTTPException(HTTPStatus.FORBIDDEN, "forget deletes what is kept: it is taken where API_KEY is set")
        for start in range(0, len(events), PUBLISH_WINDOW):
            await _publish_all(publisher, events[start : start + PUBLISH_WINDOW])
        return AcceptedShape(accepted=len(events), event_ids=[event.event_id for event in events])

    return router


async def _publish_all(publisher: EventPublisher, events: Sequence[Event]) -> None:
    outcomes = await asyncio.gather(*map(publisher.publish_event, events), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


def _event(place: int, shape: EventShape) -> Event:
    """The event as its queue's reader will see it; raises ``RequestValidationError`` where that one would refuse it."""
    named = shape if shape.event_id is not None else shape.model_copy(update={"event_id": str(uuid.uuid4())})
    try:
        return decode_event(named.model_dump_json(by_alias=True, exclude_none=True).encode())
    except InvalidMessage as error:
        problem = str(error).partition(": ")[2].rpartition(", got ")[0]
        value = getattr(shape, "item_id" if error.field == "songId" else _FIELDS.get(error.field, "event_id"))
        loc = ("body", "events", place, error.field)
        raise RequestValidationError([{"type": "value_error", "loc": loc, "msg": problem, "input": value}]) from None


_FIELDS = {"occurredAt": "occurred_at", "value": "value"}
