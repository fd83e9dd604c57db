"""The job of one member's refresh on one day: whoever makes it, it is the same job."""

from datetime import date
from uuid import UUID, uuid5

from models.job import Job

_REFRESHES = UUID("6c1f2d0a-5a3b-4d86-9f43-3b7a2e0c9d51")


def refresh_job(member_id: int, on: date, *, requested_at_ns: int, locale: str | None = None) -> Job:
    """The id follows from task, day and member, so that a second run of the day is recognised as the first one's."""
    return Job(
        job_id=str(uuid5(_REFRESHES, f"refresh:{on.isoformat()}:{member_id}")),
        member_id=member_id,
        locale=locale,
        source="refresh",
        requested_at_ns=requested_at_ns,
    )
