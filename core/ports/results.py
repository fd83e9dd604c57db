"""Results, jobs and kept answers, as pollers read them.

The docstrings are the contract that every adapter is tested by. Where a method names no other error, the only one that
it raises is ``DependencyUnavailable``.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from models.job import Job, JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultDocuments:
    """The finished documents, as the JSON bytes that Redis will hold; ``shown_ids``: the items of the groups."""

    result: bytes
    cached_view: bytes
    preference: bytes
    degraded: bool = False
    shown_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionalDocuments:
    """What may stand in for a result while the LLM is asked, as JSON.

    A type of its own, so that it can neither be kept as an answer nor end a job.
    """

    result: bytes
    cached_view: bytes


class AnswerCache(Protocol):
    """Finished answers by fingerprint, so that an unchanged listener costs nothing."""

    async def get(self, fingerprint: str) -> ResultDocuments | None:
        """The answer stored under ``fingerprint``, or None."""

    async def put(self, fingerprint: str, documents: ResultDocuments, job: Job) -> None:
        """Store what was found for ``job``; degraded answers live shorter, those of forgotten members not at all."""

    def single_flight(self, fingerprint: str) -> AbstractAsyncContextManager[None]:
        """Hold ``fingerprint`` alone among all tasks and workers; others wait, and look again when they enter.

        A holder that dies lets go within a few seconds by itself.
        """


class Claim(StrEnum):
    """What a worker may do with a job that was delivered to it."""

    GRANTED = "granted"
    GRANTED_TOO_OFTEN = "granted_too_often"
    SUCCEEDED_BEFORE = "succeeded_before"
    FAILED_BEFORE = "failed_before"
    RUNNING_ELSEWHERE = "running_elsewhere"
    DEAD_LETTER_DUE = "dead_letter_due"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as its poller sees it; ``result`` is the JSON document where the job succeeded."""

    status: JobStatus
    progress: int
    fields: Mapping[str, str] = field(default_factory=dict)
    result: bytes | None = None


class ResultCache(Protocol):
    """The Redis keys that the backend reads (CONTRACT.md 2). Every method is atomic; status never goes backwards."""

    async def mark_queued(self, job: Job) -> None:
        """``queued`` with ``submittedAt``, for a job that we publish, unless it already has a status."""

    async def claim(self, job: Job, *, token: str, replay: int = 0) -> Claim:
        """Make the job ``running`` and leased to ``token``, if it is neither finished nor leased to another.

        A failed job is granted again only on a ``replay`` (1 for the first, 0 for none) of a higher number than any
        that was granted before: what is sent twice is run once. ``DEAD_LETTER_DUE`` is a failed job whose message may
        never have reached the dead-letter queue. ``GRANTED_TOO_OFTEN`` is a grant as well, of a job whose workers die
        or fall silent each time: it is to be given up. A job whose ``idempotency_key`` another job of the member
        holds gets that job's result and ``SUCCEEDED_BEFORE`` once that one succeeded, and ``RUNNING_ELSEWHERE``
        while it runs. Raises ``MemberForgotten`` where the member was, after the job was asked for.
        """

    async def renew(self, tokens: Mapping[str, str]) -> None:
        """Prolong the leases of ``{job_id: token}``; a lease that is another's or gone is left alone."""

    async def release(self, job: Job, *, token: str) -> None:
        """Give the lease up without a final status, so that a retry may claim at once; the status stays."""

    async def report_progress(self, job: Job, progress: int) -> None:
        """Raise ``progress`` (0..100) of a running job; it never falls."""

    async def succeed(self, job: Job, documents: ResultDocuments, *, token: str) -> bool:
        """Write result, ``latest:``, ``recommend:`` and ``preference:``, then ``succeeded``, and end the lease.

        A job that already succeeded is left as it is; so is one that failed, and then the answer is False: it has its
        end, and its message is on the way to the dead-letter queue. An older job of the member writes its own result,
        and leaves ``latest:`` and ``recommend:`` to the newer one. What the member has refused meanwhile is left out.
        Raises ``MemberForgotten``, and nothing is written, where the member was after the job was asked for.
        """

    async def fail(
        self, job_id: str, *, code: str, message: str, token: str | None = None, dead_letter: bool = False
    ) -> bool:
        """``failed`` with ``error.code`` and ``error.message``; ends the lease. False where nothing was written.

        That is so where the job has ended before, or another worker holds it.

        Without a ``token`` nothing happens while the job runs: who asks has not claimed it. With ``dead_letter`` its
        message is yet to be dead-lettered, and the lease stays: until ``dead_lettered`` is called, a claim is
        ``RUNNING_ELSEWHERE``, and once the lease is over ``DEAD_LETTER_DUE`` to one caller, who holds it then.
        """

    async def dead_lettered(self, job_id: str, *, token: str) -> None:
        """The message of a failed job is safe in the dead-letter queue; ends the lease."""

    async def job(self, job_id: str) -> JobView | None:
        """What a poller sees, or None."""

    async def cached_view(self, member_id: int) -> bytes | None:
        """``recommend:{memberId}``, JSON, or None."""


class ProvisionalResults(Protocol):
    """What ``latest:`` and ``recommend:`` hold for a member who has no result, while a job of theirs runs.

    ``ResultCache.succeed`` puts the result in its place, unless what stands there is of a newer job; nothing else of a
    job is touched.
    """

    async def wants_provisional(self, job: Job, *, token: str) -> bool:
        """Whether ``show_provisional`` would show anything now."""

    async def show_provisional(self, job: Job, documents: ProvisionalDocuments, *, token: str) -> bool:
        """Show ``documents`` for a few minutes, and say so.

        False, and nothing is done, where the job does not run under ``token``, or the member has a result or the
        provisional documents of a newer job.
        """
