"""One delivery in, one disposition out: decode, claim, run, save. The broker is told by others."""

import asyncio
from collections.abc import Sequence
from functools import partial
from uuid import uuid4

import structlog
from structlog.contextvars import bound_contextvars

from core.errors import DependencyUnavailable, InvalidMessage, JobTimedOut
from core.job_codec import decode_job
from core.lanes import Lane, current_lane
from core.ports.clock import Clock
from core.ports.recommending import RankedReporter, Recommender
from core.ports.results import Claim, ResultCache, ResultDocuments
from core.trace_context import logged_trace_id
from models.job import Job
from models.log_event import LogEvent
from workers.broker import Delivery
from workers.delivery_count import refuse_if_left_too_often, refuse_if_too_often
from workers.disposition import (
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
    Saved,
    disposition_of,
    note_of,
)
from workers.lease_keeper import LeaseKeeper
from workers.observer import WorkerObserver, job_outcome, source_label
from workers.provisional import ProvisionalWriter
from workers.queue_ages import QueueAges
from workers.settlement import n_replays
from workers.staleness import refuse_stale

log = structlog.get_logger()

RELEASE_TIMEOUT_S = 1.0
_ROUTES = {Lane.INTERACTIVE: "main", Lane.BATCH: "batch"}
_NS_PER_S = 1_000_000_000
SAVE_PAUSES_S = (0.1, 0.5, 2.0, 5.0, 5.0, 8.0)  # a Redis that restarts needs some 20 s


class JobHandler:
    """Handles deliveries of jobs; one instance serves all that run side by side.

    ``delays_s`` are the retry queues' delays, rising. ``save_pauses_s`` are the pauses between the tries of saving a
    finished result: what has been paid for is not thrown away because Redis restarts. Without ``provisional``, a member
    who has nothing waits for the result. A job older than ``max_age_s`` is not run any more (0: however old it is).

    All leases of one handler carry one token, so that a job whose lease could not be given up is not kept from the
    worker that holds it; two deliveries of one job in this worker exclude each other here.
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
        provisional: ProvisionalWriter | None = None,
        save_pauses_s: Sequence[float] = SAVE_PAUSES_S,
        max_age_s: float = 0.0,
        delivery_limit: int = 0,
        ages: QueueAges | None = None,
    ) -> None:
        self._recommender = recommender
        self._results = results
        self._leases = leases
        self._max_attempts = max_attempts
        self._delays_s = tuple(delays_s)
        self._job_timeout_s = job_timeout_s
        self._clock = clock
        self._observer = observer
        self._provisional = provisional
        self._save_pauses_s = tuple(save_pauses_s)
        self._max_age_s = max_age_s
        self._delivery_limit = delivery_limit
        self._ages = ages or QueueAges(clock)
        self._token = uuid4().hex
        self._running: set[str] = set()

    async def handle(self, delivery: Delivery) -> Disposition:
        """What becomes of ``delivery``; raises ``CancelledError`` alone, and then nothing was decided."""
        arrived_s = self._clock.monotonic_s()
        try:
            return await self._decided(delivery, arrived_s)
        except Exception as error:  # noqa: BLE001 - a delivery that nothing is decided about blocks its slot for ever
            _log_bug(error)
            disposition = DeadLetter(DeadLetterReason.UNEXPECTED, note_of(error))
            _log_disposition(disposition)
            return disposition

    async def _decided(self, delivery: Delivery, arrived_s: float) -> Disposition:
        try:
            job = decode_job(delivery.body)
        except InvalidMessage as error:
            return await self._refused(delivery, error)
        replay = n_replays(delivery.headers)
        self._taken(job, is_first=not (replay or job.attempt or delivery.redelivered))
        # the pipeline says the arm, and here it is forgotten again
        trace_id = logged_trace_id(delivery.headers, job.trace_id, job.job_id)
        with bound_contextvars(job_id=job.job_id, trace_id=trace_id, attempt=job.attempt, arm=None):
            log.info(LogEvent.JOB_RECEIVED, source=job.source, redelivered=delivery.redelivered, replay=replay)
            disposition = await self._alone(job, delivery, arrived_s)
            _log_disposition(disposition)
            return disposition

    def _taken(self, job: Job, *, is_first: bool) -> None:
        route = _ROUTES[current_lane()]
        self._ages.taken(route, job.requested_at_ns)
        if is_first and job.requested_at_ns is not None:
            waited_s = self._clock.now().timestamp() - job.requested_at_ns / _NS_PER_S
            self._observer.job_waited(route=route, seconds=max(0.0, waited_s))

    async def _alone(self, job: Job, delivery: Delivery, arrived_s: float) -> Disposition:
        if job.job_id in self._running:
            return self._disposition_of(Claim.RUNNING_ELSEWHERE, job)
        self._running.add(job.job_id)
        try:
            return await self._handled(job, delivery, arrived_s)
        finally:
            self._running.remove(job.job_id)

    async def _handled(self, job: Job, delivery: Delivery, arrived_s: float) -> Disposition:
        try:
            claim = await self._results.claim(job, token=self._token, replay=n_replays(delivery.headers))
            refuse_if_left_too_often(claim)
            if claim is not Claim.GRANTED:
                return self._disposition_of(await self._befallen(claim, job), job)
            # Not before the claim: of a job that runs elsewhere no delivery is done with, however old it is.
            refuse_if_too_often(delivery, limit=self._delivery_limit)
            refuse_stale(job, delivery, now=self._clock.now(), max_age_s=self._max_age_s)
            return await self._granted(job, arrived_s)
        except Exception as error:  # noqa: BLE001 - the entry point of every job: its poller must see that it failed
            return await self._failed(job, error)

    async def _befallen(self, claim: Claim, job: Job) -> Event:
        """What a claim that was not granted comes to."""
        if claim is not Claim.DEAD_LETTER_DUE:
            return claim
        view = await self._results.job(job.job_id)
        told = view.fields if view else {}
        return FailedUnseen(ErrorNote(told.get("error.code", ""), told.get("error.message", "")))

    def _disposition_of(self, event: Event, job: Job) -> Disposition:
        return disposition_of(event, attempt=job.attempt, max_attempts=self._max_attempts, delays_s=self._delays_s)

    async def _granted(self, job: Job, arrived_s: float) -> Disposition:
        source = source_label(job.source)
        self._observer.job_started(source=source)
        try:
            with self._leases.held(job.job_id, self._token):
                disposition = await self._run_and_save(job, arrived_s)
        except asyncio.CancelledError:
            self._finished("cancelled", source, arrived_s)
            log.info(LogEvent.JOB_CANCELLED)
            await self._release(job)
            raise
        self._finished(job_outcome(disposition), source, arrived_s)
        return disposition

    def _finished(self, outcome: str, source: str, arrived_s: float) -> None:
        self._observer.job_finished(outcome=outcome, source=source, seconds=self._clock.monotonic_s() - arrived_s)

    async def _run_and_save(self, job: Job, arrived_s: float) -> Disposition:
        try:
            documents = await self._run(job, arrived_s)
            with self._observer.stage("save"):
                is_saved = await self._save(job, documents)
        except Exception as error:  # noqa: BLE001 - see _handled; here, so that the outcome is timed and counted
            return await self._failed(job, error)
        return self._disposition_of(Saved() if is_saved else Claim.FAILED_BEFORE, job)

    async def _run(self, job: Job, arrived_s: float) -> ResultDocuments:
        scope = asyncio.timeout(self._job_timeout_s)
        on_ranked = self._on_ranked(job, arrived_s)
        try:
            async with scope:
                return await self._recommender.recommend(job, partial(self._report, job), on_ranked)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise JobTimedOut(f"the job took longer than {self._job_timeout_s:g} s") from error

    def _on_ranked(self, job: Job, arrived_s: float) -> RankedReporter | None:
        if self._provisional is None:
            return None
        return partial(self._provisional.offer, job, arrived_s, self._token)

    async def _report(self, job: Job, progress: int) -> None:
        try:
            await self._results.report_progress(job, progress)
        except DependencyUnavailable as error:
            log.debug(LogEvent.DEPENDENCY_CHECK_FAILED, error=str(error))

    async def _save(self, job: Job, documents: ResultDocuments) -> bool:
        for pause_s in self._save_pauses_s:
            try:
                return await self._results.succeed(job, documents, token=self._token)
            except DependencyUnavailable as error:
                log.warning(LogEvent.RESULT_SAVE_RETRIED, error=str(error), pause_s=pause_s)
                await asyncio.sleep(pause_s)
        return await self._results.succeed(job, documents, token=self._token)

    async def _failed(self, job: Job, error: Exception) -> Disposition:
        _log_bug(error)
        disposition = self._disposition_of(error, job)
        if isinstance(disposition, RetryLater):
            await self._release(job)
            return disposition
        return await self._recorded(job.job_id, disposition, note_of(error), self._token)

    async def _refused(self, delivery: Delivery, error: InvalidMessage) -> Disposition:
        trace_id = logged_trace_id(delivery.headers, None, error.job_id)
        with bound_contextvars(job_id=error.job_id, trace_id=trace_id):
            disposition = disposition_of(error, attempt=0, max_attempts=1, delays_s=self._delays_s)
            if isinstance(disposition, DeadLetter) and error.job_id is not None:
                disposition = await self._recorded(error.job_id, disposition, disposition.error, None)
            _log_disposition(disposition)
            return disposition

    async def _recorded(
        self, job_id: str, disposition: Disposition, error: ErrorNote, token: str | None
    ) -> Disposition:
        """``disposition`` once the failure is where the poller looks; while Redis is away the delivery waits for it.

        What another delivery of the job has ended, or a worker that took it over is about to, is not given up here:
        it comes again, and is done with once that one is.
        """
        is_due = token is not None and isinstance(disposition, DeadLetter)
        try:
            is_recorded = await self._results.fail(
                job_id, code=error.code, message=error.message, token=token, dead_letter=is_due
            )
        except DependencyUnavailable:
            return disposition_of(NotRecorded(disposition), attempt=0, max_attempts=1, delays_s=self._delays_s)
        if token is not None and not is_recorded:
            return disposition_of(Claim.RUNNING_ELSEWHERE, attempt=0, max_attempts=1, delays_s=self._delays_s)
        return disposition

    async def dead_lettered(self, delivery: Delivery) -> None:
        """Note that ``delivery`` is safe in the dead-letter queue: a redelivery of it is only acked from now on.

        Where Redis does not take the note, a redelivery is dead-lettered a second time; that is better than never.
        """
        try:
            job = decode_job(delivery.body)
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await self._results.dead_lettered(job.job_id, token=self._token)
        except InvalidMessage:
            return
        except (DependencyUnavailable, TimeoutError) as error:
            log.debug(LogEvent.DEPENDENCY_CHECK_FAILED, error=str(error))

    async def _release(self, job: Job) -> None:
        """Give the lease up, if that is quickly done: otherwise it ends by itself."""
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await self._results.release(job, token=self._token)
        except (DependencyUnavailable, TimeoutError) as error:
            log.debug(LogEvent.LEASE_RENEWAL_FAILED, error=str(error))


def _log_bug(error: Exception) -> None:
    digest = note_of(error).digest
    if digest is not None:
        log.error(LogEvent.UNEXPECTED_ERROR_CAUGHT, digest=digest, exc_info=error)


def _log_disposition(disposition: Disposition) -> None:
    match disposition:
        case Ack(AckReason.SUCCEEDED):
            log.info(LogEvent.JOB_SUCCEEDED)
        case Ack(AckReason.STALE):
            log.info(LogEvent.JOB_SKIPPED_AS_STALE)
        case Ack(AckReason.FORGOTTEN):
            log.info(LogEvent.JOB_OF_FORGOTTEN_MEMBER_DROPPED)
        case Ack(reason):
            log.info(LogEvent.JOB_DUPLICATE_ACKED, reason=reason.value)
        case RetryLater(reason, delay_s, _, error):
            log.info(LogEvent.JOB_RETRIED, reason=reason.value, delay_s=delay_s, error=error and error.message)
        case DeadLetter(reason, error):
            log.warning(LogEvent.JOB_DEAD_LETTERED, reason=reason.value, error=error.message, digest=error.digest)
