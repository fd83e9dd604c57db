"""Batches of events: how large, how long they wait, what an outage and a poisonous event do to them."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from core.errors import ConfigurationError, DependencyUnavailable
from core.event_codec import encode_event
from models.event import Event, EventType
from services.clock import SystemClock
from services.database import Database
from tests.support.catalogue import create_all_tables
from tests.support.event_consumer import event_consumer
from tests.support.event_site import event
from tests.support.messaging import delete_topology, private_topology
from tests.support.waiting import until
from workers import event_batches
from workers.amqp_broker import AmqpBroker
from workers.broker import Delivery, OutgoingMessage, Properties
from workers.disposition import Ack, DeadLetter, DeadLetterReason
from workers.event_batches import EventBatches
from workers.event_handler import EventHandler
from workers.topology import Topology


class Table:
    """Takes events in as a table would, and counts how."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.rows: set[str] = set()
        self.poison: set[str] = set()
        self.late: frozenset[str] = frozenset()
        self.errors: list[Exception] = []
        self.before: Callable[[], Awaitable[None]] | None = None

    async def take_in(self, events: Sequence[Event]) -> frozenset[str]:
        if self.before:
            await self.before()
        if self.errors:
            raise self.errors.pop(0)
        ids = [each.event_id for each in events]
        if self.poison.intersection(ids):
            raise ValueError("a row that no table takes")
        self.batches.append(ids)
        self.rows.update(ids)
        return self.late

    def event_batch(self, *, n: int, seconds: float) -> None:
        assert n > 0
        assert seconds >= 0

    def event(self, *, kind: str, outcome: str) -> None:
        pass


@asynccontextmanager
async def batching(table: Table, max_events: int = 10, max_wait_s: float = 0.01) -> AsyncIterator[EventBatches]:
    clock = SystemClock()
    batches = EventBatches(table.take_in, max_events=max_events, max_wait_s=max_wait_s, clock=clock, observer=table)
    running = asyncio.create_task(batches.run())
    try:
        yield batches
    finally:
        running.cancel()


def numbered(n: int) -> list[Event]:
    return [event(EventType.LIKE, number) for number in range(n)]


async def added(batches: EventBatches, events: Sequence[Event]) -> list[bool | BaseException]:
    async with asyncio.timeout(10):
        return await asyncio.gather(*(batches.add(each) for each in events), return_exceptions=True)


async def test_no_batch_is_larger_than_it_may_be_and_none_is_lost() -> None:
    table = Table()
    async with batching(table, max_events=10, max_wait_s=5) as batches:
        assert await added(batches, numbered(30)) == [True] * 30
    assert [len(batch) for batch in table.batches] == [10, 10, 10]


async def test_an_event_does_not_wait_for_others_that_do_not_come() -> None:
    table = Table()
    async with batching(table, max_events=1000) as batches:
        assert await added(batches, numbered(3)) == [True] * 3
    assert [len(batch) for batch in table.batches] == [3]


async def test_events_gather_while_those_before_them_are_taken_in() -> None:
    table, gate = Table(), asyncio.Event()
    table.before = gate.wait  # type: ignore[assignment]
    async with batching(table, max_events=100, max_wait_s=0.001) as batches:
        first = asyncio.create_task(batches.add(numbered(1)[0]))
        await asyncio.sleep(0.02)
        rest = asyncio.create_task(added(batches, numbered(41)[1:]))
        await asyncio.sleep(0)
        gate.set()
        assert await first
        assert await rest == [True] * 40
    assert [len(batch) for batch in table.batches] == [1, 40]


async def test_what_is_too_late_is_said_so() -> None:
    table, events = Table(), numbered(3)
    table.late = frozenset({events[1].event_id})
    async with batching(table) as batches:
        assert await added(batches, events) == [True, False, True]


@pytest.mark.parametrize("error", [DependencyUnavailable("mysql", "away"), ConfigurationError("no such table")])
async def test_an_outage_is_waited_for_and_nothing_is_settled_meanwhile(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_batches, "FIRST_PAUSE_S", 0.001)
    table = Table()
    table.errors = [error] * 4
    async with batching(table) as batches:
        assert await added(batches, numbered(5)) == [True] * 5
    assert [len(batch) for batch in table.batches] == [5]


@given(st.sets(st.integers(0, 39), max_size=6), st.integers(1, 50))
async def test_a_poisonous_event_fails_alone(poisonous: set[int], max_events: int) -> None:
    table, events = Table(), numbered(40)
    table.poison = {events[place].event_id for place in poisonous}
    async with batching(table, max_events=max_events, max_wait_s=0.001) as batches:
        outcomes = await added(batches, events)
    assert {place for place, outcome in enumerate(outcomes) if isinstance(outcome, ValueError)} == poisonous
    assert table.rows == {each.event_id for each in events} - table.poison


async def test_an_event_whose_delivery_was_given_back_is_not_taken_in() -> None:
    table, gate = Table(), asyncio.Event()
    table.before = gate.wait  # type: ignore[assignment]
    async with batching(table, max_events=1) as batches:
        first = asyncio.create_task(batches.add(numbered(1)[0]))
        second = asyncio.create_task(batches.add(numbered(2)[1]))
        await asyncio.sleep(0.01)
        second.cancel()
        gate.set()
        await first
        await batches.add(numbered(3)[2])
    assert table.rows == {numbered(3)[0].event_id, numbered(3)[2].event_id}


# --- the handler ---


def delivery(body: bytes) -> Delivery:
    return Delivery(
        body=body, headers={}, properties=Properties(), routing_key="event.like", redelivered=False, handle=None
    )


async def test_a_delivery_is_acked_once_its_event_is_kept_and_a_poisonous_one_dead_lettered() -> None:
    table, events = Table(), numbered(2)
    table.poison = {events[1].event_id}
    async with batching(table) as batches:
        handler = EventHandler(batches, table)  # type: ignore[arg-type]
        kept, given_up, unread = await asyncio.gather(
            *(handler.handle(delivery(encode_event(each))) for each in events), handler.handle(delivery(b"{}"))
        )
    assert isinstance(kept, Ack)
    assert isinstance(given_up, DeadLetter)
    assert (given_up.reason, given_up.error.code) == (DeadLetterReason.UNEXPECTED, "INTERNAL_ERROR")
    assert isinstance(unread, DeadLetter)
    assert (unread.reason, unread.error.code) == (DeadLetterReason.INVALID, "INVALID_EVENT")


# --- real processes and servers ---


async def publish(broker: AmqpBroker, events: Sequence[Event]) -> None:
    route = broker.topology.events
    for start in range(0, len(events), 250):
        some = events[start : start + 250]
        messages = (
            OutgoingMessage(exchange=route.exchange, routing_key="event.like", body=encode_event(each)) for each in some
        )
        await asyncio.gather(*(broker.publish(message) for message in messages))


async def n_rows(database: Database) -> int:
    async with database.connect() as connection:
        return int(await connection.scalar(text("SELECT COUNT(*) FROM songs_ai_interaction")))


@asynccontextmanager
async def queue_of(amqp_url: str, prefix: Topology) -> AsyncIterator[AmqpBroker]:
    broker = AmqpBroker(amqp_url, prefix)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.close()
        await delete_topology(amqp_url, prefix)


async def test_a_worker_that_is_killed_in_mid_stream_loses_nothing_and_nothing_is_counted_twice(
    amqp_url: str, mysql_url: str, redis_url: str
) -> None:
    n, topology = 2000, private_topology(5, 30, 120)
    create_all_tables(mysql_url)
    database = Database(mysql_url)
    environment = {
        "BROKER_URL": amqp_url,
        "DATABASE_URL": mysql_url,
        "REDIS_URL": redis_url,
        "NAME_PREFIX": topology.events.queue.removesuffix(".events.q"),
        "EVENT_BATCH": "50",
        "EVENT_PREFETCH": "200",
    }

    async def has(least: int) -> bool:
        return await n_rows(database) >= least

    async with queue_of(amqp_url, topology) as broker:
        await publish(broker, numbered(n))
        async with event_consumer(environment) as first:
            await until(lambda: has(200), within_s=60)
            await first.end(signal.SIGKILL)
        n_before = await n_rows(database)
        assert 200 <= n_before < n
        async with event_consumer(environment) as second:
            await until(lambda: has(n), within_s=60)
            assert await second.end(signal.SIGTERM) == 0
        route = topology.events
        assert await broker.waiting([route.queue, route.dead_letter_queue]) == {
            route.queue: 0,
            route.dead_letter_queue: 0,
        }
    assert await n_rows(database) == n
    await database.close()
