import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import (
    ConfigurationError,
    DependencyUnavailable,
    InvalidMessage,
    JobStale,
    JobTimedOut,
    LanguageModelFailed,
    PublishRefused,
)
from core.ports.results import Claim
from workers.disposition import (
    MAX_ERROR_CHARS,
    Ack,
    AckReason,
    DeadLetter,
    DeadLetterReason,
    Disposition,
    ErrorNote,
    Event,
    FailedUnseen,
    NotRecorded,
    RetryLater,
    RetryReason,
    Saved,
    disposition_of,
    note_of,
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


Row = tuple[Event, int, Disposition]
AWAY = DependencyUnavailable("redis", "timed out")
SLOW = JobTimedOut("60 s")
WRONG = InvalidMessage("topK", 0, "too small")
MODEL = LanguageModelFailed("timeout")
ODD = ValueError("x")
LOST = ErrorNote("DEPENDENCY_UNAVAILABLE", "redis: timed out")
BUG = ErrorNote("INTERNAL_ERROR", "ValueError: x", "0123456789ab")


def again(error: Exception, delay_s: float, attempt: int) -> RetryLater:
    reason = RetryReason.TIMED_OUT if error is SLOW else RetryReason.DEPENDENCY_UNAVAILABLE
    return RetryLater(reason, delay_s, attempt, note_of(error))


TABLE: dict[str, Row] = {
    "the result is saved": (Saved(), 0, Ack(AckReason.SUCCEEDED)),
    "saved at the last try": (Saved(), 3, Ack(AckReason.SUCCEEDED)),
    "redelivered, succeeded": (Claim.SUCCEEDED_BEFORE, 0, Ack(AckReason.SUCCEEDED_BEFORE)),
    "redelivered, failed": (Claim.FAILED_BEFORE, 3, Ack(AckReason.FAILED_BEFORE)),
    "runs elsewhere": (Claim.RUNNING_ELSEWHERE, 0, RetryLater(RetryReason.RUNNING_ELSEWHERE, 5.0)),
    "runs elsewhere, last try": (Claim.RUNNING_ELSEWHERE, 3, RetryLater(RetryReason.RUNNING_ELSEWHERE, 5.0)),
    "wrong message": (WRONG, 0, DeadLetter(DeadLetterReason.INVALID, note_of(WRONG))),
    "MySQL or Redis away, first": (AWAY, 0, again(AWAY, 5.0, 1)),
    "MySQL or Redis away, second": (AWAY, 1, again(AWAY, 30.0, 2)),
    "MySQL or Redis away, third": (AWAY, 2, again(AWAY, 120.0, 3)),
    "attempts used up": (AWAY, 3, DeadLetter(DeadLetterReason.ATTEMPTS_USED_UP, note_of(AWAY))),
    "beyond what there may be": (AWAY, 2**31 - 1, DeadLetter(DeadLetterReason.ATTEMPTS_USED_UP, note_of(AWAY))),
    "too slow, first": (SLOW, 0, again(SLOW, 5.0, 1)),
    "too slow, attempts used up": (SLOW, 3, DeadLetter(DeadLetterReason.ATTEMPTS_USED_UP, note_of(SLOW))),
    "the LLM, which must never come here": (MODEL, 0, DeadLetter(DeadLetterReason.UNEXPECTED, note_of(MODEL))),
    "a bug": (ODD, 0, DeadLetter(DeadLetterReason.UNEXPECTED, note_of(ODD))),
    "stale": (JobStale("2 days"), 0, Ack(AckReason.STALE)),
    "failed, dead letter perhaps lost": (
        *(FailedUnseen(LOST), 0),
        DeadLetter(DeadLetterReason.ATTEMPTS_USED_UP, LOST),
    ),
    "a bug, dead letter perhaps lost": (FailedUnseen(BUG), 0, DeadLetter(DeadLetterReason.UNEXPECTED, BUG)),
    "failure not recorded": (
        *(NotRecorded(DeadLetter(DeadLetterReason.UNEXPECTED, BUG)), 2),
        RetryLater(RetryReason.OUTCOME_NOT_RECORDED, 120.0, error=BUG),
    ),
    "staleness not recorded": (
        *(NotRecorded(Ack(AckReason.STALE)), 0),
        RetryLater(RetryReason.OUTCOME_NOT_RECORDED, 120.0),
    ),
}
"""The table of the design, with 4 tries and retry queues of 5, 30 and 120 s: what befell which try, and its outcome."""


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_each_row_of_the_table(row: Row) -> None:
    event, attempt, expected = row
    assert disposition_of(event, attempt=attempt, max_attempts=4, delays_s=DELAYS_S) == expected


EVENTS = st.sampled_from([*(event for event, _, _ in TABLE.values())])


@given(EVENTS, st.integers(0, 9), st.integers(1, 9))
def test_only_what_a_worker_tried_costs_an_attempt_and_no_delivery_is_acked_that_may_still_be_needed(
    event: Event, attempt: int, max_attempts: int
) -> None:
    outcome = disposition_of(event, attempt=attempt, max_attempts=max_attempts, delays_s=DELAYS_S)
    if isinstance(outcome, RetryLater):
        assert outcome.delay_s in DELAYS_S
        assert (outcome.attempt is None) == (not isinstance(event, Exception))
    if isinstance(outcome, Ack):
        assert isinstance(event, Saved | JobStale) or event in {Claim.SUCCEEDED_BEFORE, Claim.FAILED_BEFORE}


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
