"""Looks into queues of RabbitMQ: at the messages that wait in one, and at how many wait in several."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq import spec

from workers.amqp_connection import AmqpConnection, close_quietly, library_errors
from workers.amqp_subscription import delivery_of
from workers.broker import Delivery


@asynccontextmanager
async def browse(connection: AmqpConnection, queue: str) -> AsyncIterator[AsyncIterator[Delivery]]:
    """See ``Broker.browse``. Closing the channel gives back what is unsettled on it, each message into its place."""
    channel = await connection.open_channel(confirms=False)
    try:
        yield _waiting_in(channel, queue, connection.timings.call_timeout_s)
    finally:
        await close_quietly(channel)


async def _waiting_in(channel: aio_pika.Channel, queue: str, timeout_s: float) -> AsyncIterator[Delivery]:
    """As many as there are now and no more: what comes meanwhile may be what is being sent back."""
    with library_errors():
        underlay = await channel.get_underlay_channel()
        declared = await underlay.queue_declare(queue, passive=True, timeout=timeout_s)
    for _ in range(declared.message_count or 0):
        with library_errors():
            message = await underlay.basic_get(queue, timeout=timeout_s)
        if not isinstance(message.delivery, spec.Basic.GetOk):
            return
        yield delivery_of(message)


async def waiting(connection: AmqpConnection, queues: Sequence[str]) -> dict[str, int]:
    """See ``Broker.waiting``."""
    found = {queue: await _n_waiting(connection, queue) for queue in queues}
    return {queue: n for queue, n in found.items() if n is not None}


async def _n_waiting(connection: AmqpConnection, queue: str) -> int | None:
    # On a channel of its own: the broker closes the one that asked for a queue that is not there.
    channel = await connection.open_channel(confirms=False)
    try:
        with library_errors():
            underlay = await channel.get_underlay_channel()
            try:
                declared = await underlay.queue_declare(queue, passive=True, timeout=connection.timings.call_timeout_s)
            except ChannelNotFoundEntity:
                return None
        return declared.message_count or 0
    finally:
        await close_quietly(channel)
