"""Which trace a message belongs to."""

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.trace_context import TraceContext, logged_trace_id, read_traceparent, trace_context, trace_id_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEX = st.text("0123456789abcdef", min_size=32, max_size=32).filter(lambda text: int(text, 16) > 0)
SHORT_HEX = HEX.map(lambda text: text[:16]).filter(lambda text: int(text, 16) > 0)


@given(trace_id=HEX, span_id=SHORT_HEX, flags=st.binary(min_size=1, max_size=1))
def test_a_traceparent_says_trace_span_and_whether_it_is_sampled(trace_id: str, span_id: str, flags: bytes) -> None:
    text = f"00-{trace_id}-{span_id}-{flags.hex()}"
    wanted = TraceContext(trace_id=trace_id, span_id=span_id, is_sampled=bool(flags[0] & 1))
    assert read_traceparent(text) == read_traceparent(text.encode()) == read_traceparent(f" {text} ") == wanted


@pytest.mark.parametrize(
    "broken",
    [
        None,
        7,
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-what-the-first-version-does-not-have",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0g",
        b"\xff\xfe",
    ],
)
def test_a_broken_traceparent_is_none(broken: object) -> None:
    assert read_traceparent(broken) is None
    assert trace_context({"traceparent": broken}, None) is None


def test_a_traceparent_of_a_later_version_may_say_more() -> None:
    assert read_traceparent(f"cc-{TRACE}-{SPAN}-01-more") == TraceContext(trace_id=TRACE, span_id=SPAN, is_sampled=True)


def test_the_header_goes_before_what_the_body_says() -> None:
    header = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
    assert trace_context(header, "f" * 32) == TraceContext(trace_id=TRACE, span_id=SPAN)
    assert trace_context({}, "f" * 32) == TraceContext(trace_id="f" * 32)
    assert trace_context({}, f"00-{TRACE}-{SPAN}-01") == TraceContext(trace_id=TRACE, span_id=SPAN, is_sampled=True)
    assert trace_context({}, None) is None
    assert trace_context({}, "") is None


def test_ids_that_tracers_write_are_kept() -> None:
    name = uuid.UUID("C0FFEE00-1111-4222-8333-444455556666")
    assert trace_id_of(TRACE) == trace_id_of(TRACE.upper()) == trace_id_of(f" {TRACE} ") == TRACE
    assert trace_id_of(SPAN) == "0" * 16 + SPAN
    assert trace_id_of(str(name)) == trace_id_of(str(name).upper()) == name.hex


@given(st.text())
def test_of_any_name_there_is_one_id_that_is_valid(said: str) -> None:
    assert re.fullmatch("[0-9a-f]{32}", trace_id_of(said))
    assert int(trace_id_of(said), 16) > 0
    assert trace_id_of(said) == trace_id_of(said)
    assert trace_id_of(said + "x") != trace_id_of(said + "y")


def test_a_lone_surrogate_in_a_name_does_no_harm() -> None:
    assert trace_id_of("\ud800") != trace_id_of("\udfff")


def test_zeros_are_no_trace() -> None:
    assert int(trace_id_of("0" * 32), 16) > 0
    assert int(trace_id_of(str(uuid.UUID(int=0))), 16) > 0


def test_lines_name_the_trace_as_its_publisher_does_or_as_it_would_be_called() -> None:
    header = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    assert logged_trace_id(header, "the publisher's", "j1") == "the publisher's"
    assert logged_trace_id(header, None, "j1") == TRACE
    assert logged_trace_id({}, None, "j1") == trace_id_of("j1")
    assert logged_trace_id({}, None, None) is None
