"""What the worker counts, with bounded labels."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from workers.disposition import Ack, DeadLetter, Disposition

KNOWN_SOURCES = frozenset({"login", "manual", "http", "refresh", "replay", "favorites"})


class WorkerObserver(Protocol):
    """Counts jobs and deliveries; its labels come from the functions below, so that they stay few."""

    def job_waited(self, *, route: str, seconds: float) -> None:
        """A job came for the first time, so long after it was asked for."""

    def job_started(self, *, source: str) -> None:
        """A job was claimed and is being run."""

    def job_finished(self, *, outcome: str, source: str, seconds: float) -> None:
        """A started job ended ``seconds`` after its delivery; ``outcome`` is ``job_outcome``'s, or ``cancelled``."""

    def provisional_result(self, *, outcome: str, seconds: float) -> None:
        """Of a provisional result: ``written`` ``seconds`` after the delivery, ``skipped`` or ``failed``."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time the block as the job's stage ``name``, also where it fails."""

    def delivery_settled(self, *, route: str, outcome: str, reason: str) -> None:
        """The broker was told what becomes of a delivery."""

    def delivery_retried(self, *, route: str, delay: str) -> None:
        """A delivery was sent to the retry queue of ``delay``, such as ``5s``."""

    def delivery_not_settled(self, *, route: str) -> None:
        """The broker could not be told; it will deliver again."""


class SilentObserver:
    """Counts nothing."""

    def job_waited(self, *, route: str, seconds: float) -> None:
        """See ``WorkerObserver``."""

    def job_started(self, *, source: str) -> None:
        """See ``WorkerObserver``."""

    def job_finished(self, *, outcome: str, source: str, seconds: float) -> None:
        """See ``WorkerObserver``."""

    def provisional_result(self, *, outcome: str, seconds: float) -> None:
        """See ``WorkerObserver``."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """See ``WorkerObserver``."""
        return nullcontext()

    def delivery_settled(self, *, route: str, outcome: str, reason: str) -> None:
        """See ``WorkerObserver``."""

    def delivery_retried(self, *, route: str, delay: str) -> None:
        """See ``WorkerObserver``."""

    def delivery_not_settled(self, *, route: str) -> None:
        """See ``WorkerObserver``."""


def source_label(source: str | None) -> str:
    """The job's source where it is a known one: what publishers write is not bounded."""
    if source is None:
        return "none"
    return source if source in KNOWN_SOURCES else "other"


def job_outcome(disposition: Disposition) -> str:
    """``succeeded``, ``retried`` or ``dead_lettered``, for a job that was run."""
    return "succeeded" if isinstance(disposition, Ack) else outcome_label(disposition)


def outcome_label(disposition: Disposition) -> str:
    """``acked``, ``retried`` or ``dead_lettered``."""
    match disposition:
        case Ack():
            return "acked"
        case DeadLetter():
            return "dead_lettered"
        case _:
            return "retried"
