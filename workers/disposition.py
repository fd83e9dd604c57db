"""What becomes of a delivery: three outcomes, and the pure rule that picks one for an error."""

import hashlib
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

from core.errors import DependencyUnavailable, InvalidMessage, JobTimedOut, SongsAIError, encodable

MAX_ERROR_CHARS = 500


class AckReason(StrEnum):
    """Why a delivery is done with."""

    SUCCEEDED = "succeeded"
    SUCCEEDED_BEFORE = "succeeded_before"
    FAILED_BEFORE = "failed_before"


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


def disposition_of(error: Exception, *, attempt: int, max_attempts: int, delays_s: Sequence[float]) -> Disposition:
    """What becomes of a job whose try number ``attempt`` (0 for the first) ended in ``error``.

    A wrong message and a bug are dead-lettered at once, for no retry mends them. A dependency that was away, or a job
    that took too long, is tried again after a delay that grows with the attempts, until these are used up. The delays
    rise.
    """
    note = note_of(error)
    if isinstance(error, InvalidMessage):
        return DeadLetter(DeadLetterReason.INVALID, note)
    if not isinstance(error, DependencyUnavailable | JobTimedOut):
        return DeadLetter(DeadLetterReason.UNEXPECTED, note)
    if attempt + 1 >= max_attempts:
        return DeadLetter(DeadLetterReason.ATTEMPTS_USED_UP, note)
    reason = RetryReason.TIMED_OUT if isinstance(error, JobTimedOut) else RetryReason.DEPENDENCY_UNAVAILABLE
    return RetryLater(reason, delays_s[min(attempt, len(delays_s) - 1)], attempt + 1, note)


def running_elsewhere(delays_s: Sequence[float]) -> RetryLater:
    """Another delivery of the same job holds its lease: look again soon, for its worker may be dead."""
    return RetryLater(RetryReason.RUNNING_ELSEWHERE, delays_s[0])


def outcome_not_recorded(dead_letter: DeadLetter, delays_s: Sequence[float]) -> RetryLater:
    """The failure could not be written where its poller looks: an outcome that nobody can see is none."""
    return RetryLater(RetryReason.OUTCOME_NOT_RECORDED, delays_s[-1], error=dead_letter.error)


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
