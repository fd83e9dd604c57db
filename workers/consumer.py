"""Runs the deliveries of one route side by side, and drains them at shutdown."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

import structlog

from core.errors import DependencyUnavailable, InvalidMessage, NotEncodable, PublishRefused, SongsAIError
from core.job_codec import decode_job
from core.lanes import Lane, in_lane
from core.trace_context import logged_trace_id
from core.tracing import NO_TRACING, Ended, Tracing
from core.turns import Turns
from models.log_event import LogEvent
from workers.broker import Broker, Delivery, Subscription
from workers.disposition import Disposition, RetryLater
from workers.observer import WorkerObserver, outcome_label
from workers.settlement import OnDeadLettered, settle
from workers.topology import Route

log = structlog.get_logger()

DEFAULT_PAUSE_S = 5.0


class DeliveryHandler(Protocol):
    """Decides what becomes of a delivery; raises nothing but ``CancelledError``."""

    async def handle(self, delivery: Delivery) -> Disposition:
        """Do what the delivery asks for."""


class Consumer:
    """Consumes ``route``: each delivery in a task of its own, at most ``concurrency`` of them in the handler.

    Each is at work by ``turns`` while it is handled. What cannot be settled is put back after ``pause_s``, or after its
    retry delay where it has one.
    """

    def __init__(
        self,
        broker: Broker,
        route: Route,
        handler: DeliveryHandler,
        *,
        concurrency: int,
        observer: WorkerObserver,
        pause_s: float = DEFAULT_PAUSE_S,
        lane: Lane = Lane.INTERACTIVE,
        turns: Turns | None = None,
        on_dead_lettered: OnDeadLettered | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._broker = broker
        self._route = route
        self._handler = handler
        self._concurrency = concurrency
        self._observer = observer
        self._pause_s = pause_s
        self._lane = lane
        self._turns = turns or Turns()
        self._on_dead_lettered = on_dead_lettered
        self._tracing = tracing
        # The prefetch alone is no bound: after a reconnect the broker counts from nothing, and old jobs still run.
        self._slots = asyncio.Semaphore(concurrency)
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    @property
    def n_unsettled(self) -> int:
        """Deliveries that are being handled or settled."""
        return len(self._tasks)

    async def start(self) -> None:
        """Begin to consume; raises ``ConfigurationError`` where the broker refuses, or ``DependencyUnavailable``."""
        self._subscription = await self._broker.consume(self._route, prefetch=self._concurrency, on_delivery=self._take)

    async def stop(self, grace_s: float) -> bool:
        """Take no more deliveries and let the running ones end; after ``grace_s`` cancel them. True if all ended.

        A cancelled delivery is neither acked nor rejected: when the subscription closes, the broker gives it to
        another worker. A second call with less grace cuts the first one short.
        """
        self._stopping.set()
        if self._subscription is not None:
            await self._subscription.cancel()
        drained = await self._drain(grace_s)
        if self._subscription is not None:
            await self._subscription.close()
        return drained

    async def _drain(self, grace_s: float) -> bool:
        if not self._tasks:
            return True
        _, running = await asyncio.wait(self._tasks, timeout=grace_s)
        if not running:
            return True
        log.warning(LogEvent.DRAIN_TIMED_OUT, route=self._route.name, n_running=len(running), grace_s=grace_s)
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        return False

    def _take(self, delivery: Delivery) -> None:
        if self._stopping.is_set():
            return  # left unsettled, and delivered to another worker
        task = asyncio.create_task(self._work(delivery), name=f"delivery:{self._route.name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(LogEvent.UNEXPECTED_ERROR_CAUGHT, route=self._route.name, exc_info=error)

    async def _work(self, delivery: Delivery) -> None:
        try:
            await self._handle_and_settle(delivery)
        except Exception:  # what is never settled takes up a place of the prefetch for ever
            log.exception(LogEvent.UNEXPECTED_ERROR_CAUGHT, route=self._route.name, **_ids(delivery))
            await self._give_back(delivery)

    async def _handle_and_settle(self, delivery: Delivery) -> None:
        async with self._slots:
            if self._stopping.is_set():
                return
            with self._traced(delivery) as ended:
                with in_lane(self._lane):
                    async with self._turns.at_work():
                        disposition = await self._handler.handle(delivery)
                ended(outcome_label(disposition), disposition.reason.value)
                carried = self._tracing.carried()
        # So that whoever gets it next is below this try of it.
        sent_on = replace(delivery, headers={**delivery.headers, **carried}) if carried else delivery
        await self._settle(sent_on, disposition)

    def _traced(self, delivery: Delivery) -> AbstractContextManager[Ended]:
        return self._tracing.delivery(
            self._route.queue, headers=delivery.headers, body=delivery.body, redelivered=delivery.redelivered
        )

    async def _settle(self, delivery: Delivery, disposition: Disposition) -> None:
        try:
            await settle(self._broker, self._route, delivery, disposition, self._on_dead_lettered)
        except (NotEncodable, InvalidMessage) as error:
            # Put back it would come again without end, its attempt never raised; the queue's own dead-lettering
            # writes nothing anew.
            self._not_settled(delivery, error)
            await self._reject(delivery, requeue=False)
        except PublishRefused as error:
            self._not_settled(delivery, error)
            pause_s = disposition.delay_s if isinstance(disposition, RetryLater) else self._pause_s
            await self._put_back(delivery, pause_s)
        except DependencyUnavailable as error:
            self._not_settled(delivery, error)
        else:
            self._observer.delivery_settled(
                route=self._route.name, outcome=outcome_label(disposition), reason=disposition.reason.value
            )
            if isinstance(disposition, RetryLater):
                delay = self._route.retry(disposition.delay_s).label
                self._observer.delivery_retried(route=self._route.name, delay=delay)

    async def _give_back(self, delivery: Delivery) -> None:
        """After a bug in handler or settlement: once more after a pause, and when it has come again, a dead letter."""
        if delivery.redelivered:
            await self._reject(delivery, requeue=False)
        else:
            await self._put_back(delivery, self._pause_s)

    async def _put_back(self, delivery: Delivery, pause_s: float) -> None:
        """Requeue what could not be sent on, after the pause that it would have had in the retry queue.

        Meanwhile it stays unsettled: nothing is lost, and the prefetch that it takes up slows the consumer down while
        the broker is in trouble, so that the job is not run again and again. A shutdown does not wait for it.
        """
        try:
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        except TimeoutError:
            pass
        await self._reject(delivery, requeue=True)

    async def _reject(self, delivery: Delivery, *, requeue: bool) -> None:
        try:
            await self._broker.reject(delivery, requeue=requeue)
        except DependencyUnavailable as error:
            self._not_settled(delivery, error)

    def _not_settled(self, delivery: Delivery, error: SongsAIError) -> None:
        self._observer.delivery_not_settled(route=self._route.name)
        log.warning(LogEvent.DELIVERY_NOT_SETTLED, route=self._route.name, error=str(error), **_ids(delivery))


def _ids(delivery: Delivery) -> Mapping[str, str | None]:
    """What its handler put on log lines, for those of what goes wrong after it; read anew, since that is seldom."""
    try:
        job = decode_job(delivery.body)
    except InvalidMessage:
        return {}
    return {"job_id": job.job_id, "trace_id": logged_trace_id(delivery.headers, job.trace_id, job.job_id)}
