"""Looks at the messages that wait in a queue of RabbitMQ."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
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
