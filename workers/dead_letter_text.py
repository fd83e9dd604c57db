"""Dead letters as people and programs read them, and how people say which ones they mean."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from core.errors import ConfigurationError, InvalidMessage
from core.job_codec import decode_job
from workers.dead_letters import Letter, Wanted
from workers.settlement import DEAD_LETTER_ROUTE_HEADER, ERROR_DIGEST_HEADER, n_replays

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_CONTROL = re.compile(r"[^\n\t\x20-\x7e\u00a0-\U0010ffff]")


def wanted(ids: Sequence[str], where: Sequence[str]) -> Wanted:
    """The letters that ``JOB_ID...`` and ``--where NAME=VALUE`` mean; raises ``ConfigurationError`` at nonsense."""
    said = dict(_condition(each) for each in where)
    if len(said) != len(where):
        raise ConfigurationError("--where: each name may be given once; all conditions must hold")
    member = said.get("member")
    try:
        return Wanted(
            ids=frozenset(ids),
            code=said.get("error"),
            reason=said.get("reason"),
            member_id=None if member is None else int(member),
            older_than_s=_duration_s(said.get("older")),
            newer_than_s=_duration_s(said.get("newer")),
        )
    except ValueError as error:
        raise ConfigurationError(f"--where member: must be an integer, got {member!r}") from error


def _condition(text: str) -> tuple[str, str]:
    name, is_there, value = text.partition("=")
    if not is_there or name not in {"error", "reason", "member", "older", "newer"}:
        raise ConfigurationError(
            f"--where: must be error=CODE, reason=REASON, member=ID, older=2h or newer=30m, got {text!r}"
        )
    return name, value


def _duration_s(text: str | None) -> float | None:
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"--where older, newer: must be such as 90s, 15m, 2h or 3d, got {text!r}")
    return float(match[1]) * _SECONDS[match[2]]


def age(letter: Letter, now: datetime) -> str:
    """How long ago it was asked for, to two figures or so."""
    age_s = letter.age_s(now)
    if age_s is None:
        return "?"
    unit = next((unit for unit in ("d", "h", "m") if abs(age_s) >= _SECONDS[unit]), "s")
    return f"{age_s / _SECONDS[unit]:.0f}{unit}"


def row(letter: Letter, now: datetime) -> tuple[str, ...]:
    """Id, member, reason, code of the last error, tries, replays, age and last error."""
    job = letter.job
    return (
        letter.letter_id,
        "" if job is None else str(job.member_id),
        letter.reason,
        letter.code,
        "" if job is None else str(n_tries(letter)),
        str(n_replays(letter.delivery.headers)),
        age(letter, now),
        printable(letter.error or letter.problem),
    )


ROW = ("id", "member", "reason", "error", "tries", "replays", "age", "last error")
"""The heads of the columns of ``row``."""


def n_tries(letter: Letter) -> int:
    """How often the job was tried, by the ``attempt`` in its body."""
    try:
        return decode_job(letter.delivery.body).attempt + 1
    except InvalidMessage:
        return 1


def document(letter: Letter, now: datetime, *, whole: bool) -> bytes:
    """One line of JSON; ``whole``: with headers, properties and the body, in base64 where it is not UTF-8."""
    job, headers = letter.job, letter.delivery.headers
    told: dict[str, object] = {
        "id": letter.letter_id,
        "isJob": job is not None,
        "problem": letter.problem or None,
        "memberId": None if job is None else job.member_id,
        "reason": letter.reason or None,
        "error": {
            "code": letter.code or None,
            "message": letter.error or None,
            "digest": headers.get(ERROR_DIGEST_HEADER),
        },
        "tries": None if job is None else n_tries(letter),
        "replays": n_replays(headers),
        "route": headers.get(DEAD_LETTER_ROUTE_HEADER),
        "ageS": letter.age_s(now),
    }
    if whole:
        properties = {name: value for name, value in asdict(letter.delivery.properties).items() if value is not None}
        told |= {"headers": headers, "properties": properties, **_body(letter.delivery.body)}
    return f"{_json(told)}\n".encode()


def _body(body: bytes) -> Mapping[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"bodyBase64": base64.b64encode(body).decode()}


def _told(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes | bytearray) else str(value)


def page(letter: Letter, now: datetime) -> str:
    """All there is to say of one letter; what could do something to a terminal is escaped."""
    job, delivery = letter.job, letter.delivery
    whose = f"member {job.member_id}, {n_tries(letter)} tries, asked for {age(letter, now)} ago" if job else "no job"
    digest = delivery.headers.get(ERROR_DIGEST_HEADER)
    lines = [
        f"{letter.letter_id}: {whose}",
        *([f"cannot be replayed: {letter.problem}"] if letter.problem else []),
        f"given up: {letter.reason or 'nobody said why'}",
        f"last error: {letter.code} {letter.error}" + (f" (digest {digest})" if digest else ""),
        "headers:",
        *(f"  {name}: {_shown(value)}" for name, value in delivery.headers.items()),
        "properties:",
        *(f"  {name}: {value}" for name, value in asdict(delivery.properties).items() if value is not None),
        f"body ({len(delivery.body)} bytes):",
        delivery.body.decode("utf-8", "backslashreplace"),
    ]
    return printable("\n".join(lines))


def _shown(value: object) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: object) -> str:
    # Not orjson, which refuses integers beyond 64 bits: a header may hold anything.
    return json.dumps(value, default=_told)


def printable(text: str) -> str:
    """``text`` with control characters written out."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
