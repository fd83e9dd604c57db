"""Events taken in as a worker does: a broker, a database and a Redis, embedded or real."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import partial

import orjson
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from core.event_codec import encode_event
from core.llm_share import Arm
from core.ports.results import ResultDocuments
from core.withdrawal import without_items
from models.event import Event, EventType
from services.clock import SystemClock
from services.database import Database
from services.event_log import SqlEventLog
from services.feedback import RedisFeedback
from services.forgetting import MemberForgetting
from services.impressions import RedisImpressions
from services.metrics import PrometheusMetrics
from services.redis_client import open_redis
from services.refresh_requests import RedisRefreshRequests
from services.result_cache import RedisResultCache
from services.schema import interaction
from services.shelves import RedisShelves
from tests.support.catalogue import SONGS, create_all_tables
from tests.support.messaging import delete_topology, private_topology
from workers.amqp_broker import AmqpBroker
from workers.broker import Broker, OutgoingMessage
from workers.consumer import Consumer
from workers.event_batches import EventBatches
from workers.event_handler import EventHandler, EventIntake
from workers.member_messages import WholeForgetting
from workers.memory_broker import MemoryBroker

CLEAN = partial(without_items, profile=SONGS)
QUIET_S = 0.05


@dataclass
class EventSite:
    """What takes events in, and what they change."""

    broker: Broker
    database: Database
    redis: Redis
    results: RedisResultCache
    requests: RedisRefreshRequests
    impressions: RedisImpressions
    forgetting: WholeForgetting
    shelves: RedisShelves
    feedback: RedisFeedback
    intake: EventIntake
    metrics: PrometheusMetrics
    registry: CollectorRegistry

    def value(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.registry.get_sample_value(name, labels) or 0.0

    async def publish(self, events: Iterable[Event | bytes]) -> None:
        """Put events on their queue, as the backend does."""
        route = self.broker.topology.events
        async with asyncio.TaskGroup() as group:
            for event in events:
                body = event if isinstance(event, bytes) else encode_event(event)
                key = "event.other" if isinstance(event, bytes) else f"event.{event.type.value}"
                message = OutgoingMessage(exchange=route.exchange, routing_key=key, body=body)
                group.create_task(self.broker.publish(message))

    async def rows(self, member_id: int | None = None) -> list[sa.Row[*tuple[object, ...]]]:
        """The events that are kept, oldest first."""
        query = sa.select(interaction).order_by(interaction.c.occurred_at, interaction.c.event_id)
        if member_id is not None:
            query = query.where(interaction.c.member_id == member_id)
        async with self.database.connect(n_round_trips=6) as connection:
            return list((await connection.execute(query)).all())

    async def n_waiting(self) -> int:
        """Messages that wait in the queues of events, dead ones included."""
        events = self.broker.topology.events
        return sum((await self.broker.waiting([events.queue, events.dead_letter_queue])).values())


@contextlib.asynccontextmanager
async def event_site(
    url: str, redis_url: str = "memory://", amqp_url: str = "", *, quiet_s: float = QUIET_S, drift_s: float = QUIET_S
) -> AsyncIterator[EventSite]:
    """A site over these servers, with all tables; without ``amqp_url`` the broker is in this process."""
    await asyncio.to_thread(create_all_tables, url)  # as the wire may run in this loop
    topology, clock, registry = private_topology(), SystemClock(), CollectorRegistry()
    metrics = PrometheusMetrics(registry, clock=clock)
    broker: Broker = AmqpBroker(amqp_url, topology) if amqp_url else MemoryBroker(topology)
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_redis(redis_url, max_connections=20, timeout_s=5))
        database = Database(url, pool_size=4, timeout_s=10)
        stack.push_async_callback(database.close)
        await broker.start()
        if amqp_url:
            stack.push_async_callback(delete_topology, amqp_url, topology)
        stack.push_async_callback(broker.close)
        requests = RedisRefreshRequests(redis, quiet_s=quiet_s, drift_s=drift_s, lease_s=0.2)
        shelves = RedisShelves(redis, CLEAN)
        feedback = RedisFeedback(redis, shelves, requests, refused_ttl_s=600)
        forgetting = WholeForgetting(MemberForgetting(database, redis, max_age_s=3600), broker)
        yield EventSite(
            broker=broker,
            database=database,
            redis=redis,
            results=RedisResultCache(redis, clock, job_ttl_s=600, cache_ttl_s=600, lease_s=15, clean=CLEAN),
            requests=requests,
            impressions=RedisImpressions(redis, clock, time_zone="UTC"),
            forgetting=forgetting,
            shelves=shelves,
            feedback=feedback,
            intake=EventIntake(
                SqlEventLog(database),
                feedback,
                forgetting,
                arm_of=lambda member_id: Arm.LLM if member_id % 2 else Arm.RANKING,
                clock=clock,
                observer=metrics,
            ),
            metrics=metrics,
            registry=registry,
        )


@contextlib.asynccontextmanager
async def consuming(site: EventSite, *, max_events: int = 100, max_wait_s: float = 0.02) -> AsyncIterator[Consumer]:
    """Events are consumed inside of the block, and drained at its end."""
    batches = EventBatches(
        site.intake.take_in, max_events=max_events, max_wait_s=max_wait_s, clock=SystemClock(), observer=site.metrics
    )
    consumer = Consumer(
        site.broker,
        site.broker.topology.events,
        EventHandler(batches, site.metrics),
        concurrency=2 * max_events,
        observer=site.metrics,
    )
    running = asyncio.create_task(batches.run())
    try:
        await consumer.start()
        yield consumer
        await consumer.stop(5)
    finally:
        running.cancel()


def event(
    kind: EventType, item_id: int | None = 1, *, member_id: int = 42, event_id: str = "", at_ns: int = 0
) -> Event:
    """An event, by default of one member and one song, long ago."""
    value = 5.0 if kind is EventType.RATING else None
    return Event(
        event_id=event_id or f"{kind.value}-{member_id}-{item_id}-{at_ns}",
        member_id=member_id,
        type=kind,
        item_id=item_id,
        value=value,
        completed=kind is EventType.PLAY or None,
        occurred_at_ns=at_ns or 1_767_225_600_000_000_000,
    )


def documents_of(*item_ids: int) -> ResultDocuments:
    """The documents of a result that shows these songs, the first two of them in groups of one."""
    groups = [{"label": f"g{item_id}", "songs": [{"song_id": item_id, "rank": item_id}]} for item_id in item_ids[:2]]
    candidates = [{"song_id": item_id, "match_score": 5.5} for item_id in item_ids]
    document = orjson.dumps({"status": "completed", "groups": groups, "candidates": candidates})
    return ResultDocuments(result=document, cached_view=document, preference=b"{}", shown_ids=item_ids[:2])
