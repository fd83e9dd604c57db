import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import (
    ConfigurationError,
    DependencyUnavailable,
    InvalidMessage,
    JobTimedOut,
    LanguageModelFailed,
    PublishRefused,
)
from workers.disposition import (
    MAX_ERROR_CHARS,
    DeadLetter,
    DeadLetterReason,
    RetryLater,
    RetryReason,
    disposition_of,
    note_of,
    running_elsewhere,
)

DELAYS_S = (5.0, 30.0, 120.0)
TRANSIENT = [DependencyUnavailable("redis", "timed out"), JobTimedOut("60 s"), PublishRefused("not confirmed")]


def deep_list(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize("error", TRANSIENT)
def test_what_may_pass_is_tried_again_with_growing_delays_until_the_attempts_are_used_up(error: Exception) -> None:
    outcomes = [disposition_of(error, attempt=n, max_attempts=4, delays_s=DELAYS_S) for n in range(4)]
    assert [(o.delay_s, o.attempt) for o in outcomes[:3] if isinstance(o, RetryLater)] == [(5, 1), (30, 2), (120, 3)]
    assert isinstance(outcomes[3], DeadLetter)
    assert outcomes[3].reason is DeadLetterReason.ATTEMPTS_USED_UP


@given(st.integers(0, 50), st.integers(1, 20), st.lists(st.floats(0.1, 500), min_size=1, max_size=4))
def test_there_are_never_more_tries_than_allowed(attempt: int, max_attempts: int, delays_s: list[float]) -> None:
    delays_s.sort()
    outcome = disposition_of(TRANSIENT[0], attempt=attempt, max_attempts=max_attempts, delays_s=delays_s)
    assert isinstance(outcome, RetryLater) == (attempt + 1 < max_attempts)
    if isinstance(outcome, RetryLater):
        assert outcome.attempt == attempt + 1
        assert outcome.delay_s in delays_s


def test_a_timeout_is_told_apart_from_a_dependency_that_is_away() -> None:
    timed_out = disposition_of(JobTimedOut("slow"), attempt=0, max_attempts=2, delays_s=DELAYS_S)
    assert isinstance(timed_out, RetryLater)
    assert timed_out.reason is RetryReason.TIMED_OUT
    assert timed_out.error is not None
    assert timed_out.error.code == "GENERATION_TIMEOUT"


def test_a_wrong_message_is_never_retried() -> None:
    outcome = disposition_of(InvalidMessage("topK", 0, "too small"), attempt=0, max_attempts=9, delays_s=DELAYS_S)
    assert isinstance(outcome, DeadLetter)
    assert (outcome.reason, outcome.error.code) == (DeadLetterReason.INVALID, "INVALID_JOB")
    assert "topK" in outcome.error.message


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError(1), LanguageModelFailed("timeout"), ConfigurationError("no"), TimeoutError()]
)
def test_what_nobody_expected_is_dead_lettered_at_once(error: Exception) -> None:
    outcome = disposition_of(error, attempt=0, max_attempts=9, delays_s=DELAYS_S)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason is DeadLetterReason.UNEXPECTED


def test_one_bug_has_one_digest_and_another_bug_another() -> None:
    first, again = (note_of(raised(ValueError(text))).digest for text in ("member 1", "member 2"))
    assert first is not None
    assert first == again
    assert note_of(raised(KeyError("member 1"))).digest != first


def test_an_error_note_is_one_short_line() -> None:
    note = note_of(ValueError("line\n" * 1000))
    assert len(note.message) == MAX_ERROR_CHARS
    assert "\n" not in note.message


def test_a_refusal_can_be_written_whatever_the_message_held() -> None:
    error = InvalidMessage("\ud800", "\udfff", "stands \udc00 more than once")
    assert str(error) == r"\ud800: stands \udc00 more than once, got '\udfff'"


@pytest.mark.parametrize("value", [deep_list(100_000), 10**5000], ids=["deep", "long"])
def test_a_refusal_of_what_cannot_be_shown_says_so(value: object) -> None:
    assert "cannot be shown" in str(InvalidMessage("memberId", value, "must be an integer"))


def test_an_error_note_can_be_written_whatever_the_bug_says() -> None:
    assert note_of(ValueError("half \ud800")).message == r"ValueError: half \ud800"


def test_a_job_that_runs_elsewhere_comes_back_soon_with_its_attempt_as_it_was() -> None:
    outcome = running_elsewhere(DELAYS_S)
    assert (outcome.delay_s, outcome.attempt) == (5.0, None)
