"""How many jobs wait for a retry, and how many letters for people: asked of both brokers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import aio_pika
import pytest
from prometheus_client import CollectorRegistry

from core.errors import DependencyUnavailable
from services.clock import SystemClock
from services.metrics import PrometheusMetrics
from tests.support.faulty_wire import faulty_wire
from tests.support.hand_clock import HandClock
from tests.support.messaging import delete_topology, eventually, private_topology
from workers.amqp_broker import AmqpBroker
from workers.amqp_connection import AmqpTimings
from workers.broker import Broker, OutgoingMessage
from workers.memory_broker import MemoryBroker
from workers.queue_ages import QueueAges
from workers.queue_watch import QueueObserver, look_at_queues, watch_queues

HOUR_S = 3600.0


class Noticeboard:
    """What was told last."""

    def __init__(self) -> None:
        self.waiting: dict[tuple[str, str], int] = {}
        self.queues: dict[str, tuple[int, float | None]] = {}
        self.dead: dict[str, int] = {}
        self.n_looks = 0
        self.n_unseen = 0

    def messages_waiting(self, *, route: str, n: int, oldest_s: float | None) -> None:
        self.queues[route] = (n, oldest_s)

    def messages_unseen(self) -> None:
        self.queues.clear()
        self.n_unseen += 1

    def jobs_waiting(self, *, route: str, delay: str, n: int) -> None:
        self.waiting[route, delay] = n

    def dead_letters(self, *, kind: str, n: int) -> None:
        self.dead[kind] = n
        self.n_looks += kind == "jobs"


@pytest.fixture(params=["memory", "rabbitmq"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    topology = private_topology(HOUR_S, 2 * HOUR_S)
    if request.param == "memory":
        memory = MemoryBroker(topology, call_later=lambda _s, _run: None)
        await memory.start()
        yield memory
        return
    url = request.getfixturevalue("amqp_url")
    amqp = AmqpBroker(url, topology)
    await amqp.start()
    yield amqp
    await amqp.close()
    await delete_topology(url, topology)


async def publish(broker: Broker, *keys: str) -> None:
    exchange = broker.topology.main.dead_letter_exchange
    for key in keys:
        await broker.publish(OutgoingMessage(exchange=exchange, routing_key=key, body=b"{}"))


async def test_each_retry_queue_of_each_route_is_told_of_by_its_delay(broker: Broker) -> None:
    main, batch, board = broker.topology.main, broker.topology.batch, Noticeboard()
    short, long = main.retries
    await publish(broker, *[short.routing_key] * 3, long.routing_key, batch.retries[1].routing_key)
    await publish(broker, *[main.dead_letter_key] * 2, broker.topology.events.dead_letter_key)
    await look_at_queues(broker, board, QueueAges(HandClock()))
    expected = {("main", "3600s"): 3, ("main", "7200s"): 1, ("batch", "3600s"): 0, ("batch", "7200s"): 1}
    assert (board.waiting, board.dead) == (expected, {"jobs": 2, "events": 1})


async def test_a_queue_that_is_not_taken_from_is_told_of_with_the_time_since_it_was_empty(broker: Broker) -> None:
    main, clock, board = broker.topology.main, HandClock(), Noticeboard()
    ages = QueueAges(clock)
    await look_at_queues(broker, board, ages)
    assert board.queues == {"main": (0, 0.0), "batch": (0, 0.0), "events": (0, 0.0)}
    for _ in range(3):
        await broker.publish(OutgoingMessage(exchange=main.exchange, routing_key=main.routing_key, body=b"{}"))
        clock.move(20)
    await look_at_queues(broker, board, ages)
    assert board.queues["main"] == (3, 60.0)
    assert board.queues["batch"] == (0, 0.0)


async def test_of_what_waited_before_the_first_look_no_age_is_told(broker: Broker) -> None:
    main, clock, board = broker.topology.main, HandClock(), Noticeboard()
    ages = QueueAges(clock)
    for _ in range(3):
        await broker.publish(OutgoingMessage(exchange=main.exchange, routing_key=main.routing_key, body=b"{}"))
    for _ in range(2):
        await look_at_queues(broker, board, ages)
        clock.move(10)
    assert board.queues["main"] == (3, None)


async def test_looking_leaves_what_waits_as_it_was(amqp_url: str) -> None:
    topology = private_topology(HOUR_S)
    broker = AmqpBroker(amqp_url, topology)
    await broker.start()
    main = topology.main
    for body in (b"first", b"second"):
        await broker.publish(OutgoingMessage(exchange=main.exchange, routing_key=main.routing_key, body=body))
    await look_at_queues(broker, Noticeboard(), QueueAges(HandClock()))
    async with broker.browse(main.queue) as waiting:
        found = [(delivery.body, delivery.redelivered) async for delivery in waiting]
    assert found == [(b"first", False), (b"second", False)]
    await broker.close()
    await delete_topology(amqp_url, topology)


async def test_a_queue_that_a_site_does_not_have_holds_nothing(amqp_url: str) -> None:
    topology, board = private_topology(HOUR_S), Noticeboard()
    broker = AmqpBroker(amqp_url, topology)
    await broker.start()
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        await channel.queue_delete(topology.batch.retries[0].queue)
    await publish(broker, topology.main.retries[0].routing_key)
    await look_at_queues(broker, board, QueueAges(HandClock()))
    assert board.waiting == {("main", "3600s"): 1, ("batch", "3600s"): 0}
    await broker.close()
    await delete_topology(amqp_url, topology)


class Blinking(MemoryBroker):
    """Is away at every second look."""

    n_asked = 0

    async def waiting(self, queues: Sequence[str]) -> dict[str, int]:
        self.n_asked += 1
        if self.n_asked % 2 == 0:
            raise DependencyUnavailable("broker", "not connected")
        return await super().waiting(queues)


@asynccontextmanager
async def watching(broker: Broker, board: QueueObserver, *, interval_s: float = 0.01) -> AsyncIterator[None]:
    watch = asyncio.create_task(watch_queues(broker, board, QueueAges(SystemClock()), interval_s=interval_s))
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def test_the_watch_goes_on_when_the_broker_was_away() -> None:
    board = Noticeboard()
    async with watching(Blinking(private_topology()), board):
        await eventually(lambda: board.n_looks >= 2 and board.n_unseen >= 2)


async def test_a_worker_that_is_cut_off_from_rabbitmq_tells_no_age_and_tells_it_again_when_it_is_back(
    amqp_url: str,
) -> None:
    topology, metrics = private_topology(HOUR_S), PrometheusMetrics(CollectorRegistry(), clock=SystemClock())

    def tells() -> bool:
        return b'songs_ai_queue_oldest_age_seconds{route="main"}' in metrics.expose("")[0]

    async with faulty_wire(amqp_url) as wire:
        broker = AmqpBroker(wire.url, topology, timings=AmqpTimings(call_timeout_s=0.5, retry_interval_s=0.1))
        await broker.start()
        async with watching(broker, metrics, interval_s=0.05):
            await eventually(tells)
            await wire.cut()
            await eventually(lambda: not tells())
            await wire.start()
            await eventually(tells)
        await broker.close()
    await delete_topology(amqp_url, topology)
