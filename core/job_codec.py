"""Job messages: bytes to ``Job`` and back, by the table of the wire contract.

The body is kept to the byte wherever it is sent on: ``with_attempt`` changes one value in place and re-serialises
nothing, since a round trip through floats would round nanosecond instants and integers beyond 64 bits.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, time

from core.errors import InvalidMessage
from core.plain_text import plain_line
from core.wire_json import (
    INT64_MAX,
    INT64_MIN,
    MAX_BODY_BYTES,
    Fields,
    Member,
    identifier,
    instant_ns,
    integer_value,
    iso_instant,
    member_id,
    members_of,
    refuse_repeats,
    text_of,
    text_value,
)
from models.job import Job, JobContext, Strategy

MAX_JOB_ID_CHARS = 200
MAX_QUERY_CHARS = 300
MAX_MOOD_CHARS = 60

_INT32_MAX = 2**31 - 1

_LOCAL_TIME = re.compile(
    r"(?:(\d{4}-\d\d-\d\d)T)?((?:[01]\d|2[0-3]):[0-5]\d)(?::[0-5]\d(?:\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)?", re.ASCII
)

_FIELDS = frozenset({
    "jobId", "memberId", "favoriteSongIds", "strategy", "topK", "locale", "source", "requestedAt", "idempotencyKey",
    "traceId", "modelVersion", "attempt", "context",
})  # fmt: skip
_CONTEXT_FIELDS = frozenset({"query", "mood", "activity", "localTime"})


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
        text = text_of(body)
        members = list(members_of(text))
        refuse_repeats(((each.name, each.value) for each in members), _FIELDS)
        return _job(Fields({member.name: member.value for member in members}), _context(text, members))
    except InvalidMessage as error:
        error.job_id = _readable_job_id(body)
        raise


def _job(fields: Fields, context: JobContext | None) -> Job:
    return Job(
        job_id=_job_id(fields.get("jobId")),
        member_id=member_id(fields.get("memberId")),
        favorite_item_ids=_item_ids(fields.get("favoriteSongIds")),
        strategy=_strategy(fields.get("strategy")),
        top_k=fields.integer("topK", minimum=1, maximum=INT64_MAX),
        locale=fields.text("locale"),
        source=fields.text("source"),
        requested_at_ns=instant_ns("requestedAt", fields.get("requestedAt")),
        idempotency_key=fields.text("idempotencyKey") or None,
        trace_id=fields.text("traceId"),
        model_version=fields.text("modelVersion"),
        attempt=fields.integer("attempt", minimum=0, maximum=_INT32_MAX) or 0,
        context=context,
    )


def _context(text: str, members: Sequence[Member]) -> JobContext | None:
    """What the job asks for beside the likes; None where nothing is said. Texts are cleaned and cut, not refused."""
    member = next((member for member in members if member.name == "context"), None)
    if member is None or member.value is None:
        return None
    if not isinstance(member.value, dict):
        raise InvalidMessage("context", member.value, "must be an object")
    inner = list(members_of(text[member.start : member.end]))
    refuse_repeats(((each.name, each.value) for each in inner), _CONTEXT_FIELDS, within="context.")
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
        found.extend(member.value for member in members_of(text) if member.name == "jobId")
    try:
        return _job_id(found[0]) if len(found) == 1 else None
    except InvalidMessage:
        return None


def _line(field: str, value: object, max_chars: int) -> str | None:
    """One plain line of at most ``max_chars``; None where nothing is left of it."""
    return None if value is None else plain_line(text_value(field, value), max_chars) or None


def _local_time(value: object) -> time | None:
    """The time of day, to the minute, as a clock beside the listener shows it.

    None for one in UTC, such as JavaScript's ``toISOString()`` gives: it does not say what time it is for them.
    """
    if value is None:
        return None
    text = text_value("context.localTime", value)
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


def _job_id(value: object) -> str:
    return identifier("jobId", value, MAX_JOB_ID_CHARS)


def _item_ids(value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidMessage("favoriteSongIds", value, "must be an array of integers")
    return tuple(
        integer_value(f"favoriteSongIds[{index}]", item, minimum=INT64_MIN, maximum=INT64_MAX)
        for index, item in enumerate(value)
    )


def _strategy(value: object) -> Strategy:
    if value is None:
        return Strategy.DEFAULT
    try:
        return Strategy(text_value("strategy", value))
    except ValueError:
        known = ", ".join(Strategy)
        raise InvalidMessage("strategy", value, f"must be one of {known}, or null") from None


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
        "requestedAt": None if job.requested_at_ns is None else iso_instant(job.requested_at_ns),
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


def with_attempt(body: bytes, attempt: int) -> bytes:
    """``body`` with its top-level ``attempt`` set, every other byte as it was.

    Raises ``InvalidMessage`` where ``body`` is not a JSON object.
    """
    text = text_of(body)
    members = list(members_of(text))
    for member in members:
        if member.name == "attempt":
            return f"{text[: member.start]}{attempt}{text[member.end :]}".encode()
    brace = text.index("{") + 1
    comma = "," if members else ""
    return f'{text[:brace]}"attempt":{attempt}{comma}{text[brace:]}'.encode()
