"""A job: what a publisher asks for, once its delivery has been decoded."""

from dataclasses import dataclass
from datetime import time
from enum import StrEnum


class Strategy(StrEnum):
    """How much LLM a job may spend."""

    DEFAULT = "default"
    FAST = "fast"
    DEEP = "deep"


class JobStatus(StrEnum):
    """The states that a poller of ``job:status:{jobId}`` sees."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """What the listener asks for at this moment, in their own words; each is one plain line, or None.

    ``local_time`` is the time of day on the listener's clock, to the minute.
    """

    query: str | None = None
    mood: str | None = None
    activity: str | None = None
    local_time: time | None = None

    def __bool__(self) -> bool:
        """Whether it asks for anything."""
        return any(part is not None for part in (self.query, self.mood, self.activity, self.local_time))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One recommendation job.

    ``requested_at_ns`` is the instant of the request in nanoseconds since the epoch (UTC), exact, or None where the
    publisher gave none. ``locale`` is what the publisher wrote, which may be no locale at all.
    """

    job_id: str
    member_id: int
    favorite_item_ids: tuple[int, ...] = ()
    strategy: Strategy = Strategy.DEFAULT
    top_k: int | None = None
    locale: str | None = None
    source: str | None = None
    requested_at_ns: int | None = None
    idempotency_key: str | None = None
    trace_id: str | None = None
    model_version: str | None = None
    attempt: int = 0
    context: JobContext | None = None
