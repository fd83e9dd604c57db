import contextlib
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidMessage
from core.job_codec import decode_job, encode_job, with_attempt
from core.wire_json import MAX_BODY_BYTES
from models.job import Job, Strategy

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JOB_IDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"]), min_size=1, max_size=40)
JOBS = st.builds(
    Job,
    job_id=JOB_IDS,
    member_id=INT64,
    favorite_item_ids=st.lists(INT64, max_size=5).map(tuple),
    strategy=st.sampled_from(Strategy),
    top_k=st.none() | st.integers(1, 2**63 - 1),
    locale=st.none() | TEXT,
    source=st.none() | TEXT,
    requested_at_ns=st.none() | st.integers(-62_135_596_800 * 10**9, 253_402_300_799 * 10**9 + 999_999_999),
    idempotency_key=st.none() | TEXT.filter(bool),
    trace_id=st.none() | TEXT,
    model_version=st.none() | TEXT,
    attempt=st.integers(0, 2**31 - 1),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SPACE = st.text(" \t\r\n", max_size=3)


def body(**fields: object) -> bytes:
    return json.dumps({"jobId": "job-1", "memberId": 7, **fields}).encode()


def refusal(raw: bytes) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        decode_job(raw)
    return caught.value


# --- what is taken ---


def test_a_message_of_the_backend_is_taken_whole() -> None:
    raw = b"""{"jobId":"3f1c","memberId":42,"favoriteSongIds":[1,2,3],"strategy":"deep","topK":50,"locale":"ja",
        "source":"login","requestedAt":"2026-01-31T12:00:00.123456789Z","idempotencyKey":"k","traceId":"t",
        "modelVersion":"m","attempt":2,"somethingNew":{"x":[1,{"y":null}]}}"""
    assert decode_job(raw) == Job(
        job_id="3f1c",
        member_id=42,
        favorite_item_ids=(1, 2, 3),
        strategy=Strategy.DEEP,
        top_k=50,
        locale="ja",
        source="login",
        requested_at_ns=1_769_860_800_123_456_789,
        idempotency_key="k",
        trace_id="t",
        model_version="m",
        attempt=2,
    )


def test_null_reads_as_absent_for_every_optional_field() -> None:
    texts = ["locale", "source", "idempotencyKey", "traceId", "modelVersion"]
    others = ["favoriteSongIds", "strategy", "topK", "requestedAt", "attempt"]
    assert (
        decode_job(body(**dict.fromkeys([*texts, *others]))) == decode_job(body()) == Job(job_id="job-1", member_id=7)
    )


@pytest.mark.parametrize(
    ("written", "member_id"),
    [(42, 42), ("42", 42), ("007", 7), (2**63 - 1, 2**63 - 1), (str(2**63 - 1), 2**63 - 1), (-1, -1)],
)
def test_a_member_id_is_an_integer_or_a_string_of_digits(written: object, member_id: int) -> None:
    assert decode_job(body(memberId=written)).member_id == member_id


def test_any_string_is_a_locale() -> None:
    assert decode_job(body(locale="48151623")).locale == "48151623"


def test_an_empty_idempotency_key_is_none() -> None:
    assert decode_job(body(idempotencyKey="")).idempotency_key is None


@pytest.mark.parametrize(
    ("written", "instant_ns"),
    [
        ('"1970-01-01T00:00:00Z"', 0),
        ('"1970-01-01T00:00:01.5Z"', 1_500_000_000),
        ('"2026-01-31T12:00Z"', 1_769_860_800_000_000_000),
        ('"2026-01-31T12:00:00.000000001Z"', 1_769_860_800_000_000_001),
        ('"9999-12-31T23:59:59.999999999Z"', 253_402_300_799_999_999_999),
        ("1769860800.123456789", 1_769_860_800_123_456_789),
        ("1769860800.000000000", 1_769_860_800_000_000_000),
        ("1769860800", 1_769_860_800_000_000_000),
        ("1.769860800123456789E9", 1_769_860_800_123_456_789),
        ("-0.5", -500_000_000),
    ],
)
def test_an_instant_is_read_to_the_nanosecond(written: str, instant_ns: int) -> None:
    raw = f'{{"jobId":"j","memberId":1,"requestedAt":{written}}}'.encode()
    assert decode_job(raw).requested_at_ns == instant_ns


@given(st.integers(0, 253_402_300_798), st.integers(0, 999_999_999))
def test_both_ways_of_writing_an_instant_mean_the_same(seconds: int, ns: int) -> None:
    as_number = f'{{"jobId":"j","memberId":1,"requestedAt":{seconds}.{ns:09d}}}'.encode()
    as_text = encode_job(Job(job_id="j", member_id=1, requested_at_ns=seconds * 10**9 + ns))
    assert decode_job(as_number).requested_at_ns == decode_job(as_text).requested_at_ns == seconds * 10**9 + ns


@given(JOBS)
def test_what_is_encoded_decodes_to_the_same_job(job: Job) -> None:
    assert decode_job(encode_job(job)) == job


# --- what is refused ---


@pytest.mark.parametrize(
    ("fields", "field", "shown"),
    [
        ({"jobId": None}, "jobId", "None"),
        ({"jobId": ""}, "jobId", "''"),
        ({"jobId": "  "}, "jobId", "'  '"),
        ({"jobId": 5}, "jobId", "5"),
        ({"jobId": "a\nb"}, "jobId", "'a\\nb'"),
        ({"jobId": "a\u2028b"}, "jobId", "'a\\u2028b'"),
        ({"jobId": "x" * 201}, "jobId", "'xxx"),
        ({"jobId": "\ud800"}, "jobId", "'\\ud800'"),
        ({"memberId": None}, "memberId", "None"),
        ({"memberId": True}, "memberId", "True"),
        ({"memberId": 1.0}, "memberId", "1.0"),
        ({"memberId": 2**63}, "memberId", str(2**63)),
        ({"memberId": str(2**63)}, "memberId", str(2**63)),
        ({"memberId": "-1"}, "memberId", "'-1'"),
        ({"memberId": "٤٢"}, "memberId", "'٤٢'"),
        ({"memberId": "4 2"}, "memberId", "'4 2'"),
        ({"memberId": ""}, "memberId", "''"),
        ({"favoriteSongIds": "1,2"}, "favoriteSongIds", "'1,2'"),
        ({"favoriteSongIds": [1, None]}, "favoriteSongIds[1]", "None"),
        ({"favoriteSongIds": [False]}, "favoriteSongIds[0]", "False"),
        ({"favoriteSongIds": [1, 2, "3"]}, "favoriteSongIds[2]", "'3'"),
        ({"strategy": "DEEP"}, "strategy", "'DEEP'"),
        ({"strategy": 1}, "strategy", "1"),
        ({"topK": 0}, "topK", "0"),
        ({"topK": True}, "topK", "True"),
        ({"topK": "50"}, "topK", "'50'"),
        ({"topK": 2.5}, "topK", "2.5"),
        ({"locale": 7}, "locale", "7"),
        ({"source": []}, "source", "[]"),
        ({"idempotencyKey": 5}, "idempotencyKey", "5"),
        ({"traceId": {}}, "traceId", "{}"),
        ({"modelVersion": False}, "modelVersion", "False"),
        ({"attempt": -1}, "attempt", "-1"),
        ({"attempt": "0"}, "attempt", "'0'"),
        ({"attempt": True}, "attempt", "True"),
        ({"requestedAt": True}, "requestedAt", "True"),
        ({"requestedAt": "yesterday"}, "requestedAt", "'yesterday'"),
        ({"requestedAt": "2026-01-31T12:00:00"}, "requestedAt", "'2026-01-31T12:00:00'"),
        ({"requestedAt": "2026-01-31T12:00:00+09:00"}, "requestedAt", "'2026-01-31T12:00:00+09:00'"),
        ({"requestedAt": "2026-01-31T12:00.5Z"}, "requestedAt", "'2026-01-31T12:00.5Z'"),
        ({"requestedAt": "2026-01-31T12Z"}, "requestedAt", "'2026-01-31T12Z'"),
        ({"requestedAt": "2026-01-31T12:00:00z"}, "requestedAt", "'2026-01-31T12:00:00z'"),
        ({"requestedAt": "2026-01-31T24:00:00Z"}, "requestedAt", "'2026-01-31T24:00:00Z'"),
        ({"requestedAt": "2026-02-30T12:00:00Z"}, "requestedAt", "'2026-02-30T12:00:00Z'"),
        ({"requestedAt": "2026-01-31T12:00:00.1234567891Z"}, "requestedAt", "'2026-01-31T12:00:00.1234567891Z'"),
        ({"requestedAt": 1_769_860_800_123}, "requestedAt", "1769860800123"),
    ],
)
def test_a_wrong_field_is_refused_by_name_and_value(fields: dict[str, object], field: str, shown: str) -> None:
    error = refusal(body(**fields))
    assert error.field == field
    assert str(error).startswith(f"{field}: ")
    assert shown in str(error)
    assert error.job_id == (None if field == "jobId" else "job-1")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"job", "must be a JSON object"),
        (b"{", "must be JSON"),
        (b'{"jobId"}', "must be JSON"),
        (b'{"jobId":"a",}', "must be JSON"),
        (b'{,"jobId":"a"}', "must be JSON"),
        (b'{"jobId":"a" "memberId":1}', "must be JSON"),
        (b'{1:"a"}', "names are strings"),
        (b'{"jobId":"a","memberId":1} {}', "one JSON object"),
        (b'\xef\xbb\xbf{"jobId":"a","memberId":1}', "must be a JSON object"),
        (b'{"jobId":"\xff"}', "must be UTF-8"),
        (b'{"x":NaN}', "no such number"),
        (b'{"x":[-Infinity]}', "no such number"),
        (b'{"x":' + b"[" * 200_000, "nested too deep"),
        (b'{"x":"' + b"a" * MAX_BODY_BYTES + b'"}', "must not be longer"),
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes, problem: str) -> None:
    error = refusal(raw)
    assert error.field == "body"
    assert problem in str(error)
    assert len(str(error)) < 400


def test_a_repeated_field_is_refused_for_readers_disagree_on_which_one_counts() -> None:
    error = refusal(b'{"jobId":"a","memberId":1,"memb\\u0065rId":2}')
    assert (error.field, error.job_id) == ("memberId", "a")


@pytest.mark.parametrize(
    "unknown",
    [
        b'"x":1,"x":2',
        b'"\\ud800":1,"\\ud800":2',
        b'"x":' + b"9" * 5000,
        b'"x":[-' + b"9" * 5000 + b"]",
        b'"x":1e99999999999999999999',
        b'"x":{"y":-1.5e-99999999999999999999}',
    ],
)
def test_what_an_unknown_field_holds_refuses_no_job(unknown: bytes) -> None:
    raw = b'{"jobId":"a",' + unknown + b',"memberId":1}'
    assert decode_job(raw) == Job(job_id="a", member_id=1)
    assert decode_job(with_attempt(raw, 3)).attempt == 3
    assert with_attempt(raw, 3).endswith(raw[1:])


@pytest.mark.parametrize("field", ["memberId", "topK", "attempt", "requestedAt", "locale"])
@pytest.mark.parametrize("number", ["9" * 5000, "1e99999999999999999999"])
def test_a_number_beyond_all_bounds_in_a_field_of_ours_is_refused_by_name(field: str, number: str) -> None:
    others = {"memberId": 1, field: None, "jobId": "a"}
    raw = json.dumps(others).replace(f'"{field}": null', f'"{field}": {number}')
    error = refusal(raw.encode())
    assert (error.field, error.job_id) == (field, "a")
    assert len(str(error)) < 400


def test_of_two_job_ids_neither_is_taken() -> None:
    error = refusal(b'{"jobId":"a","jobId":"b","memberId":1}')
    assert (error.field, error.job_id) == ("jobId", None)


@pytest.mark.parametrize("written", ["1.0000000001", "1e-10", "1e999999999", "-1e999999999", "0." + "0" * 60 + "1"])
def test_a_number_that_is_no_instant_in_nanoseconds_is_refused_at_once(written: str) -> None:
    error = refusal(f'{{"jobId":"a","memberId":1,"requestedAt":{written}}}'.encode())
    assert (error.field, error.job_id) == ("requestedAt", "a")


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_nothing_but_a_refusal_comes_of_garbage(raw: bytes) -> None:
    with contextlib.suppress(InvalidMessage):
        decode_job(raw)


# --- raising the attempt ---


def pretty(members: list[tuple[str, Any]], spaces: list[str]) -> str:
    """A JSON object with its members spaced out by ``spaces``, in turn."""
    gaps = iter(spaces * (4 * len(members) + 2))
    inner = ",".join(
        f"{next(gaps)}{json.dumps(name, ensure_ascii=False)}{next(gaps)}:{next(gaps)}"
        f"{json.dumps(value, ensure_ascii=False)}{next(gaps)}"
        for name, value in members
    )
    return f"{next(gaps)}{{{inner or next(gaps)}}}"


@given(
    st.dictionaries(TEXT.filter(lambda name: name != "attempt"), JSON, max_size=4),
    JSON,
    st.integers(0, 5),
    st.integers(0, 2**31 - 1),
    st.lists(SPACE, min_size=1, max_size=5),
)
def test_only_the_attempt_changes_and_every_other_byte_stays(
    others: dict[str, Any], old: Any, place: int, attempt: int, spaces: list[str]
) -> None:
    members = list(others.items())
    place = min(place, len(members))
    before = pretty([*members[:place], ("attempt", old), *members[place:]], spaces)
    after = pretty([*members[:place], ("attempt", attempt), *members[place:]], spaces)
    assert with_attempt(before.encode(), attempt).decode() == after


@given(st.dictionaries(TEXT.filter(lambda name: name != "attempt"), JSON, max_size=4), st.integers(0, 99))
def test_an_absent_attempt_is_put_in_front_of_the_rest(others: dict[str, Any], attempt: int) -> None:
    before = json.dumps(others).encode()
    after = with_attempt(before, attempt)
    assert json.loads(after) == {**others, "attempt": attempt}
    assert after.endswith(before.lstrip(b"{"))


def test_nanoseconds_and_huge_integers_keep_every_digit() -> None:
    raw = b'{"requestedAt":1769860800.123456789,"x":123456789012345678901234567890,"attempt" : 0 ,"y":1.10}'
    assert with_attempt(raw, 1) == raw.replace(b'"attempt" : 0 ', b'"attempt" : 1 ')


def test_an_attempt_inside_another_object_is_not_the_jobs() -> None:
    raw = b'{"inner":{"attempt":5},"att\\u0065mpt":3}'
    assert with_attempt(raw, 4) == b'{"inner":{"attempt":5},"att\\u0065mpt":4}'


def test_the_attempt_of_no_object_cannot_be_set() -> None:
    with pytest.raises(InvalidMessage, match="must be a JSON object"):
        with_attempt(b"[]", 1)


def test_decimals_are_never_taken_for_floats() -> None:
    error = refusal(b'{"jobId":"a","memberId":1,"topK":50.0}')
    assert repr(Decimal("50.0")) in str(error)
