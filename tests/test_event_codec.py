"""Events on the wire: what is read, what is refused, and how the refusal names the field and its value."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidMessage
from core.event_codec import INVALID_EVENT, decode_event, encode_event
from core.job_codec import decode_job
from core.wire_json import MAX_BODY_BYTES
from models.event import VERDICTS, Event, EventType

NS_OF_2026 = 1_767_225_600_000_000_000
LIKE = {"eventId": "e-1", "memberId": 7, "songId": 3, "type": "like", "occurredAt": "2026-01-01T00:00:00Z"}
INT64 = st.integers(-(2**63), 2**63 - 1)
# From the first second of year 1 to the last of 9999.
INSTANTS = st.integers(-62_135_596_800_000_000_000, 253_402_300_799_999_999_999)
IDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=200).filter(str.strip)


def body(**changes: object) -> bytes:
    """A like with ``changes``; a field that is ``...`` is left out."""
    return json.dumps({name: value for name, value in {**LIKE, **changes}.items() if value is not ...}).encode()


def refusal(raw: bytes) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        decode_event(raw)
    return caught.value


def outcome(raw: bytes) -> Event | InvalidMessage:
    try:
        return decode_event(raw)
    except InvalidMessage as error:
        return error


@st.composite
def events(draw: st.DrawFn) -> Event:
    kind = draw(st.sampled_from(EventType))
    numbers = st.floats(0 if kind is EventType.PLAY else None, allow_nan=False, allow_infinity=False)
    return Event(
        event_id=draw(IDS),
        member_id=draw(INT64),
        type=kind,
        item_id=draw(INT64 | st.none() if kind is EventType.FORGET else INT64),
        value=draw(numbers if kind is EventType.RATING else numbers | st.none()),
        completed=draw(st.booleans() | st.none()),
        occurred_at_ns=draw(INSTANTS | st.none()),
    )


@given(events())
def test_every_event_that_is_written_is_read_back_as_it_was(event: Event) -> None:
    assert decode_event(encode_event(event)) == event


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_raise_anything_but_a_refusal_that_has_a_code(raw: bytes) -> None:
    read = outcome(raw)
    if isinstance(read, InvalidMessage):
        assert read.code == INVALID_EVENT
        str(read).encode()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted({*LIKE, "value", "completed"})), _JSON)
def test_whatever_a_field_holds_the_refusal_names_that_field(field: str, value: object) -> None:
    read = outcome(json.dumps({**LIKE, field: value}).encode())
    if isinstance(read, InvalidMessage):
        assert read.field == field
        assert str(read).startswith(f"{field}: ")


def test_an_event_is_read_as_the_contract_writes_it() -> None:
    raw = body(type="play", value=181.5, completed=True, occurredAt="2026-01-01T00:00:00.000000001Z", later={"x": [1]})
    assert decode_event(raw) == Event(
        event_id="e-1",
        member_id=7,
        item_id=3,
        type=EventType.PLAY,
        value=181.5,
        completed=True,
        occurred_at_ns=NS_OF_2026 + 1,
    )


@pytest.mark.parametrize("kind", EventType)
def test_every_type_of_the_contract_is_known(kind: EventType) -> None:
    assert decode_event(body(type=kind.value, value=4)).type is kind


def test_what_is_no_verdict_is_a_sign() -> None:
    assert {kind.value for kind in EventType if kind not in VERDICTS} == {
        "play", "skip", "repeat", "rating", "playlist_add",
    }  # fmt: skip


def test_a_member_may_be_written_in_digits_and_an_instant_as_epoch_seconds() -> None:
    event = decode_event(b'{"eventId":"e","memberId":"42","songId":1,"type":"skip","occurredAt":1767225600.000000007}')
    assert (event.member_id, event.occurred_at_ns) == (42, NS_OF_2026 + 7)


def test_null_reads_as_absent() -> None:
    event = decode_event(body(value=None, completed=None, occurredAt=None))
    assert (event.value, event.completed, event.occurred_at_ns) == (None, None, None)


@pytest.mark.parametrize(("item_id", "is_all"), [(..., True), (None, True), (3, False)])
def test_a_forget_may_be_of_one_song_or_of_the_member(item_id: object, is_all: bool) -> None:
    assert decode_event(body(type="forget", songId=item_id)).forgets_the_member is is_all


def test_no_other_event_forgets_the_member() -> None:
    assert not Event(event_id="e", member_id=1, type=EventType.LIKE).forgets_the_member


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"eventId": ...}, "eventId: must be a string, got None"),
        ({"eventId": " "}, "eventId: must not be empty, got ' '"),
        ({"eventId": "e" * 201}, "eventId: must not be longer than 200 characters"),
        ({"eventId": "a\nb"}, "eventId: must not hold control characters"),
        ({"eventId": 5}, "eventId: must be a string, got 5"),
        ({"memberId": "x"}, "memberId: must be an integer or a string of digits, got 'x'"),
        ({"memberId": 2**63}, "memberId: must be from"),
        ({"songId": ...}, "songId: must not be absent in an event of type like, got None"),
        ({"songId": "3"}, "songId: must be an integer, got '3'"),
        ({"songId": True}, "songId: must be an integer, got True"),
        ({"type": ...}, "type: must be a string, got None"),
        ({"type": "LIKE"}, "type: must be one of like, unlike, dislike, play, skip, repeat, rating, playlist"),
        ({"type": "rating"}, "value: must not be absent in an event of type rating, got None"),
        ({"type": "play", "value": -1}, "value: must not be below 0: it is the seconds of a play, got -1"),
        ({"value": "5"}, "value: must be a number or null, got '5'"),
        ({"value": True}, "value: must be a number or null, got True"),
        ({"completed": 1}, "completed: must be true, false or null, got 1"),
        ({"completed": "true"}, "completed: must be true, false or null, got 'true'"),
        ({"occurredAt": "yesterday"}, "occurredAt: must be an instant such as"),
        ({"occurredAt": "2026-02-30T00:00:00Z"}, "occurredAt: is no instant"),
        ({"occurredAt": True}, "occurredAt: must be an ISO-8601 instant or epoch seconds, got True"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_and_what_stood_there(changes: dict[str, object], told: str) -> None:
    assert str(refusal(body(**changes))).startswith(told)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 400, "9" * 5000, "1e99999999999999999999"])
def test_a_value_that_no_double_holds_is_refused(number: str) -> None:
    raw = b'{"eventId":"e","memberId":1,"songId":1,"type":"rating","value":' + number.encode() + b"}"
    assert refusal(raw).field == "value"


def test_a_field_that_stands_twice_is_refused_and_a_foreign_one_is_not() -> None:
    foreign = body()[:-1] + b', "x": 1, "x": 2}'
    assert decode_event(foreign).event_id == "e-1"
    assert str(refusal(body()[:-1] + b', "songId": 4}')).startswith("songId: stands more than once, got 4")


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff", b"{}x", b"{", b"NaN", b" " * (MAX_BODY_BYTES + 1)])
def test_what_is_no_object_is_refused_as_a_body(raw: bytes) -> None:
    assert refusal(raw).field == "body"


def test_a_decimal_keeps_what_a_double_can_hold() -> None:
    assert decode_event(body(type="rating", value=4.5)).value == float(Decimal("4.5"))


def test_the_code_of_a_job_stays_that_of_a_job() -> None:
    refusal(b"{}")
    with pytest.raises(InvalidMessage) as caught:
        decode_job(b"{}")
    assert caught.value.code == "INVALID_JOB"
