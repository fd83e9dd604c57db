"""What becomes of a delivery: three outcomes, and the one pure rule that picks among them."""

import hashlib
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

from core.errors import (
    DeliveredTooOften,
    DependencyUnavailable,
    InvalidMessage,
    JobStale,
    JobTimedOut,
    MemberForgotten,
    SongsAIError,
    encodable,
)
from core.ports.results import Claim

MAX_ERROR_CHARS = 500


class AckReason(StrEnum):
    """Why a delivery is done with."""

    SUCCEEDED = "succeeded"
    SUCCEEDED_BEFORE = "succeeded_before"
    FAILED_BEFORE = "failed_before"
    STALE = "stale"
    FORGOTTEN = "forgotten"


class RetryReason(StrEnum):
    """Why a delivery is to come again."""

    DEPENDENCY_UNAVAILABLE = "dependency_unavailable"
    TIMED_OUT = "timed_out"
    RUNNING_ELSEWHERE = "running_elsewhere"
    OUTCOME_NOT_RECORDED = "outcome_not_recorded"


class DeadLetterReason(StrEnum):
    """Why a delivery is given up."""

    INVALID = "invalid"
    ATTEMPTS_USED_UP = "attempts_used_up"
    UNEXPECTED = "unexpected"
    DELIVERED_TOO_OFTEN = "delivered_too_often"


@dataclass(frozen=True, slots=True)
class ErrorNote:
    """An error as headers and log lines carry it: its code, one sentence, and for a bug the traceback's digest."""

    code: str
    message: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """Done: take it off the queue."""

    reason: AckReason


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Send it to the retry queue of ``delay_s``, with ``attempt`` in its body; None leaves the body as it is."""

    reason: RetryReason
    delay_s: float
    attempt: int | None = None
    error: ErrorNote | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Send it to the dead-letter queue, with the error in its headers."""

    reason: DeadLetterReason
    error: ErrorNote


Disposition = Ack | RetryLater | DeadLetter


class Saved:
    """The event that the result is where its poller looks."""


@dataclass(frozen=True, slots=True)
class FailedUnseen:
    """The event that a job failed with ``error`` and its dead letter may never have reached its queue."""

    error: ErrorNote


@dataclass(frozen=True, slots=True)
class NotRecorded:
    """The event that the failure of ``disposition`` could not be written where its poller looks."""

    disposition: Disposition


Event = Saved | Claim | FailedUnseen | NotRecorded | Exception
"""What may befall a delivery; every claim but ``GRANTED`` and ``DEAD_LETTER_DUE``, which only lead to one of these."""


def disposition_of(  # noqa: C901, PLR0911 - one table in one place, as people read it
    event: Event, *, attempt: int, max_attempts: int, delays_s: Sequence[float]
) -> Disposition:
    """What becomes of a delivery whose try number ``attempt`` (0 for the first) ended in ``event``.

    The whole policy of retries. Only what may pass by itself is tried again: a dependency that was away, or a job that
    took too long, after a delay that grows with the attempts, until these are used up. What no worker can be blamed
    for costs no attempt: another delivery of the job that holds its lease, whose worker may be dead, and a failure
    that nobody can see yet. Everything else is given up at once, for no retry mends a wrong message or a bug; a job
    that is too old to be worth its price is done with. ``delays_s`` rise.
    """
    match event:
        case Saved():
            return Ack(AckReason.SUCCEEDED)
        case Claim.RUNNING_ELSEWHERE:
            return RetryLater(RetryReason.RUNNING_ELSEWHERE, delays_s[0])
        case Claim():
            return Ack(AckReason(event.value))
        case FailedUnseen(error):
            is_bug = error.code == SongsAIError.code
            return DeadLetter(DeadLetterReason.UNEXPECTED if is_bug else DeadLetterReason.ATTEMPTS_USED_UP, error)
        case NotRecorded(disposition):
            error_note = disposition.error if isinstance(disposition, DeadLetter) else None
            return RetryLater(RetryReason.OUTCOME_NOT_RECORDED, delays_s[-1], error=error_note)
        case JobStale():
            return Ack(AckReason.STALE)
        case MemberForgotten():
            return Ack(AckReason.FORGOTTEN)
        case InvalidMessage():
            return DeadLetter(DeadLetterReason.INVALID, note_of(event))
        case DeliveredTooOften():
            return DeadLetter(DeadLetterReason.DELIVERED_TOO_OFTEN, note_of(event))
        case DependencyUnavailable() | JobTimedOut():
            return _again(event, attempt, max_attempts, delays_s)
        case _:
            return DeadLetter(DeadLetterReason.UNEXPECTED, note_of(event))


def _again(
    error: DependencyUnavailable | JobTimedOut, attempt: int, max_attempts: int, delays_s: Sequence[float]
) -> Disposition:
    note = note_of(error)
    if attempt + 1 >= max_attempts:
        return DeadLetter(DeadLetterReason.ATTEMPTS_USED_UP, note)
    reason = RetryReason.TIMED_OUT if isinstance(error, JobTimedOut) else RetryReason.DEPENDENCY_UNAVAILABLE
    return RetryLater(reason, delays_s[min(attempt, len(delays_s) - 1)], attempt + 1, note)


def note_of(error: Exception) -> ErrorNote:
    """``error`` in one line; what is none of ours is a bug, and carries its type and its traceback's digest."""
    if isinstance(error, SongsAIError):
        return ErrorNote(error.code, _one_line(str(error)))
    return ErrorNote(SongsAIError.code, _one_line(f"{type(error).__name__}: {error}"), traceback_digest(error))


def traceback_digest(error: BaseException) -> str:
    """Twelve hex digits that are the same wherever the same bug strikes: its type and the code it passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{PurePath(frame.filename).name}:{frame.name}:{frame.lineno}" for frame in frames]
    return hashlib.sha256("\n".join([type(error).__qualname__, *places]).encode()).hexdigest()[:12]


def _one_line(text: str) -> str:
    line = " ".join(encodable(text).split())
    return line if len(line) <= MAX_ERROR_CHARS else f"{line[: MAX_ERROR_CHARS - 3]}..."
