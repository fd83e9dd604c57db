"""Message bodies of every bad kind: one sentence with field and value each, and their poller is told if that can be."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidMessage
from core.job_codec import decode_job
from core.wire_json import MAX_BODY_BYTES
from models.job import Job
from tests.support.mutations import BAD_JOBS, mutated

GOOD = {
    "jobId": "job-1",
    "memberId": 7,
    "favoriteSongIds": [1, 2],
    "strategy": "deep",
    "topK": 50,
    "locale": "ko",
    "source": "login",
    "requestedAt": "2026-01-31T12:00:00Z",
    "idempotencyKey": "k",
    "traceId": "t",
    "modelVersion": "m",
    "attempt": 0,
    "context": {"query": "calm", "mood": "calm", "activity": "run", "localTime": "18:30"},
}
RAW = json.dumps(GOOD).encode()


def refusal(raw: bytes) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        decode_job(raw)
    return caught.value


def taken_or_refused(raw: bytes) -> Job | InvalidMessage:
    try:
        return decode_job(raw)
    except InvalidMessage as error:
        return error


@pytest.mark.parametrize("kind", BAD_JOBS)
def test_every_bad_kind_is_refused_with_field_and_shortened_value(kind: str) -> None:
    bad = BAD_JOBS[kind]
    error = refusal(bad.of(RAW))
    assert error.field == bad.field
    assert str(error).startswith(f"{bad.field}: ")
    assert ", got " in str(error)
    assert len(str(error)) < 400
    assert str(error).encode()
    assert error.job_id == ("job-1" if bad.id_is_readable else None)


def test_the_message_that_they_are_made_of_is_a_good_one() -> None:
    assert decode_job(RAW).job_id == "job-1"


@pytest.mark.parametrize(
    "ending", [b"", b',"x":', b',"x":NaN}', b',"x":"\xff"}', b',"x":' + b"[" * 100_000, b',"memberId":2}', b"} {}"]
)
def test_the_job_id_before_the_place_where_the_reading_ends_is_told(ending: bytes) -> None:
    assert refusal(b'{"jobId":"job-1","memberId":1' + ending).job_id == "job-1"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"jobId":"job-1',
        b'{"jobId":"job-\xff","memberId":1}',
        b'{"jobId":"job-1","jobId":"job-2","memberId":1,',
        b'{"memberId":1,"x":NaN,"jobId":"job-1"}',
        b'{"x":{"jobId":"job-1"},',
    ],
)
def test_a_job_id_that_may_be_another_is_not_told(raw: bytes) -> None:
    assert refusal(raw).job_id is None


def test_of_ten_megabytes_the_beginning_is_read_and_in_no_time() -> None:
    raw = b'{"jobId":"job-1","memberId":1,"x":"' + b"a" * 10_000_000 + b'"}'
    started = time.perf_counter()
    assert refusal(raw).job_id == "job-1"
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    "filling",
    [
        b'"x":"' + b"\\u0000" * 170_000 + b'"',
        b'"x":' + b"9" * 1_000_000,
        b'"x":0.' + b"9" * 1_000_000,
        b",".join(b'"%d":1e9' % n for n in range(80_000)),
        b'"favoriteSongIds":[' + b",".join([b"9" * 4000] * 250) + b"]",
        b'"requestedAt":1.' + b"0" * 1_000_000,
    ],
)
def test_no_mebibyte_stops_the_event_loop_for_long(filling: bytes) -> None:
    raw = b'{"jobId":"job-1","memberId":1,' + filling + b"}"
    assert len(raw) <= MAX_BODY_BYTES
    started = time.perf_counter()
    assert taken_or_refused(raw).job_id == "job-1"
    assert time.perf_counter() - started < 2


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=30),
    st.just("\ud800"),
    st.lists(st.integers() | st.none(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), ODD, max_size=4))
@settings(max_examples=200)
def test_whatever_a_field_holds_the_job_is_taken_or_its_wrong_field_named(wrong: dict[str, Any]) -> None:
    outcome = taken_or_refused(json.dumps({**GOOD, **wrong}).encode())
    if isinstance(outcome, Job):
        assert -(2**63) <= outcome.member_id < 2**63
    else:
        assert outcome.field.partition("[")[0].partition(".")[0] in {*wrong, "body"}
        assert str(outcome).encode()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=300)
def test_no_mutation_of_a_good_message_makes_anything_but_a_job_or_a_refusal(seed: int) -> None:
    outcome = taken_or_refused(mutated(RAW, seed))
    if isinstance(outcome, InvalidMessage):
        assert str(outcome).startswith(f"{outcome.field}: ")
        assert len(str(outcome)) < 400
