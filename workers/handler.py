"""One delivery in, one disposition out: decode, claim, run, save. The broker is told by others."""

import asyncio
from collections.abc import Sequence
from functools import partial
from uuid import uuid4

import structlog
from structlog.contextvars import bound_contextvars

from core.errors import DependencyUnavailable, InvalidMessage, JobTimedOut
from core.job_codec import decode_job
from core.ports import Claim, Clock, Recommender, ResultCache, ResultDocuments
from models.job import Job
from models.log_event import LogEvent
from workers.broker import Delivery
from workers.disposition import (
    Ack,
    AckReason,
    DeadLetter,
    Disposition,
    RetryLater,
    disposition_of,
    note_of,
    outcome_not_recorded,
    running_elsewhere,
)
from workers.lease_keeper import LeaseKeeper
from workers.observer import WorkerObserver, job_outcome, source_label
from workers.settlement import REPLAYED_HEADER

log = structlog.get_logger()

RELEASE_TIMEOUT_S = 1.0
SAVE_PAUSES_S = (0.1, 0.5, 2.0)


class JobHandler:
    """Handles deliveries of jobs; one instance serves all that run side by side.

    ``delays_s`` are the retry queues' delays, rising. ``save_pauses_s`` are the pauses between the tries of saving a
    finished result: what has been paid for is not thrown away because Redis blinked.
    """

    def __init__(
        self,
        recommender: Recommender,
        results: ResultCache,
        leases: LeaseKeeper,
        *,
        max_attempts: int,
        delays_s: Sequence[float],
        job_timeout_s: float,
        clock: Clock,
        observer: WorkerObserver,
        save_pauses_s: Sequence[float] = SAVE_PAUSES_S,
    ) -> None:
        self._recommender = recommender
        self._results = results
        self._leases = leases
        self._max_attempts = max_attempts
        self._delays_s = tuple(delays_s)
        self._job_timeout_s = job_timeout_s
        self._clock = clock
        self._observer = observer
        self._save_pauses_s = tuple(save_pauses_s)

    async def handle(self, delivery: Delivery) -> Disposition:
        """What becomes of ``delivery``; raises ``CancelledError`` alone, and then nothing was decided."""
        try:
            job = decode_job(delivery.body)
        except InvalidMessage as error:
            return await self._refused(error)
        replay = REPLAYED_HEADER in delivery.headers
        with bound_contextvars(job_id=job.job_id, trace_id=job.trace_id, attempt=job.attempt):
            log.info(LogEvent.JOB_RECEIVED, source=job.source, redelivered=delivery.redelivered, replay=replay)
            disposition = await self._handled(job, replay=replay)
            _log_disposition(disposition)
            return disposition

    async def _handled(self, job: Job, *, replay: bool) -> Disposition:
        token = uuid4().hex
        try:
            claim = await self._results.claim(job, token=token, replay=replay)
            if claim is not Claim.GRANTED:
                return self._not_granted(claim)
            return await self._granted(job, token)
        except Exception as error:  # noqa: BLE001 - the entry point of every job: a bug must reach the dead letters
            return await self._failed(job, error, token)

    def _not_granted(self, claim: Claim) -> Disposition:
        if claim is Claim.RUNNING_ELSEWHERE:
            return running_elsewhere(self._delays_s)
        return Ack(AckReason(claim.value))

    async def _granted(self, job: Job, token: str) -> Disposition:
        source, started_s = source_label(job.source), self._clock.monotonic_s()
        self._observer.job_started(source=source)
        try:
            with self._leases.held(job.job_id, token):
                disposition = await self._run_and_save(job, token)
        except asyncio.CancelledError:
            self._finished("cancelled", source, started_s)
            log.info(LogEvent.JOB_CANCELLED)
            await self._release(job, token)
            raise
        self._finished(job_outcome(disposition), source, started_s)
        return disposition

    def _finished(self, outcome: str, source: str, started_s: float) -> None:
        self._observer.job_finished(outcome=outcome, source=source, seconds=self._clock.monotonic_s() - started_s)

    async def _run_and_save(self, job: Job, token: str) -> Disposition:
        try:
            documents = await self._run(job)
            await self._save(job, documents, token)
        except Exception as error:  # noqa: BLE001 - see _handled; here, so that the outcome is timed and counted
            return await self._failed(job, error, token)
        return Ack(AckReason.SUCCEEDED)

    async def _run(self, job: Job) -> ResultDocuments:
        scope = asyncio.timeout(self._job_timeout_s)
        try:
            async with scope:
                return await self._recommender.recommend(job, partial(self._report, job))
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise JobTimedOut(f"the job took longer than {self._job_timeout_s:g} s") from error

    async def _report(self, job: Job, progress: int) -> None:
        try:
            await self._results.report_progress(job, progress)
        except DependencyUnavailable as error:
            log.debug(LogEvent.DEPENDENCY_CHECK_FAILED, error=str(error))

    async def _save(self, job: Job, documents: ResultDocuments, token: str) -> None:
        for pause_s in self._save_pauses_s:
            try:
                return await self._results.succeed(job, documents, token=token)
            except DependencyUnavailable as error:
                log.warning(LogEvent.RESULT_SAVE_RETRIED, error=str(error), pause_s=pause_s)
                await asyncio.sleep(pause_s)
        return await self._results.succeed(job, documents, token=token)

    async def _failed(self, job: Job, error: Exception, token: str) -> Disposition:
        disposition = disposition_of(
            error, attempt=job.attempt, max_attempts=self._max_attempts, delays_s=self._delays_s
        )
        note = note_of(error)
        if note.digest is not None:
            log.error(LogEvent.UNEXPECTED_ERROR_CAUGHT, digest=note.digest, exc_info=error)
        if isinstance(disposition, DeadLetter):
            return await self._recorded(job.job_id, disposition, token)
        await self._release(job, token)
        return disposition

    async def _refused(self, error: InvalidMessage) -> Disposition:
        with bound_contextvars(job_id=error.job_id):
            disposition = disposition_of(error, attempt=0, max_attempts=1, delays_s=self._delays_s)
            if isinstance(disposition, DeadLetter) and error.job_id is not None:
                disposition = await self._recorded(error.job_id, disposition, None)
            _log_disposition(disposition)
            return disposition

    async def _recorded(self, job_id: str, dead_letter: DeadLetter, token: str | None) -> Disposition:
        """``dead_letter`` once its failure is where the poller looks; while Redis is away the delivery waits for it."""
        error = dead_letter.error
        try:
            await self._results.fail(job_id, code=error.code, message=error.message, token=token)
        except DependencyUnavailable:
            return outcome_not_recorded(dead_letter, self._delays_s)
        return dead_letter

    async def _release(self, job: Job, token: str) -> None:
        """Give the lease up, if that is quickly done: otherwise it ends by itself."""
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await self._results.release(job, token=token)
        except (DependencyUnavailable, TimeoutError) as error:
            log.debug(LogEvent.LEASE_RENEWAL_FAILED, error=str(error))


def _log_disposition(disposition: Disposition) -> None:
    match disposition:
        case Ack(AckReason.SUCCEEDED):
            log.info(LogEvent.JOB_SUCCEEDED)
        case Ack(reason):
            log.info(LogEvent.JOB_DUPLICATE_ACKED, reason=reason.value)
        case RetryLater(reason, delay_s, _, error):
            log.info(LogEvent.JOB_RETRIED, reason=reason.value, delay_s=delay_s, error=error and error.message)
        case DeadLetter(reason, error):
            log.warning(LogEvent.JOB_DEAD_LETTERED, reason=reason.value, error=error.message, digest=error.digest)
