"""Consumes one queue of RabbitMQ, and comes back after whatever ends that."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import aio_pika
import structlog
from aio_pika.exceptions import ChannelClosed
from aiormq import spec
from aiormq.abc import DeliveredMessage

from core.errors import ConfigurationError, DependencyUnavailable
from models.log_event import LogEvent
from workers.amqp_connection import AmqpConnection, close_quietly, library_errors, sentence
from workers.broker import Delivery, OnDelivery, Properties
from workers.topology import Route, explain_refusal

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Consumer:
    """One consumer on one channel; ``lost`` is set when either ends."""

    channel: aio_pika.Channel
    tag: str
    lost: asyncio.Event


class AmqpSubscription:
    """Keeps one consumer of a queue, and replaces it whenever it is lost; ``reason`` says why it is not ``live``."""

    def __init__(self, connection: AmqpConnection, route: Route, prefetch: int, on_delivery: OnDelivery) -> None:
        self._connection = connection
        self._route = route
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._consumer: _Consumer | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.live = False
        self.closed = False
        self.reason = "not started"

    async def start(self) -> None:
        """Raises ``ConfigurationError`` where the broker refuses the first consumer."""
        self._consumer = await self._open()
        self._keeper = asyncio.create_task(self._keep(self._consumer), name=f"subscription:{self._route.name}")
        self._keeper.add_done_callback(self._keeper_ended)

    async def cancel(self) -> None:
        """See ``Subscription``."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        self._mark_lost("stopped")
        keeper.cancel()
        await asyncio.wait([keeper])
        if self._consumer is not None and not self._consumer.lost.is_set():
            with suppress(DependencyUnavailable), library_errors():
                underlay = await self._consumer.channel.get_underlay_channel()
                await underlay.basic_cancel(self._consumer.tag, timeout=self._connection.timings.call_timeout_s)

    async def close(self) -> None:
        """See ``Subscription``."""
        await self.cancel()
        self.closed = True
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close_quietly(consumer.channel)

    # --- keeping a consumer ---

    async def _keep(self, consumer: _Consumer) -> None:
        while True:
            await self._until_lost(consumer)
            self._mark_lost(f"the broker no longer serves a consumer of {self._route.queue!r}")
            log.warning(LogEvent.CONSUMER_LOST, queue=self._route.queue)
            # Closing gives back what is unsettled on it: those jobs are recognised when they come again.
            await close_quietly(consumer.channel)
            consumer = self._consumer = await self._reopen()

    async def _until_lost(self, consumer: _Consumer) -> None:
        """Return when the channel ends, when the broker cancels, or when it turns out to know of no consumer."""
        while True:
            try:
                async with asyncio.timeout(self._connection.timings.watchdog_interval_s):
                    await consumer.lost.wait()
            except TimeoutError:
                if await self._is_served():
                    continue
            return

    async def _is_served(self) -> bool:
        try:
            return await self._connection.n_consumers(self._route.queue) > 0
        except DependencyUnavailable:
            return True  # nothing learnt; a lost connection ends the channel, and that is noticed

    async def _reopen(self) -> _Consumer:
        while True:
            try:
                if self._connection.declares:
                    await self._connection.prepare()
                return await self._open()
            except (DependencyUnavailable, ConfigurationError) as error:
                self._mark_lost(str(error))
            await asyncio.sleep(self._connection.timings.retry_interval_s)

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            self._mark_lost(f"a bug ended the subscription: {sentence(error)}")
            log.error(LogEvent.UNEXPECTED_ERROR_CAUGHT, queue=self._route.queue, exc_info=error)

    def _mark_lost(self, reason: str) -> None:
        self.live, self.reason = False, reason

    # --- one consumer ---

    async def _open(self) -> _Consumer:
        channel = await self._connection.open_channel(confirms=False)
        try:
            with library_errors():
                async with asyncio.timeout(self._connection.timings.call_timeout_s):
                    consumer = await self._consume(channel)
        except BaseException:
            await close_quietly(channel)
            raise
        self.live, self.reason = True, ""
        log.info(LogEvent.CONSUMER_STARTED, queue=self._route.queue, prefetch=self._prefetch)
        return consumer

    async def _consume(self, channel: aio_pika.Channel) -> _Consumer:
        lost = asyncio.Event()
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: lost.set())
        channel.close_callbacks.add(lambda *_: lost.set())
        await underlay.basic_qos(prefetch_count=self._prefetch)
        try:
            ok = await underlay.basic_consume(self._route.queue, self._take)
        except ChannelClosed as refusal:
            reply = explain_refusal("queue", self._route.queue, str(refusal))
            raise ConfigurationError(reply) from refusal
        return _Consumer(channel, str(ok.consumer_tag), lost)

    async def _take(self, message: DeliveredMessage) -> None:
        # Returns at once: aiormq cancels what runs in here when the channel ends, and a job must outlive that.
        self._on_delivery(delivery_of(message))


def delivery_of(message: DeliveredMessage) -> Delivery:
    """A message of the library's as the port has it."""
    properties = message.header.properties
    return Delivery(
        body=message.body,
        headers=properties.headers or {},
        properties=_properties_of(properties),
        routing_key=message.routing_key or "",
        redelivered=bool(message.redelivered),
        handle=message,
    )


def _properties_of(properties: spec.Basic.Properties) -> Properties:
    return Properties(
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        message_id=properties.message_id,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        type=properties.message_type,
        app_id=properties.app_id,
        priority=properties.priority,
        timestamp=properties.timestamp,
        expiration=properties.expiration,
    )
