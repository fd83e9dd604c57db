"""Reads JSON objects that may be cut short or broken: as much as is complete is kept."""

import json
import re
from bisect import bisect_left
from collections.abc import Mapping

MAX_CHARS = 65_536

_MAX_DEPTH = 16
_CLOSER = {"{": "}", "[": "]"}
# A brace of the words before it is none.
_START = re.compile(r'\{\s*["}]')
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|["{}\[\]]', re.DOTALL)
_DECODER = json.JSONDecoder()

Json = Mapping[str, object]


def read_object(text: str) -> tuple[Json, bool]:
    """The first JSON object in ``text``, and whether it is whole: of a broken one, all that was complete.

    Words around the object (a code fence, a greeting) do not matter. Raises ``ValueError`` where there is no object.
    """
    if (start := _START.search(text)) is None:
        raise ValueError("no JSON object")
    text = text[start.start() : start.start() + MAX_CHARS]
    if (whole := _decode(text)) is not None:
        return whole, True
    ends = _closable_ends(text)

    def closed(end: tuple[int, str]) -> Json | None:
        return _decode(text[: end[0]] + end[1])

    # What follows a break can not heal it, so the sound prefixes all stand before the broken ones.
    n_sound = bisect_left(ends, True, key=lambda end: closed(end) is None)
    if not n_sound or (salvaged := closed(ends[n_sound - 1])) is None:
        raise ValueError("no complete part in the JSON object")
    return salvaged, False


def _decode(text: str) -> Json | None:
    try:
        value, _ = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _closable_ends(text: str) -> list[tuple[int, str]]:
    """Where each complete object or list of ``text`` ends, in order, and what closes all that is open there."""
    ends: list[tuple[int, str]] = []
    open_: list[str] = []
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark in _CLOSER:
            open_.append(_CLOSER[mark])
        elif open_ and mark == open_[-1]:
            open_.pop()
            ends.append((token.end(), "".join(reversed(open_))))
        elif len(mark) == 1:
            break
        if len(open_) > _MAX_DEPTH or not open_:
            break
    return ends
