"""A broker that takes no more: publishers are told so at once, and what is done is acked all the same."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import aio_pika
import pytest

from core.errors import PublishRefused
from tests.support.http_app import http_bench
from tests.support.messaging import Inbox, delete_topology, eventually, private_topology
from tests.support.private_servers import PrivateRabbitMQ
from tests.support.servers import BreakableServer
from workers.amqp_broker import AmqpBroker
from workers.amqp_connection import AmqpTimings
from workers.broker import OutgoingMessage
from workers.job_publisher import BrokerJobPublisher
from workers.topology import Topology

TIMINGS = AmqpTimings(confirm_timeout_s=2.0, retry_interval_s=0.1)
BODY = {"memberId": 7, "favorite_song_ids": [1, 2, 3]}


def message(topology: Topology, body: bytes = b"{}") -> OutgoingMessage:
    return OutgoingMessage(exchange=topology.main.exchange, routing_key=topology.main.routing_key, body=body)


@contextlib.asynccontextmanager
async def memory_alarm(server: PrivateRabbitMQ) -> AsyncIterator[None]:
    await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "0.00001")
    try:
        yield
    finally:
        await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "0.4")


@pytest.fixture
async def server(private_rabbitmq: BreakableServer) -> PrivateRabbitMQ:
    if not isinstance(private_rabbitmq, PrivateRabbitMQ):
        pytest.skip("only a private process is told to raise an alarm")
    return private_rabbitmq


@pytest.fixture
async def broker(server: PrivateRabbitMQ) -> AsyncIterator[AmqpBroker]:
    broker = AmqpBroker(server.url, private_topology(), timings=TIMINGS)
    await broker.start()
    yield broker
    await broker.close()
    await delete_topology(server.url, broker.topology)


async def refused(broker: AmqpBroker) -> str:
    with pytest.raises(PublishRefused) as caught:
        await broker.publish(message(broker.topology))
    return str(caught.value)


async def test_under_a_memory_alarm_publishing_is_refused_at_once_and_acks_go_through(
    server: PrivateRabbitMQ, broker: AmqpBroker
) -> None:
    for number in range(4):
        await broker.publish(message(broker.topology, str(number).encode()))
    inbox = Inbox()
    await broker.consume(broker.topology.main, prefetch=1, on_delivery=inbox)
    async with memory_alarm(server):
        assert "not confirmed within 2 s" in await refused(broker)  # the broker tells a connection when it publishes
        assert "short of memory or disk" in await refused(broker)
        for number in range(4):  # with a prefetch of one the next one comes when the broker has read the ack
            delivery = await inbox.get()
            assert delivery.body == str(number).encode()
            await broker.ack(delivery)
        assert broker.health().consuming
    # What was refused was in the wire; it is done when the broker reads on.
    await eventually(lambda: len(inbox) == 1)
    await broker.ack(await inbox.get())
    await broker.publish(message(broker.topology, b"after"))
    assert (await inbox.get()).body == b"after"


async def test_http_answers_503_with_retry_after_while_the_broker_takes_nothing(
    server: PrivateRabbitMQ, broker: AmqpBroker
) -> None:
    async with http_bench(publishes_to=BrokerJobPublisher(broker)) as bench:
        assert (await bench.client.post("/recommend", json=BODY)).status_code == 200
        async with memory_alarm(server):
            seconds = []
            for _ in range(5):
                began_s = time.monotonic()
                response = await bench.client.post("/recommend", json=BODY)
                seconds.append(time.monotonic() - began_s)
                assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
                assert response.json()["dependency"] == "broker"
        assert max(seconds) < TIMINGS.confirm_timeout_s + 2
        assert (await bench.client.post("/recommend", json=BODY)).status_code == 200


async def test_http_answers_503_where_the_queue_is_full(amqp_url: str) -> None:
    topology = private_topology()
    [main] = [queue for queue in topology.queues if queue.name == topology.main.queue]
    broker = AmqpBroker(amqp_url, topology, topology_mode="passive", timings=TIMINGS)
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        for exchange in topology.exchanges:
            await channel.declare_exchange(exchange.name, exchange.kind, durable=True)
        for queue in topology.queues:
            arguments: dict[str, str | int] = dict(queue.arguments)
            if queue is main:
                arguments |= {"x-max-length": 2, "x-overflow": "reject-publish"}
            declared = await channel.declare_queue(queue.name, durable=True, arguments=arguments)  # type: ignore[arg-type]
            await declared.bind(queue.exchange, queue.routing_key)
    await broker.start()
    try:
        async with http_bench(publishes_to=BrokerJobPublisher(broker)) as bench:
            responses = [await bench.client.post("/recommend", json=BODY) for _ in range(4)]
            assert [response.status_code for response in responses] == [200, 200, 503, 503]
            assert responses[-1].headers["Retry-After"] == "5"
    finally:
        await broker.close()
        await delete_topology(amqp_url, topology)
