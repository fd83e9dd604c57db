"""Publishes to RabbitMQ so that nothing is lost in silence: confirmed, mandatory, persistent."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from weakref import WeakValueDictionary

import aio_pika
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError
from aiormq import spec
from pamqp.common import FieldTable
from pamqp.exceptions import PAMQPException
from pamqp.header import ContentHeader

from core.errors import ConfigurationError, DependencyUnavailable, NotEncodable, PublishRefused
from workers.amqp_connection import LIBRARY_ERRORS, AmqpConnection, close_quietly, raise_if_cancelled, sentence
from workers.broker import OutgoingMessage, Unroutable

_PERSISTENT = 2
_ENCODING_ERRORS = (TypeError, ValueError, struct.error, PAMQPException, RecursionError)
# What a frame has around its payload, and the message id that aiormq adds where there is none.
_FRAME_BYTES = 8 + 33


class AmqpPublisher:
    """Publishes over a channel of its own, opened again whenever it has ended."""

    def __init__(self, connection: AmqpConnection) -> None:
        self._connection = connection
        self._channel: aio_pika.Channel | None = None
        self._channel_lock = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def publish(self, message: OutgoingMessage) -> None:
        """See ``Broker.publish``; where no queue takes it, the topology is declared again and the publish repeated."""
        async with self._turn(message.properties.message_id):
            n_declared = self._connection.n_declared
            try:
                await self._publish(message)
            except Unroutable:
                if not self._connection.declares:
                    raise
                await self._declare_since(n_declared)
                await self._publish(message)

    async def close(self) -> None:
        """End the channel."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await close_quietly(channel)

    @asynccontextmanager
    async def _turn(self, message_id: str | None) -> AsyncIterator[None]:
        """Publish two messages of one id one after the other.

        aiormq finds the publish that a returned message belongs to by the message id: with two under way it would
        blame one, and take the lost one for confirmed.
        """
        if message_id is None:
            yield
            return
        async with self._turns.setdefault(message_id, asyncio.Lock()):
            yield

    async def _publish(self, message: OutgoingMessage) -> None:
        if await self._connection.refuses_messages():
            raise PublishRefused("the broker is short of memory or disk, and takes no messages")
        timeout_s = self._connection.timings.confirm_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._publish_confirmed(message)
        except (PublishError, ChannelNotFoundEntity) as error:
            raise Unroutable(f"no queue took it: {sentence(error)}") from error
        except DeliveryError as error:
            raise PublishRefused(f"not accepted: {sentence(error)}") from error
        except TimeoutError as error:
            raise PublishRefused(f"not confirmed within {timeout_s:g} s") from error
        except _ENCODING_ERRORS as error:
            raise NotEncodable(f"cannot be written as AMQP: {sentence(error)}") from error
        except (*LIBRARY_ERRORS, DependencyUnavailable) as error:
            raise PublishRefused(sentence(error)) from error
        except asyncio.CancelledError:
            raise_if_cancelled()
            raise PublishRefused("the connection was closed before it confirmed") from None

    async def _publish_confirmed(self, message: OutgoingMessage) -> None:
        underlay = await (await self._open_channel()).get_underlay_channel()
        properties = _amqp_properties(message)
        _refuse_what_no_frame_holds(properties, underlay.connection.connection_tune.frame_max)
        await underlay.basic_publish(
            message.body,
            exchange=message.exchange,
            routing_key=message.routing_key,
            properties=properties,
            mandatory=True,
        )

    async def _open_channel(self) -> aio_pika.Channel:
        async with self._channel_lock:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self._connection.open_channel(confirms=True)
            return self._channel

    async def _declare_since(self, n_declared: int) -> None:
        try:
            await self._connection.declare_since(n_declared)
        except (DependencyUnavailable, ConfigurationError) as error:
            raise Unroutable(f"no queue took it, and the topology cannot be declared: {error}") from error


def _refuse_what_no_frame_holds(properties: spec.Basic.Properties, frame_max: int) -> None:
    """Raises ``ValueError``: at a longer frame the broker closes the connection, and delivers all again."""
    n_bytes = len(ContentHeader(properties=properties).marshal()) + _FRAME_BYTES
    if frame_max and n_bytes > frame_max:
        raise ValueError(f"its properties take {n_bytes} bytes, and the broker takes {frame_max} in a frame")


def _amqp_properties(message: OutgoingMessage) -> spec.Basic.Properties:
    properties = message.properties
    return spec.Basic.Properties(
        delivery_mode=_PERSISTENT,
        headers=cast(FieldTable, {name: _writable(value) for name, value in message.headers.items()}),
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        message_id=properties.message_id,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        message_type=properties.type,
        app_id=properties.app_id,
        priority=properties.priority,
        timestamp=properties.timestamp,
        expiration=properties.expiration,
    )


def _writable(value: object) -> object:
    """``value`` as pamqp writes it: it reads text that is not UTF-8 as bytes, which it does not write again."""
    match value:
        case bytes():
            return bytearray(value)
        case dict():
            return {name: _writable(each) for name, each in value.items()}
        case list():
            return [_writable(each) for each in value]
    return value
