"""Job messages: bytes to ``Job`` and back, by the table of the wire contract.

The body is kept to the byte wherever it is sent on: ``with_attempt`` changes one value in place and re-serialises
nothing, since a round trip through floats would round nanosecond instants and integers beyond 64 bits.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import NoReturn

from core.errors import InvalidMessage
from core.plain_text import plain_line
from models.job import Job, JobContext, Strategy

MAX_BODY_BYTES = 1_048_576
MAX_JOB_ID_CHARS = 200
MAX_QUERY_CHARS = 300
MAX_MOOD_CHARS = 60

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_INT32_MAX = 2**31 - 1
_NS_PER_S = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_S = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
_LAST_S = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)

_WHITESPACE = re.compile(r"[ \t\n\r]*")  # JSON's own (RFC 8259, 2), narrower than Python's \s
_DIGITS = re.compile(r"[0-9]{1,19}")
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d)(?:(:\d\d)(?:\.(\d{1,9}))?)?Z", re.ASCII)
_LOCAL_TIME = re.compile(
    r"(?:(\d{4}-\d\d-\d\d)T)?((?:[01]\d|2[0-3]):[0-5]\d)(?::[0-5]\d(?:\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)?", re.ASCII
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

_FIELDS = frozenset({
    "jobId", "memberId", "favoriteSongIds", "strategy", "topK", "locale", "source", "requestedAt", "idempotencyKey",
    "traceId", "modelVersion", "attempt", "context",
})  # fmt: skip
_CONTEXT_FIELDS = frozenset({"query", "mood", "activity", "localTime"})

# Refuses to drop a digit: what does not fit into whole nanoseconds is refused, never rounded.
_EXACT = Context(prec=40, traps=[Inexact, InvalidOperation])


# --- decoding ---


def decode_job(body: bytes) -> Job:
    """The job in ``body``.

    Null reads as absent, and an empty ``idempotencyKey`` is none: it would make one job of all that carry it. Unknown
    fields are ignored, whatever JSON they hold and however often they stand. Raises ``InvalidMessage`` naming the
    field and its value, with the job id where it could be read.

    Refused on purpose: a field of ours that stands twice, since readers disagree on which one counts; and, of what
    ISO 8601 allows for ``requestedAt``, offsets other than ``Z``, a lower case ``z`` and the end of a day as
    ``24:00:00``, which no ``Instant`` of Java is written as.
    """
    try:
        text = _text_of(body)
        members = list(_members(text))
        _refuse_repeats(members, _FIELDS)
        return _job(_Fields({member.name: member.value for member in members}), _context(text, members))
    except InvalidMessage as error:
        error.job_id = _readable_job_id(body)
        raise


def _job(fields: "_Fields", context: JobContext | None) -> Job:
    return Job(
        job_id=_job_id(fields.get("jobId")),
        member_id=_member_id(fields.get("memberId")),
        favorite_item_ids=_item_ids(fields.get("favoriteSongIds")),
        strategy=_strategy(fields.get("strategy")),
        top_k=fields.integer("topK", minimum=1, maximum=_INT64_MAX),
        locale=fields.text("locale"),
        source=fields.text("source"),
        requested_at_ns=_instant_ns(fields.get("requestedAt")),
        idempotency_key=fields.text("idempotencyKey") or None,
        trace_id=fields.text("traceId"),
        model_version=fields.text("modelVersion"),
        attempt=fields.integer("attempt", minimum=0, maximum=_INT32_MAX) or 0,
        context=context,
    )


def _context(text: str, members: "list[_Member]") -> JobContext | None:
    """What the job asks for beside the likes; None where nothing is said. Texts are cleaned and cut, not refused."""
    member = next((member for member in members if member.name == "context"), None)
    if member is None or member.value is None:
        return None
    if not isinstance(member.value, dict):
        raise InvalidMessage("context", member.value, "must be an object")
    inner = list(_members(text[member.start : member.end]))
    _refuse_repeats(inner, _CONTEXT_FIELDS, within="context.")
    values = {each.name: each.value for each in inner}
    context = JobContext(
        query=_line("context.query", values.get("query"), MAX_QUERY_CHARS),
        mood=_line("context.mood", values.get("mood"), MAX_MOOD_CHARS),
        activity=_line("context.activity", values.get("activity"), MAX_MOOD_CHARS),
        local_time=_local_time(values.get("localTime")),
    )
    return context or None


def _readable_job_id(body: bytes) -> str | None:
    """The job id of a message that is refused: the only one before the place, if any, where the reading ends.

    So the poller of a message that was cut off, or is far too long, sees that it failed.
    """
    text = body[:MAX_BODY_BYTES].decode("utf-8", "surrogateescape")
    found: list[object] = []
    with suppress(InvalidMessage):
        found.extend(member.value for member in _members(text) if member.name == "jobId")
    try:
        return _job_id(found[0]) if len(found) == 1 else None
    except InvalidMessage:
        return None


def _refuse_repeats(members: "list[_Member]", ours: frozenset[str], within: str = "") -> None:
    seen: set[str] = set()
    for member in members:
        if member.name in seen and member.name in ours:
            raise InvalidMessage(within + member.name, member.value, "stands more than once")
        seen.add(member.name)


class _Fields:
    """The top-level members by name; those that are null count as absent."""

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values

    def get(self, name: str) -> object:
        return self._values.get(name)

    def text(self, name: str) -> str | None:
        value = self.get(name)
        return None if value is None else _text(name, value)

    def integer(self, name: str, *, minimum: int, maximum: int) -> int | None:
        value = self.get(name)
        return None if value is None else _integer(name, value, minimum=minimum, maximum=maximum)


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidMessage(field, value, "must be a string")
    if _SURROGATE.search(value):
        raise InvalidMessage(field, value, "must not hold half of a surrogate pair")
    return value


def _line(field: str, value: object, max_chars: int) -> str | None:
    """One plain line of at most ``max_chars``; None where nothing is left of it."""
    return None if value is None else plain_line(_text(field, value), max_chars) or None


def _local_time(value: object) -> time | None:
    """The time of day, to the minute, as a clock beside the listener shows it.

    None for one in UTC, such as JavaScript's ``toISOString()`` gives: it does not say what time it is for them.
    """
    if value is None:
        return None
    text = _text("context.localTime", value)
    match = _LOCAL_TIME.fullmatch(text)
    if match is None:
        raise InvalidMessage(
            "context.localTime", value, "must be a local time such as 18:30 or 2026-01-31T18:30:00+09:00"
        )
    try:
        date.fromisoformat(match[1] or "2000-01-01")
    except ValueError as error:
        raise InvalidMessage("context.localTime", value, f"is no time ({error})") from None
    return None if match[3] == "Z" else time.fromisoformat(match[2])


def _integer(field: str, value: object, *, minimum: int, maximum: int) -> int:
    if isinstance(value, _UnreadNumber):
        raise InvalidMessage(field, value, f"must be an integer from {minimum} to {maximum}")
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidMessage(field, value, "must be an integer")
    if not minimum <= value <= maximum:
        raise InvalidMessage(field, value, f"must be from {minimum} to {maximum}")
    return value


def _job_id(value: object) -> str:
    job_id = _text("jobId", value)
    if not job_id.strip():
        raise InvalidMessage("jobId", value, "must not be empty")
    if len(job_id) > MAX_JOB_ID_CHARS:
        raise InvalidMessage("jobId", value, f"must not be longer than {MAX_JOB_ID_CHARS} characters")
    if _CONTROL.search(job_id):
        raise InvalidMessage("jobId", value, "must not hold control characters")
    return job_id


def _member_id(value: object) -> int:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    elif isinstance(value, str):
        raise InvalidMessage("memberId", value, "must be an integer or a string of digits")
    return _integer("memberId", value, minimum=_INT64_MIN, maximum=_INT64_MAX)


def _item_ids(value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidMessage("favoriteSongIds", value, "must be an array of integers")
    return tuple(
        _integer(f"favoriteSongIds[{index}]", item, minimum=_INT64_MIN, maximum=_INT64_MAX)
        for index, item in enumerate(value)
    )


def _strategy(value: object) -> Strategy:
    if value is None:
        return Strategy.DEFAULT
    try:
        return Strategy(_text("strategy", value))
    except ValueError:
        known = ", ".join(Strategy)
        raise InvalidMessage("strategy", value, f"must be one of {known}, or null") from None


def _instant_ns(value: object) -> int | None:
    """Nanoseconds since the epoch, exact, of an ISO-8601 instant or of epoch seconds."""
    if value is None:
        return None
    if isinstance(value, str):
        return _iso_instant_ns(value)
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return _epoch_instant_ns(value)
    raise InvalidMessage("requestedAt", value, "must be an ISO-8601 instant or epoch seconds")


def _iso_instant_ns(value: str) -> int:
    match = _INSTANT.fullmatch(value)
    if match is None:
        raise InvalidMessage("requestedAt", value, "must be an instant such as 2026-01-31T12:00:00.123456789Z")
    try:
        instant = datetime.fromisoformat(match[1] + (match[2] or "")).replace(tzinfo=UTC)
    except ValueError as error:
        raise InvalidMessage("requestedAt", value, f"is no instant ({error})") from None
    seconds = (instant - _EPOCH) // timedelta(seconds=1)
    return seconds * _NS_PER_S + int((match[3] or "").ljust(9, "0"))


def _epoch_instant_ns(value: int | Decimal) -> int:
    # The range comes first: 1e999999999 compares at once, but would fill the memory as an integer.
    if not _FIRST_S <= value <= _LAST_S:
        raise InvalidMessage("requestedAt", value, "must be epoch seconds of a year from 1 to 9999")
    try:
        return int(_EXACT.multiply(Decimal(value), _NS_PER_S).to_integral_exact(context=_EXACT))
    except (Inexact, InvalidOperation):
        raise InvalidMessage("requestedAt", value, "must not be finer than nanoseconds") from None


# --- encoding ---


def encode_job(job: Job) -> bytes:
    """``job`` as the backend would publish it; what it does not set is left out."""
    message = {
        "jobId": job.job_id,
        "memberId": job.member_id,
        "favoriteSongIds": list(job.favorite_item_ids),
        "strategy": job.strategy.value,
        "topK": job.top_k,
        "locale": job.locale,
        "source": job.source,
        "requestedAt": None if job.requested_at_ns is None else _iso_instant(job.requested_at_ns),
        "idempotencyKey": job.idempotency_key,
        "traceId": job.trace_id,
        "modelVersion": job.model_version,
        "attempt": job.attempt,
        "context": _told(job.context) if job.context else None,
    }
    present = {name: value for name, value in message.items() if value is not None}
    return json.dumps(present, ensure_ascii=False, separators=(",", ":")).encode()


def _told(context: JobContext) -> dict[str, str]:
    told = {
        "query": context.query,
        "mood": context.mood,
        "activity": context.activity,
        "localTime": None if context.local_time is None else context.local_time.isoformat("minutes"),
    }
    return {name: value for name, value in told.items() if value is not None}


def _iso_instant(instant_ns: int) -> str:
    seconds, ns = divmod(instant_ns, _NS_PER_S)
    # isoformat, since strftime's %Y does not pad years below 1000 everywhere
    whole = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()
    return f"{whole}.{ns:09d}Z" if ns else f"{whole}Z"


def with_attempt(body: bytes, attempt: int) -> bytes:
    """``body`` with its top-level ``attempt`` set, every other byte as it was.

    Raises ``InvalidMessage`` where ``body`` is not a JSON object.
    """
    text = _text_of(body)
    members = list(_members(text))
    for member in members:
        if member.name == "attempt":
            return f"{text[: member.start]}{attempt}{text[member.end :]}".encode()
    brace = text.index("{") + 1
    comma = "," if members else ""
    return f'{text[:brace]}"attempt":{attempt}{comma}{text[brace:]}'.encode()


# --- JSON, member by member ---


@dataclass(frozen=True, slots=True)
class _Member:
    """A top-level member; its value stands in the text from ``start`` to before ``end`` (characters)."""

    name: str
    value: object
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _UnreadNumber:
    """A number that Python will not read: no field of ours may hold one, and others need not be understood."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _read_integer(text: str) -> int | _UnreadNumber:
    try:
        return int(text)
    except ValueError:  # more digits than sys.get_int_max_str_digits()
        return _UnreadNumber(text)


def _read_decimal(text: str) -> Decimal | _UnreadNumber:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond those of the decimal module
        return _UnreadNumber(text)


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidMessage("body", name, "must be JSON, which has no such number")


_DECODER = json.JSONDecoder(parse_int=_read_integer, parse_float=_read_decimal, parse_constant=_refuse_constant)


def _text_of(body: bytes) -> str:
    if len(body) > MAX_BODY_BYTES:
        raise InvalidMessage("body", body[:40], f"must not be longer than {MAX_BODY_BYTES} bytes ({len(body)})")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidMessage("body", body[:40], f"must be UTF-8 ({error.reason} at byte {error.start})") from None


def _members(text: str) -> Iterator[_Member]:
    """The members of the JSON object that ``text`` is, in order, repeats included."""
    position = _expect(text, _skip(text, 0), "{", "must be a JSON object")
    position = _skip(text, position)
    first = True
    while not text.startswith("}", position):
        if not first:
            position = _skip(text, _expect(text, position, ",", "must be JSON"))
        member = _member(text, position)
        yield member
        position = _skip(text, member.end)
        first = False
    if _skip(text, position + 1) != len(text):
        raise InvalidMessage("body", text[:40], f"must be one JSON object, and ends at character {position + 1}")


def _member(text: str, position: int) -> _Member:
    name, position = _value(text, position)
    if not isinstance(name, str):
        raise InvalidMessage("body", text[:40], "must be JSON, whose names are strings")
    start = _skip(text, _expect(text, _skip(text, position), ":", "must be JSON"))
    value, end = _value(text, start)
    return _Member(name, value, start, end)


def _value(text: str, position: int) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except RecursionError:
        raise InvalidMessage("body", text[:40], "is nested too deep") from None
    except ValueError as error:
        raise InvalidMessage("body", text[:40], f"must be JSON ({error})") from None


def _expect(text: str, position: int, mark: str, problem: str) -> int:
    if not text.startswith(mark, position):
        raise InvalidMessage("body", text[:40], f"{problem} (no {mark!r} at character {position})")
    return position + 1


def _skip(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    return match.end() if match else position
