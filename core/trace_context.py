"""Which trace a job belongs to: by the header of W3C Trace Context, or by the publisher's own ``traceId``.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from uuid import UUID

TRACEPARENT = "traceparent"

# A later version may say more behind a hyphen; ``ff`` is none.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.DOTALL)
_HEX_ID = re.compile(r"[0-9a-fA-F]{16}|[0-9a-fA-F]{32}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SAMPLED = 1
_NOTHING = {"0" * 16, "0" * 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """A trace and, where one is known, the span that caused what follows; ids are lower-case hex.

    ``is_sampled`` is what that span's owner decided.
    """

    trace_id: str
    span_id: str | None = None
    is_sampled: bool = False


def trace_context(headers: Mapping[str, object], said: str | None) -> TraceContext | None:
    """By the header ``traceparent``, else by ``said``, a publisher's ``traceId`` of any form; None where neither is."""
    if context := read_traceparent(headers.get(TRACEPARENT)):
        return context
    if not said:
        return None
    return read_traceparent(said) or TraceContext(trace_id=trace_id_of(said))


def read_traceparent(value: object) -> TraceContext | None:
    """What a ``traceparent`` says; None where it is none, for a broken one is to be treated as if it were not there."""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    match = _TRACEPARENT.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or _NOTHING & {match[2], match[3]}:
        return None
    if match[1] == "00" and len(match[0]) > len("00--01-") + 48:
        return None
    return TraceContext(trace_id=match[2], span_id=match[3], is_sampled=bool(int(match[4], 16) & _SAMPLED))


def trace_id_of(said: str) -> str:
    """The id of a trace that a publisher calls ``said``: 32 hex digits.

    They are its own digits where it is such an id, one of 64 bits or a UUID, and else a digest of it: whoever knows
    the name finds the trace, and all tries of a job are in one.
    """
    text = said.strip()
    if _UUID.fullmatch(text):
        text = UUID(text).hex
    if _HEX_ID.fullmatch(text) and text not in _NOTHING:
        return text.lower().zfill(32)
    return blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def logged_trace_id(headers: Mapping[str, object], said: str | None, job_id: str | None) -> str | None:
    """What log lines call a job's trace: as its publisher does, or by the id that it has or would have.

    None where a message says nothing at all that can be read.
    """
    if said:
        return said
    context = read_traceparent(headers.get(TRACEPARENT))
    if context:
        return context.trace_id
    return trace_id_of(job_id) if job_id else None
