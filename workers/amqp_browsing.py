"""Looks into queues of RabbitMQ: at the messages that wait in one, and at how many wait in several."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq import spec
from aiormq.abc import AbstractChannel as UnderlayChannel

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


class QueueLengths:
    """Asks how many messages wait in queues, again and again: see ``Broker.waiting``.

    One channel is kept for that. aio-pika (10.2) removes the callback of a closed channel from a future that aiormq (7)
    made for this one question, so that each channel that was ever opened leaves some 5 kB with its connection.
    """

    def __init__(self, connection: AmqpConnection) -> None:
        self._connection = connection
        self._channel: aio_pika.Channel | None = None
        self._turn = asyncio.Lock()

    async def of(self, queues: Sequence[str]) -> dict[str, int]:
        """The number in each of ``queues`` that is there."""
        async with self._turn:
            found = {queue: await self._n_waiting(queue) for queue in queues}
        return {queue: n for queue, n in found.items() if n is not None}

    async def _n_waiting(self, queue: str) -> int | None:
        async with self._asking() as underlay:
            try:
                declared = await underlay.queue_declare(
                    queue, passive=True, timeout=self._connection.timings.call_timeout_s
                )
            except ChannelNotFoundEntity:
                # With that answer the broker has closed the channel.
                self._channel = None
                return None
            return declared.message_count or 0

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[UnderlayChannel]:
        """The kept channel; one that a question failed on is not asked again, lest it answer the one before."""
        channel, self._channel = self._channel, None
        if channel is None or channel.is_closed:
            channel = await self._connection.open_channel(confirms=False)
        self._channel = channel
        try:
            with library_errors():
                yield await channel.get_underlay_channel()
        except BaseException:
            self._channel = None
            await close_quietly(channel)
            raise
