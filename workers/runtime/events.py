"""What members do: events consumed in batches, and the refreshes that they ask for."""

from collections.abc import Awaitable, Callable

from core.taste_watch import DriftWatch
from services.event_log import SqlEventLog
from services.feedback import RedisFeedback
from services.listener_store import SqlListenerStore
from workers.consumer import Consumer
from workers.event_batches import EventBatches
from workers.event_handler import EventHandler, EventIntake
from workers.event_refreshes import RequestedRefreshes
from workers.member_messages import WholeForgetting
from workers.queue_ages import QueueAges
from workers.runtime.parts import Parts
from workers.runtime.pipeline_config import pipeline_config

Loop = Callable[[], Awaitable[None]]


def event_parts(parts: Parts, ages: QueueAges) -> tuple[Consumer, Loop]:
    """The consumer of events, and what takes them in: that must run as long as the consumer drains."""
    settings, metrics = parts.settings, parts.metrics
    intake = EventIntake(
        SqlEventLog(parts.database),
        RedisFeedback(
            parts.redis,
            parts.shelves,
            parts.refreshes,
            # Longer than any job that has looked at the member before.
            refused_ttl_s=settings.job_ttl_s,
        ),
        WholeForgetting(parts.forgetting, parts.broker),
        arm_of=parts.arm_of,
        clock=parts.clock,
        observer=metrics,
    )
    batches = EventBatches(
        intake.take_in,
        max_events=settings.event_batch,
        max_wait_s=settings.event_batch_wait_s,
        clock=parts.clock,
        observer=metrics,
    )
    consumer = Consumer(
        parts.broker,
        parts.broker.topology.events,
        EventHandler(batches, metrics, ages),
        concurrency=settings.event_prefetch,
        observer=metrics,
    )
    return consumer, batches.run


def requested_refreshes(parts: Parts) -> RequestedRefreshes:
    """What publishes the refreshes that events and clients asked for."""
    settings = parts.settings
    drift = DriftWatch(
        SqlListenerStore(parts.database, parts.profile),
        parts.results,
        parts.index,
        parts.clock,
        config=pipeline_config(settings, parts.profile).profile,
        threshold=settings.drift_threshold,
    )
    return RequestedRefreshes(
        parts.refreshes,
        drift,
        results=parts.results,
        publisher=parts.publisher,
        clock=parts.clock,
        observer=parts.metrics,
        poll_s=settings.refresh_quiet_s / 4,
    )
