"""Good input made bad: named kinds of bad job messages, and seeded mutations of any bytes."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

TEN_MEGABYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class BadJob:
    """How to make a good message bad, the field that its refusal names, and whether its job id can still be read."""

    of: Callable[[bytes], bytes]
    field: str
    id_is_readable: bool = True


def _with(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda good: json.dumps({**json.loads(good), **fields}).encode()


def _without(field: str) -> Callable[[bytes], bytes]:
    return lambda good: json.dumps({name: value for name, value in json.loads(good).items() if name != field}).encode()


def _ending(ending: bytes) -> Callable[[bytes], bytes]:
    return lambda good: good.rstrip()[:-1] + ending


def _written(field: str, text: str) -> Callable[[bytes], bytes]:
    """The field as ``json`` would not write it."""
    return lambda good: _with(**{field: "HERE"})(good).replace(b'"HERE"', text.encode())


BAD_JOBS: Mapping[str, BadJob] = {
    "empty": BadJob(lambda _: b"", "body", id_is_readable=False),
    "white space": BadJob(lambda _: b" \n\t", "body", id_is_readable=False),
    "byte order mark": BadJob(lambda good: b"\xef\xbb\xbf" + good, "body", id_is_readable=False),
    "UTF-16": BadJob(lambda good: good.decode().encode("utf-16"), "body", id_is_readable=False),
    "not UTF-8": BadJob(_ending(b',"x":"\xff\xfe"}'), "body"),
    "NUL bytes": BadJob(lambda good: good + b"\0\0", "body"),
    "cut off": BadJob(lambda good: good[:-1], "body"),
    "two objects": BadJob(lambda good: good + good, "body"),
    "an array": BadJob(lambda good: b"[" + good + b"]", "body", id_is_readable=False),
    "a string": BadJob(lambda good: json.dumps(good.decode()).encode(), "body", id_is_readable=False),
    "ten megabytes": BadJob(_ending(b',"x":"' + b"a" * TEN_MEGABYTES + b'"}'), "body"),
    "nested 100,000 times": BadJob(_ending(b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "body"),
    "objects nested 50,000 times": BadJob(_ending(b',"x":' + b'{"a":' * 50_000), "body"),
    "NaN": BadJob(_ending(b',"x":NaN}'), "body"),
    "Infinity": BadJob(_written("topK", "Infinity"), "body"),
    "a control character in a string": BadJob(_ending(b',"x":"\x01"}'), "body"),
    "single quotes": BadJob(_ending(b",'x':1}"), "body"),
    "a repeated field": BadJob(_ending(b',"memberId":8}'), "memberId"),
    "a repeated field in the context": BadJob(_written("context", '{"query":"a","query":"b"}'), "context.query"),
    "no job id": BadJob(_without("jobId"), "jobId", id_is_readable=False),
    "two job ids": BadJob(_ending(b',"jobId":"other"}'), "jobId", id_is_readable=False),
    "a job id that is a number": BadJob(_with(jobId=5), "jobId", id_is_readable=False),
    "a job id with a line break": BadJob(_with(jobId="a\nb"), "jobId", id_is_readable=False),
    "a job id that is half a surrogate pair": BadJob(_with(jobId="\ud800"), "jobId", id_is_readable=False),
    "a job id without end": BadJob(_with(jobId="x" * 5000), "jobId", id_is_readable=False),
    "no member": BadJob(_without("memberId"), "memberId"),
    "a member of a thousand digits": BadJob(_written("memberId", "9" * 1000), "memberId"),
    "a member of ten thousand digits": BadJob(_written("memberId", "9" * 10_000), "memberId"),
    "a member that is a fraction": BadJob(_with(memberId=1.5), "memberId"),
    "a member that is true": BadJob(_with(memberId=True), "memberId"),
    "a member that is text": BadJob(_with(memberId="Kim"), "memberId"),
    "favourites that are text": BadJob(_with(favoriteSongIds="1,2"), "favoriteSongIds"),
    "a favourite that is null": BadJob(_with(favoriteSongIds=[1, None]), "favoriteSongIds[1]"),
    "a favourite beyond 64 bits": BadJob(_with(favoriteSongIds=[2**64]), "favoriteSongIds[0]"),
    "an unknown strategy": BadJob(_with(strategy="deepest"), "strategy"),
    "a strategy that is an object": BadJob(_with(strategy={}), "strategy"),
    "no candidates": BadJob(_with(topK=0), "topK"),
    "candidates without end": BadJob(_written("topK", "1e400"), "topK"),
    "a locale that is a number": BadJob(_with(locale=7), "locale"),
    "a source that is a list": BadJob(_with(source=[]), "source"),
    "a trace id that is half a surrogate pair": BadJob(_with(traceId="\udfff"), "traceId"),
    "an idempotency key that is a number": BadJob(_with(idempotencyKey=1), "idempotencyKey"),
    "an instant without zone": BadJob(_with(requestedAt="2026-01-31T12:00:00"), "requestedAt"),
    "an instant in milliseconds": BadJob(_with(requestedAt=1_769_860_800_123), "requestedAt"),
    "an instant that fills the memory": BadJob(_written("requestedAt", "1e999999999"), "requestedAt"),
    "an attempt that is text": BadJob(_with(attempt="0"), "attempt"),
    "an attempt below 0": BadJob(_with(attempt=-1), "attempt"),
    "an attempt beyond 31 bits": BadJob(_with(attempt=2**31), "attempt"),
    "a context that is text": BadJob(_with(context="calm"), "context"),
    "a wish that is a number": BadJob(_with(context={"query": 5}), "context.query"),
    "a local time that is none": BadJob(_with(context={"localTime": "25:00"}), "context.localTime"),
}

_TOKENS = (
    b"\xff", b"\0", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"NaN", b"-Infinity", b"1e999",
    b"9" * 400,
    b"-0", b"null", b"true", b'""', b"[]", b"{}", b"[" * 200, b'{"a":' * 200, b'"', b"\\", b",", b":", b"\n", b"\r",
    b";",
    b"\t", b"inf", b"nan", b"-1", b"0x1F", b"1_000", b"%s", b"${x}", b"' OR 1=1 --", "\u202e\u200f\ufeff🎵한".encode(),
)  # fmt: skip


def mutated(good: bytes, seed: int, others: Sequence[bytes] = ()) -> bytes:
    """``good`` after one to six changes that ``seed`` draws; parts of ``others`` may be put in."""
    chance, raw = Random(seed), bytearray(good)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        chance.choice(_CHANGES)(raw, chance, others)
    return bytes(raw)


def _span(raw: bytearray, chance: Random, longest: int = 40) -> slice:
    start = chance.randrange(len(raw) + 1)
    return slice(start, min(len(raw), start + chance.randrange(1, longest)))


def _flip(raw: bytearray, chance: Random, _: Sequence[bytes]) -> None:
    if raw:
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)


def _cut(raw: bytearray, chance: Random, _: Sequence[bytes]) -> None:
    del raw[_span(raw, chance)]


def _repeat(raw: bytearray, chance: Random, _: Sequence[bytes]) -> None:
    span = _span(raw, chance)
    raw[span] = raw[span] * chance.choice((2, 2, 3, 50))


def _swap(raw: bytearray, chance: Random, _: Sequence[bytes]) -> None:
    taken = _span(raw, chance)
    piece = bytes(raw[taken])
    del raw[taken]
    place = chance.randrange(len(raw) + 1)
    raw[place:place] = piece


def _put(raw: bytearray, chance: Random, _: Sequence[bytes]) -> None:
    span = _span(raw, chance, 12)
    raw[span] = chance.choice(_TOKENS)


def _insert(raw: bytearray, chance: Random, _: Sequence[bytes]) -> None:
    place = chance.randrange(len(raw) + 1)
    raw[place:place] = chance.choice(_TOKENS)


def _splice(raw: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    other = chance.choice(others) if others else bytes(raw)
    start = chance.randrange(len(other) + 1)
    raw[chance.randrange(len(raw) + 1) :] = other[start:]


def _truncate(raw: bytearray, chance: Random, _: Sequence[bytes]) -> None:
    del raw[chance.randrange(len(raw) + 1) :]


_CHANGES = (_flip, _flip, _cut, _repeat, _swap, _put, _put, _insert, _insert, _splice, _truncate)
