"""Jobs that were asked for so long ago that nobody waits for their results any more."""

from datetime import UTC, datetime, timedelta

from core.errors import JobStale
from models.job import Job
from workers.broker import Delivery
from workers.settlement import n_replays

_NS_PER_S = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def refuse_stale(job: Job, delivery: Delivery, *, now: datetime, max_age_s: float) -> None:
    """Raise ``JobStale`` where ``job`` is older than ``max_age_s`` (0: never).

    Its age counts from ``requestedAt``, else from the timestamp of its message; where neither is told it is as good as
    new, and so is one from the future, for it is the publisher's clock that is wrong. The age of a replayed job counts
    from the replay, which sets that timestamp.
    """
    born_s = _born_s(job, delivery)
    if not max_age_s or born_s is None:
        return
    age_s = (now - _EPOCH) / timedelta(seconds=1) - born_s
    if age_s > max_age_s:
        raise JobStale(f"the job is {age_s:.0f} s old, and older than {max_age_s:g} s it is not run any more")


def _born_s(job: Job, delivery: Delivery) -> float | None:
    """Seconds since the epoch; not as a ``datetime``, which an instant of any year need not fit into."""
    sent_at = delivery.properties.timestamp
    if job.requested_at_ns is not None and not n_replays(delivery.headers):
        return job.requested_at_ns / _NS_PER_S
    return None if sent_at is None else (sent_at - _EPOCH) / timedelta(seconds=1)
