"""What comes over the wire as JSON, read strictly: its members one by one, and the values that our messages hold.

Refusals name the field and the value. Numbers keep every digit: a round trip through floats would round nanosecond
instants and integers beyond 64 bits.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import NoReturn

from core.errors import InvalidMessage

MAX_BODY_BYTES = 1_048_576
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

_NS_PER_S = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_S = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
_LAST_S = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)

_WHITESPACE = re.compile(r"[ \t\n\r]*")  # JSON's own (RFC 8259, 2), narrower than Python's \s
_DIGITS = re.compile(r"[0-9]{1,19}")
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d)(?:(:\d\d)(?:\.(\d{1,9}))?)?Z", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

# Refuses to drop a digit: what does not fit into whole nanoseconds is refused, never rounded.
_EXACT = Context(prec=40, traps=[Inexact, InvalidOperation])


# --- values ---


class Fields:
    """The top-level members by name; those that are null count as absent."""

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values

    def get(self, name: str) -> object:
        """The value as JSON has it."""
        return self._values.get(name)

    def text(self, name: str) -> str | None:
        """A string, or None."""
        value = self.get(name)
        return None if value is None else text_value(name, value)

    def integer(self, name: str, *, minimum: int, maximum: int) -> int | None:
        """An integer within bounds, or None."""
        value = self.get(name)
        return None if value is None else integer_value(name, value, minimum=minimum, maximum=maximum)


def text_value(field: str, value: object) -> str:
    """A string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise InvalidMessage(field, value, "must be a string")
    if _SURROGATE.search(value):
        raise InvalidMessage(field, value, "must not hold half of a surrogate pair")
    return value


def integer_value(field: str, value: object, *, minimum: int, maximum: int) -> int:
    """An integer from ``minimum`` to ``maximum``."""
    if isinstance(value, UnreadNumber):
        raise InvalidMessage(field, value, f"must be an integer from {minimum} to {maximum}")
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidMessage(field, value, "must be an integer")
    if not minimum <= value <= maximum:
        raise InvalidMessage(field, value, f"must be from {minimum} to {maximum}")
    return value


def identifier(field: str, value: object, max_chars: int) -> str:
    """A name that somebody made up: not empty, not long, without control characters."""
    text = text_value(field, value)
    if not text.strip():
        raise InvalidMessage(field, value, "must not be empty")
    if len(text) > max_chars:
        raise InvalidMessage(field, value, f"must not be longer than {max_chars} characters")
    if _CONTROL.search(text):
        raise InvalidMessage(field, value, "must not hold control characters")
    return text


def member_id(value: object) -> int:
    """``memberId``: an integer, or a string of digits as older publishers write it."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    elif isinstance(value, str):
        raise InvalidMessage("memberId", value, "must be an integer or a string of digits")
    return integer_value("memberId", value, minimum=INT64_MIN, maximum=INT64_MAX)


def instant_ns(field: str, value: object) -> int | None:
    """Nanoseconds since the epoch, exact, of an ISO-8601 instant or of epoch seconds."""
    if value is None:
        return None
    if isinstance(value, str):
        return _iso_ns(field, value)
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return _epoch_ns(field, value)
    raise InvalidMessage(field, value, "must be an ISO-8601 instant or epoch seconds")


def _iso_ns(field: str, value: str) -> int:
    match = _INSTANT.fullmatch(value)
    if match is None:
        raise InvalidMessage(field, value, "must be an instant such as 2026-01-31T12:00:00.123456789Z")
    try:
        instant = datetime.fromisoformat(match[1] + (match[2] or "")).replace(tzinfo=UTC)
    except ValueError as error:
        raise InvalidMessage(field, value, f"is no instant ({error})") from None
    seconds = (instant - _EPOCH) // timedelta(seconds=1)
    return seconds * _NS_PER_S + int((match[3] or "").ljust(9, "0"))


def _epoch_ns(field: str, value: int | Decimal) -> int:
    # The range comes first: 1e999999999 compares at once, but would fill the memory as an integer.
    if not _FIRST_S <= value <= _LAST_S:
        raise InvalidMessage(field, value, "must be epoch seconds of a year from 1 to 9999")
    try:
        return int(_EXACT.multiply(Decimal(value), _NS_PER_S).to_integral_exact(context=_EXACT))
    except (Inexact, InvalidOperation):
        raise InvalidMessage(field, value, "must not be finer than nanoseconds") from None


def iso_instant(instant_ns: int) -> str:
    """``instant_ns`` since the epoch as ISO 8601 in UTC, with nine digits of fraction or none."""
    seconds, ns = divmod(instant_ns, _NS_PER_S)
    # isoformat, since strftime's %Y does not pad years below 1000 everywhere
    whole = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()
    return f"{whole}.{ns:09d}Z" if ns else f"{whole}Z"


# --- JSON, member by member ---


@dataclass(frozen=True, slots=True)
class Member:
    """A top-level member; its value stands in the text from ``start`` to before ``end`` (characters)."""

    name: str
    value: object
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class UnreadNumber:
    """A number that Python will not read: no field of ours may hold one, and others need not be understood."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _read_integer(text: str) -> int | UnreadNumber:
    try:
        return int(text)
    except ValueError:  # more digits than sys.get_int_max_str_digits()
        return UnreadNumber(text)


def _read_decimal(text: str) -> Decimal | UnreadNumber:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond those of the decimal module
        return UnreadNumber(text)


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidMessage("body", name, "must be JSON, which has no such number")


_DECODER = json.JSONDecoder(parse_int=_read_integer, parse_float=_read_decimal, parse_constant=_refuse_constant)


def text_of(body: bytes) -> str:
    """``body`` as text; raises ``InvalidMessage`` where it is too long or no UTF-8."""
    if len(body) > MAX_BODY_BYTES:
        raise InvalidMessage("body", body[:40], f"must not be longer than {MAX_BODY_BYTES} bytes ({len(body)})")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidMessage("body", body[:40], f"must be UTF-8 ({error.reason} at byte {error.start})") from None


class _Pairs(list[tuple[str, object]]):
    """The members of an object, in order, repeats included."""

    def __repr__(self) -> str:
        return repr(dict(self))


_PAIRS = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_int=_read_integer, parse_float=_read_decimal, parse_constant=_refuse_constant
)


def pairs_of(text: str) -> list[tuple[str, object]]:
    """Names and values of the JSON object that ``text`` is, in order, repeats included.

    Of messages that are never sent on changed: without the places of ``members_of``, in a fraction of the time.
    """
    try:
        found = _PAIRS.decode(text)
    except RecursionError:
        raise InvalidMessage("body", text[:40], "is nested too deep") from None
    except ValueError as error:
        raise InvalidMessage("body", text[:40], f"must be JSON ({error})") from None
    if not isinstance(found, _Pairs):
        raise InvalidMessage("body", text[:40], "must be a JSON object")
    return found


def members_of(text: str) -> Iterator[Member]:
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


def _member(text: str, position: int) -> Member:
    name, position = _value(text, position)
    if not isinstance(name, str):
        raise InvalidMessage("body", text[:40], "must be JSON, whose names are strings")
    start = _skip(text, _expect(text, _skip(text, position), ":", "must be JSON"))
    value, end = _value(text, start)
    return Member(name, value, start, end)


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


def refuse_repeats(members: Iterable[tuple[str, object]], ours: frozenset[str], within: str = "") -> None:
    """A field of ``ours`` that stands twice is refused: readers disagree on which one counts."""
    seen: set[str] = set()
    for name, value in members:
        if name in seen and name in ours:
            raise InvalidMessage(within + name, value, "stands more than once")
        seen.add(name)
