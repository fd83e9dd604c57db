"""Jobs consumed by connected parts: what they wait for before, and what runs beside."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import structlog
from redis.asyncio import Redis

from config.settings import Settings
from core.errors import ConfigurationError, DependencyUnavailable
from core.lanes import Lane
from models.log_event import LogEvent
from services.batch_ledger import SqlBatchLedger
from services.batch_totals import watch_batch_totals
from services.loop_lag import watch_loop
from services.redis_client import appendonly_enabled
from workers.consumer import Consumer
from workers.handler import JobHandler
from workers.lease_keeper import LeaseKeeper
from workers.provisional import ProvisionalWriter
from workers.queue_ages import QueueAges
from workers.queue_watch import watch_queues
from workers.runtime.events import event_parts, requested_refreshes
from workers.runtime.parts import Parts
from workers.runtime.scheduling import scheduler_of

log = structlog.get_logger()


async def prepare(parts: Parts) -> None:
    """Check the catalogue, load index and model, and connect to the broker, waiting for whatever is away.

    Raises ``ConfigurationError``: no waiting mends that. The broker is not waited for with the rest: that it is away is
    to be told of it alone, and not while MySQL is.
    """
    parts.metrics.index_watched(lambda: parts.index.age_s)
    await _together(patiently(parts.broker.start), _load(parts))
    await patiently(partial(_warn_of_forgetfulness, parts.redis))


async def _load(parts: Parts) -> None:
    await patiently(parts.catalogue.check)
    await patiently(parts.index.load)
    await patiently(parts.collaborative.load)


async def _together(*steps: Coroutine[object, object, None]) -> None:
    """All of them; the first that fails ends the others, and is what is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def patiently(step: Callable[[], Awaitable[None]]) -> None:
    """Repeat ``step`` until the dependency that it needs is there."""
    while True:
        try:
            return await step()
        except DependencyUnavailable as error:
            log.warning(LogEvent.DEPENDENCY_CHECK_FAILED, error=str(error))
            await asyncio.sleep(1)


async def _warn_of_forgetfulness(redis: Redis) -> None:
    if await appendonly_enabled(redis) is False:
        log.warning(LogEvent.REDIS_NOT_DURABLE)


@asynccontextmanager
async def running_consumers(parts: Parts) -> AsyncIterator[list[Consumer]]:
    """Jobs consumed, index and model refreshed, once ``prepare`` is done. At the end jobs under way are drained."""
    settings, topology = parts.settings, parts.broker.topology
    parts.metrics.retries_watched([step.label for step in topology.main.retries])
    leases = LeaseKeeper(parts.results, lease_s=settings.job_lease_s)
    ages = QueueAges(parts.clock)
    handler = _handler(parts, leases, ages)
    consumers = [
        Consumer(
            parts.broker,
            route,
            handler,
            concurrency=concurrency,
            lane=lane,
            turns=parts.turns,
            observer=parts.metrics,
            on_dead_lettered=handler.dead_lettered,
            tracing=parts.tracing,
        )
        for route, concurrency, lane in (
            (topology.main, settings.concurrency, Lane.INTERACTIVE),
            (topology.batch, settings.batch_concurrency, Lane.BATCH),
        )
        if concurrency
    ]
    events, taking_in = event_parts(parts, ages)
    consumers += [events] if settings.event_prefetch else []
    scheduler = scheduler_of(parts)
    background = _background(
        taking_in,
        requested_refreshes(parts).run,
        parts.gone.run,
        *([scheduler.run] if scheduler else []),
        leases.run,
        parts.index.run,
        parts.collaborative.run,
        lambda: watch_loop(parts.metrics, clock=parts.clock),
        lambda: watch_queues(parts.broker, parts.metrics, ages),
        lambda: watch_batch_totals(SqlBatchLedger(parts.database), parts.metrics),
    )
    with short_collections():
        async with background:
            try:
                await consumers[0].start()
                for consumer in consumers[1:]:
                    await _start_where_there(consumer, settings)
                yield consumers
            finally:
                await stop_all(consumers, settings.shutdown_grace_s)


@contextmanager
def short_collections() -> Iterator[None]:
    """What there is by now stays: looking through all of it for garbage holds the event loop up for 30 ms."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _handler(parts: Parts, leases: LeaseKeeper, ages: QueueAges) -> JobHandler:
    settings = parts.settings
    return JobHandler(
        parts.pipeline,
        parts.results,
        leases,
        max_attempts=settings.max_attempts,
        delays_s=settings.retry_delays_s,
        job_timeout_s=settings.job_timeout_s,
        clock=parts.clock,
        observer=parts.metrics,
        provisional=_provisional_writer(parts),
        delivery_limit=settings.delivery_limit,
        max_age_s=settings.job_max_age_s,
        ages=ages,
    )


def _provisional_writer(parts: Parts) -> ProvisionalWriter | None:
    if not parts.settings.provisional_ttl_s:
        return None
    return ProvisionalWriter(parts.results, clock=parts.clock, observer=parts.metrics)


async def _start_where_there(consumer: Consumer, settings: Settings) -> None:
    """Consume a queue that is ours alone: where we may not declare it, it need not be there."""
    try:
        await consumer.start()
    except ConfigurationError as error:
        if settings.topology_mode == "declare":
            raise
        log.warning(LogEvent.CONSUMER_LOST, error=str(error))


async def stop_all(consumers: Sequence[Consumer], grace_s: float) -> None:
    """Stop them side by side."""
    await asyncio.gather(*(consumer.stop(grace_s) for consumer in consumers))


@asynccontextmanager
async def _background(*loops: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run endless ``loops`` beside the block; one that fails ends the block too, for it would be missed."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_as_coroutine(each)) for each in loops]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from None
        raise


async def _as_coroutine(step: Callable[[], Awaitable[None]]) -> None:
    await step()
