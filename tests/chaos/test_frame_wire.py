"""The proxy passes everything on, and cuts where it is told to."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from tests.chaos.frame_wire import Frame, FrameWire, open_frame_wire
from tests.support.waiting import until


@pytest.fixture
async def queue_name(amqp_url: str) -> AsyncIterator[str]:
    name = f"test.{uuid.uuid4().hex}"
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        await channel.declare_queue(name)
        yield name
        await channel.queue_delete(name)


@pytest.fixture
async def wire(amqp_url: str) -> AsyncIterator[FrameWire]:
    async with open_frame_wire(amqp_url) as wire:
        yield wire


async def publish(channel: AbstractChannel, queue_name: str, *bodies: bytes) -> None:
    for body in bodies:
        await channel.default_exchange.publish(aio_pika.Message(body), queue_name)


async def count(amqp_url: str, queue_name: str) -> int:
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        return (await channel.declare_queue(queue_name, passive=True)).declaration_result.message_count or 0


async def test_everything_passes_whatever_its_size(wire: FrameWire, queue_name: str) -> None:
    bodies = [b"", b"x", b"y" * 1_000_000]
    async with await aio_pika.connect(wire.url) as connection, connection.channel() as channel:
        await publish(channel, queue_name, *bodies)
        queue = await channel.get_queue(queue_name)
        assert [(await queue.get(no_ack=True, fail=True)).body for _ in bodies] == bodies
        assert wire.n_connections == 1
    await until(lambda: is_idle(wire))


async def test_a_connection_cut_in_the_middle_of_an_ack_gives_the_message_back(
    wire: FrameWire, queue_name: str, amqp_url: str
) -> None:
    connection = await aio_pika.connect(wire.url)
    channel = await connection.channel()
    await publish(channel, queue_name, b"job")
    queue = await channel.get_queue(queue_name)
    message = await taken(queue)
    cut = asyncio.create_task(wire.cut_in_mid_frame(Frame.ACK, within_s=5))
    await asyncio.sleep(0)
    await message.ack()
    assert await cut
    await until(lambda: is_idle(wire))
    await connection.close()
    await until(lambda: holds(amqp_url, queue_name, 1))


async def test_a_cut_can_wait_for_another_frame_first(wire: FrameWire, queue_name: str, amqp_url: str) -> None:
    connection = await aio_pika.connect(wire.url)
    channel = await connection.channel()
    await publish(channel, queue_name, b"first", b"second")
    queue = await channel.get_queue(queue_name)
    first, second = await taken(queue), await taken(queue)
    cut = asyncio.create_task(wire.cut_in_mid_frame(Frame.ACK, after=Frame.CONFIRM, within_s=5))
    await asyncio.sleep(0)
    await first.ack()  # nothing was confirmed since
    await publish(channel, queue_name, b"third")
    await second.ack()
    assert await cut
    await until(lambda: is_idle(wire))
    await connection.close()
    await until(lambda: holds(amqp_url, queue_name, 2))


async def test_a_cut_that_nothing_calls_for_is_given_up(wire: FrameWire) -> None:
    assert not await wire.cut_in_mid_frame(Frame.DELIVERY, within_s=0.05)


async def test_acks_can_be_kept_from_the_broker_while_everything_else_passes(
    wire: FrameWire, queue_name: str, amqp_url: str
) -> None:
    wire.keeps_acks = True
    connection = await aio_pika.connect(wire.url)
    channel = await connection.channel()
    await publish(channel, queue_name, b"job")
    await (await taken(await channel.get_queue(queue_name))).ack()
    await publish(channel, queue_name, b"another")
    assert wire.n_acks_kept == 1
    await connection.close()
    await until(lambda: holds(amqp_url, queue_name, 2))


async def taken(queue: AbstractQueue) -> AbstractIncomingMessage:
    message = await queue.get(timeout=5, fail=True)
    assert message is not None
    return message


async def holds(amqp_url: str, queue_name: str, n: int) -> bool:
    return await count(amqp_url, queue_name) == n


async def is_idle(wire: FrameWire) -> bool:
    return wire.n_connections == 0
