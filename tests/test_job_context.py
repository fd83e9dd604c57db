"""The context of a job message: what is taken, cleaned and refused, and that it survives the codec."""

import contextlib
import json
from datetime import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidMessage
from core.job_codec import MAX_MOOD_CHARS, MAX_QUERY_CHARS, decode_job, encode_job, with_attempt
from core.plain_text import plain_line
from models.job import Job, JobContext

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
MINUTES = st.builds(time, st.integers(0, 23), st.integers(0, 59))
WORDS = ANY_TEXT.map(lambda text: plain_line(text, MAX_MOOD_CHARS) or None)
CONTEXTS = st.builds(
    JobContext,
    query=st.none() | WORDS,
    mood=st.none() | WORDS,
    activity=st.none() | WORDS,
    local_time=st.none() | MINUTES,
)


def body(context: object) -> bytes:
    return json.dumps({"jobId": "job-1", "memberId": 7, "context": context}).encode()


def context_of(context: object) -> JobContext | None:
    return decode_job(body(context)).context


def refusal(raw: bytes) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        decode_job(raw)
    return caught.value


def test_a_whole_context_is_taken() -> None:
    context = {"query": "something bright for the way home", "mood": "밝은", "activity": "通勤", "localTime": "18:30"}
    assert context_of(context) == JobContext(
        query="something bright for the way home", mood="밝은", activity="通勤", local_time=time(18, 30)
    )


@pytest.mark.parametrize(
    "nothing",
    [None, {}, {"query": None}, {"query": ""}, {"mood": " \t\u200b\u202e\x00"}, {"somethingNew": {"query": "x"}}],
)
def test_a_context_that_says_nothing_is_none(nothing: object) -> None:
    assert context_of(nothing) is None
    assert encode_job(decode_job(body(nothing))) == encode_job(Job(job_id="job-1", member_id=7))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("07:05", time(7, 5)),
        ("23:59:59", time(23, 59)),
        ("00:00:00.123456789", time(0, 0)),
        ("18:30+09:00", time(18, 30)),
        ("2026-02-28T18:30", time(18, 30)),
        ("2026-02-28T18:30:15.5-03:30", time(18, 30)),
    ],
)
def test_a_local_time_is_what_the_listeners_clock_shows(written: str, meant: time) -> None:
    assert context_of({"localTime": written}) == JobContext(local_time=meant)


@pytest.mark.parametrize(
    ("context", "field", "shown"),
    [
        ("bright", "context", "'bright'"),
        ([], "context", "[]"),
        (5, "context", "5"),
        ({"query": 5}, "context.query", "5"),
        ({"query": ["a"]}, "context.query", "['a']"),
        ({"query": "\ud800"}, "context.query", "'\\ud800'"),
        ({"mood": True}, "context.mood", "True"),
        ({"activity": {}}, "context.activity", "{}"),
        ({"localTime": 18}, "context.localTime", "18"),
        ({"localTime": ""}, "context.localTime", "''"),
        ({"localTime": "24:00"}, "context.localTime", "'24:00'"),
        ({"localTime": "6:30"}, "context.localTime", "'6:30'"),
        ({"localTime": "18:60"}, "context.localTime", "'18:60'"),
        ({"localTime": "١٨:٣٠"}, "context.localTime", "'١٨:٣٠'"),
        ({"localTime": "evening"}, "context.localTime", "'evening'"),
        ({"localTime": "2026-02-30T18:30"}, "context.localTime", "'2026-02-30T18:30'"),
        ({"localTime": "18:30\n"}, "context.localTime", "'18:30\\n'"),
    ],
)
def test_what_is_not_a_context_is_refused_by_field_and_value(context: object, field: str, shown: str) -> None:
    error = refusal(body(context))
    assert (error.field, error.job_id) == (field, "job-1")
    assert field in str(error)
    assert shown in str(error)


@pytest.mark.parametrize("written", ["2026-01-31T09:30:00Z", "2026-01-31T09:30:00.000Z", "2026-01-31T09:30Z", "09:30Z"])
def test_an_instant_in_utc_is_no_local_time_and_is_ignored(written: str) -> None:
    assert context_of({"localTime": written}) is None
    assert context_of({"query": "calm", "localTime": written}) == JobContext(query="calm")


@pytest.mark.parametrize("written", ["2026-02-30T09:30:00Z", "25:00Z", "Z", "09:30ZZ", "09:30+09:00Z"])
def test_what_is_no_instant_in_utc_either_is_refused(written: str) -> None:
    assert refusal(body({"localTime": written})).field == "context.localTime"


def test_a_clock_that_is_at_utc_by_its_offset_is_local() -> None:
    assert context_of({"localTime": "2026-01-31T09:30:00+00:00"}) == JobContext(local_time=time(9, 30))


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"jobId":"j","memberId":1,"context":{},"context":null}', "context"),
        (b'{"jobId":"j","memberId":1,"context":{"mood":"a","mood":"b"}}', "context.mood"),
    ],
)
def test_what_stands_twice_is_refused_since_readers_disagree(raw: bytes, field: str) -> None:
    assert refusal(raw).field == field


def test_what_is_unknown_may_stand_as_often_as_it_likes() -> None:
    raw = b'{"jobId":"j","memberId":1,"context":{"x":1,"mood":"calm","x":{"mood":2}}}'
    assert decode_job(raw).context == JobContext(mood="calm")


def test_a_wish_of_ten_thousand_letters_is_cut_and_not_refused() -> None:
    context = context_of({"query": "bright " * 1500, "mood": "calm" * 1000, "activity": "🏃" * 10_000})
    assert context is not None
    assert [len(text or "") for text in (context.query, context.mood, context.activity)] == [
        MAX_QUERY_CHARS,
        MAX_MOOD_CHARS,
        MAX_MOOD_CHARS,
    ]
    assert (context.query or "").startswith("bright bright")


def test_control_and_direction_characters_are_taken_out_and_letters_of_any_script_stay() -> None:
    hostile = "calm\x00\r\n\x1b[31m \u202egnos\u2066\u2028 أغنية هادئة 🌙\u200d"
    assert context_of({"query": hostile}) == JobContext(query="calm [31m gnos أغنية هادئة 🌙")


@given(CONTEXTS)
def test_a_context_survives_the_codec(context: JobContext) -> None:
    job = Job(job_id="j", member_id=1, context=context or None)
    assert decode_job(encode_job(job)) == job


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_any_text_becomes_one_short_plain_line(query: str, mood: str, activity: str) -> None:
    context = context_of({"query": query, "mood": mood, "activity": activity}) or JobContext()
    for text in (context.query, context.mood, context.activity):
        assert text is None or (text.isprintable() and text.strip() == text != "")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | ANY_TEXT,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["query", "mood", "activity", "localTime", "x"]), inner, max_size=4)
        ),
        max_leaves=6,
    )
)
def test_nothing_but_a_refusal_comes_of_a_strange_context(context: Any) -> None:
    with contextlib.suppress(InvalidMessage):
        decode_job(body(context))


def test_a_job_that_is_tried_again_keeps_its_context_to_the_byte() -> None:
    raw = b'{"jobId":"j","memberId":1,"context":{"query":"\\u660e\\u308b\\u3044", "later":1.10},"attempt":0}'
    assert with_attempt(raw, 2) == raw.replace(b'"attempt":0', b'"attempt":2')
