"""What is fuzzed: each target takes bytes, says in a few words what became of them, and raises where that is wrong."""

import os
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock
from urllib.parse import quote

import httpx
from pamqp.exceptions import UnmarshalingException
from pamqp.frame import unmarshal
from pamqp.header import ContentHeader
from pydantic import ValidationError
from pydantic_settings import SettingsError

from config.catalogue_profile import load_profile
from config.setting_problems import setting_problems
from config.settings import Settings
from core.errors import ConfigurationError, InvalidMessage
from core.event_codec import decode_event, encode_event
from core.job_codec import decode_job, with_attempt
from tests.support.http_app import http_bench
from tests.support.raw_amqp import HEADERS, TIMESTAMP, long, short, table
from tests.support.track_rows import KAGGLE_HEADER, KAGGLE_ROW, SONGS_HEADER, SONGS_ROW, csv_text
from training.csv_rows import CsvFile, RowProblem
from training.ingest import ItemLayout
from training.interaction_files import read_interactions, read_items, read_queries
from training.item_files import item_layouts
from training.track_files import LAYOUTS
from workers.amqp_properties import UNREADABLE_HEADER, forgive_unreadable_properties

MAX_SENTENCE_CHARS = 2000


class PromiseBroken(AssertionError):
    """Something else than one of the good outcomes."""


@dataclass(frozen=True, slots=True)
class Target:
    """``check`` returns the outcome in words, with what it is about: an input with new words is worth keeping.

    ``n_each`` inputs have their turn before those of the next target: more, where they are quickly checked.
    """

    name: str
    corpus: Sequence[bytes]
    check: Callable[[bytes], Awaitable[str]]
    n_each: int = 1


def _refusal(sentence: str) -> str:
    """The kind of a refusal: its sentence without values. Raises ``PromiseBroken`` where it is none for a log line."""
    sentence.encode()
    if len(sentence) > MAX_SENTENCE_CHARS:
        raise PromiseBroken(f"a sentence of {len(sentence)} characters")
    return "refused: " + re.sub(r"\(.*|\d+", "", sentence.partition(", got ")[0])[:80]


# --- messages ---

JOBS = (
    b'{"jobId":"3f1c","memberId":42,"favoriteSongIds":[1,2,3],"strategy":"deep","topK":50,"locale":"ja","source":"login",'
    b'"requestedAt":"2026-01-31T12:00:00.123456789Z","idempotencyKey":"k","traceId":"t","modelVersion":"m","attempt":2}',
    b'{"jobId":"a","memberId":"7","requestedAt":1769860800.123456789,"new":{"x":[1,{"y":null}]},"favoriteSongIds":null}',
    '{"jobId":"b","memberId":1,"context":{"query":"차분한 재즈","mood":"calm","localTime":"18:30"}}'.encode(),
)


def check_job(raw: bytes) -> str:
    """A job, which keeps all but its attempt when that is raised, or a refusal that names the field."""
    try:
        job = decode_job(raw)
    except InvalidMessage as error:
        if not str(error).startswith(f"{error.field}: "):
            raise PromiseBroken(str(error)) from error
        return f"{_refusal(str(error))} {error.job_id is not None}"
    again = decode_job(with_attempt(raw, 3))
    if again != replace(job, attempt=3):
        raise PromiseBroken(f"{job} became {again}")
    return f"taken {job.strategy} {job.requested_at_ns is None} {job.context is None}"


# --- events ---

EVENTS = (
    b'{"eventId":"e-1","memberId":42,"songId":3,"type":"play","value":181.5,"completed":true,'
    b'"occurredAt":"2026-01-31T12:00:00.123456789Z"}',
    b'{"eventId":"e-2","memberId":"7","type":"forget","songId":null,"occurredAt":1769860800.123456789,"new":[1]}',
    b'{"eventId":"e-3","memberId":1,"songId":9,"type":"rating","value":4}',
)


def check_event(raw: bytes) -> str:
    """An event that is written as it was read, or a refusal that names the field."""
    try:
        event = decode_event(raw)
    except InvalidMessage as error:
        if not str(error).startswith(f"{error.field}: "):
            raise PromiseBroken(str(error)) from error
        return _refusal(str(error))
    again = decode_event(encode_event(event))
    if again != event:
        raise PromiseBroken(f"{event} became {again}")
    return f"taken {event.type} {event.value is None} {event.completed} {event.occurred_at_ns is None}"


# --- properties ---

_PLAIN = table((b"__TypeId__", b"S" + long(b"com.example.Job")), (b"x-replayed", b"l" + struct.pack(">q", 1)))
_DEATH = table(
    (b"queue", b"S" + long(b"q")), (b"count", b"l" + struct.pack(">q", 3)), (b"time", b"T" + struct.pack(">Q", 1))
)
PROPERTIES = (
    struct.pack(">H", 0x9000) + short(b"application/json") + b"\x02",
    struct.pack(">H", HEADERS | TIMESTAMP) + _PLAIN + struct.pack(">Q", 1_769_860_800),
    struct.pack(">H", HEADERS) + table((b"x-death", b"A" + long(b"F" + _DEATH)), (b"d", b"D\x02\0\0\0\1")),
)


def check_properties(raw: bytes) -> str:
    """A frame that can be read, with or without all its properties, and whose body is still to come."""
    if len(raw) < 2:
        return "too short"
    if raw[1] & 1 and len(raw) < 4:
        return "too short"
    payload = struct.pack(">HHQ", 60, 0, 2) + raw
    try:
        _, _, frame = unmarshal(struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce")
    except UnmarshalingException as error:
        raise PromiseBroken(f"the connection would end: {error}") from error
    if not isinstance(frame, ContentHeader) or frame.body_size != 2:
        raise PromiseBroken(repr(frame))
    headers = frame.properties.headers or {}
    return f"unreadable: {str(headers[UNREADABLE_HEADER])[:40]}" if UNREADABLE_HEADER in headers else "read"


# --- files ---

TRACKS = (
    csv_text(SONGS_HEADER, [{**SONGS_ROW, "track_id": f"t{n}"} for n in range(3)]).encode(),
    csv_text(KAGGLE_HEADER, [{**KAGGLE_ROW, "track_id": f"t{n}"} for n in range(3)]).encode(),
    b"\xef\xbb\xbfgame_id,game_name,playtime,rating,genre,owned_ratio\n"
    b'7,"A, b",1,4.2,Indie,0.5\n8,C,,3,"Indie, Action",\n9,D,1,1,,1\n',
)
LAYOUTS_OF_ITEMS: tuple[ItemLayout, ...] = (*LAYOUTS, *item_layouts(load_profile("games")))
INTERACTIONS = (
    b"user_id,item_id,weight,occurred_at\nu,i,2,5\nv,j,3,1700000000000\nw,k,,2024-01-01T00:00:00Z\n",
    b'query_id,item_id,weight\nq,i,2\nq,j,\nr,"a ""b""",1\n',
    b"item_id,title,tempo,genre\ni,Dawn,120,pop\ni,Dawn,120,rock\nj,Dusk,,\n",
    b"1\t2\t3\t881250949\n2\t3\t1\t881250950\n",
)


def check_tracks(path: Path) -> Callable[[bytes], str]:
    """Rows, or a file that is refused; a bad row never stops the reading."""

    def check(raw: bytes) -> str:
        path.write_bytes(raw)
        try:
            file = CsvFile(path)
            rows = list(file.rows(file.layout_among(LAYOUTS_OF_ITEMS).item))
        except ConfigurationError as error:
            return _refusal(str(error))
        reasons = sorted({_refusal(row.reason.partition(": ")[0]) for row in rows if isinstance(row, RowProblem)})
        return f"read {len(rows)} {reasons[:2]}"

    return check


def check_interactions(path: Path) -> Callable[[bytes], str]:
    """The same of the three kinds of files that ``rank`` reads."""

    def check(raw: bytes) -> str:
        path.write_bytes(raw)
        outcomes: list[str] = []
        for read in (read_interactions, read_items, lambda each: read_queries(each, {"i": 0})):
            try:
                read(path)
            except ConfigurationError as error:
                outcomes.append(_refusal(str(error).removeprefix(str(path))))
            else:
                outcomes.append("read")
        return "; ".join(outcomes)

    return check


# --- settings ---

SETTINGS = tuple(
    f"{name.upper()}={'5,30' if name == 'retry_delays_s' else '{}' if name.startswith('llm_p') else '1'}".encode()
    for name in sorted(Settings.model_fields)
)


def check_setting(raw: bytes) -> str:
    """``NAME=value``: taken, or refused by the variable's name."""
    name, _, value = os.fsdecode(raw).replace("\0", "").partition("=")
    if name.lower() not in Settings.model_fields:
        return "no setting"
    with mock.patch.dict(os.environ, {name: value}):
        try:
            Settings(_env_file=None)
        except (ValidationError, SettingsError) as error:
            sentences = "\n".join(setting_problems(error, Settings))
            if name.upper() not in sentences.upper():
                raise PromiseBroken(sentences) from error
            return _refusal(sentences)
    return f"taken {name}"


# --- HTTP ---

REQUESTS = (
    b'/recommend\n{"memberId": 1, "favorite_song_ids": [1, 2, 3]}',
    b'/recommend/cached\n{"memberId": "1"}',
    b'/favorites/updated\n{"memberId": 1, "favorite_song_ids": null}',
    b"/warm/active?limit=3\n",
)
_PATHS = frozenset({b"/recommend", b"/recommend/cached", b"/favorites/updated", b"/warm/active"})
_BUG = 500


def check_request(client: httpx.AsyncClient) -> Callable[[bytes], Awaitable[str]]:
    """A path, a line break and a body: any answer but one that tells of a bug."""

    async def check(raw: bytes) -> str:
        target, _, body = raw.partition(b"\n")
        path, _, query = target.partition(b"?")
        if path not in _PATHS:
            return "another path"
        url = f"http://songs-ai{path.decode()}?{quote(query, safe='=&')}"
        answer = await client.post(url, content=body, headers={"content-type": "application/json"})
        if answer.status_code >= _BUG:
            raise PromiseBroken(f"{answer.status_code}: {answer.text}")
        return f"{path.decode()} {answer.status_code} {_refusal(answer.json().get('detail', ''))}"

    return check


def _at_once(check: Callable[[bytes], str]) -> Callable[[bytes], Awaitable[str]]:
    async def checked(raw: bytes) -> str:
        return check(raw)

    return checked


@asynccontextmanager
async def open_targets(directory: Path) -> AsyncIterator[Sequence[Target]]:
    """All targets; files are written to ``directory``."""
    forgive_unreadable_properties()
    async with http_bench() as bench:
        yield (
            Target("job messages", JOBS, _at_once(check_job), 20),
            Target("event messages", EVENTS, _at_once(check_event), 20),
            Target("message properties", PROPERTIES, _at_once(check_properties), 20),
            Target("track files", TRACKS, _at_once(check_tracks(directory / "tracks.csv")), 3),
            Target("interaction files", INTERACTIONS, _at_once(check_interactions(directory / "rows.csv")), 3),
            Target("settings", SETTINGS, _at_once(check_setting), 3),
            Target("HTTP requests", REQUESTS, check_request(bench.client)),
        )
