"""RabbitMQ, by aio-pika.

The library keeps the connection (``RobustConnection`` reconnects by itself); the channels and the consumers on it are
kept here, and by nobody else: plain channels, made again from nothing whenever they end, with the topology declared
before each new consumer. A robust channel would restore a consumer too, but not say that it is gone, nor look whether
the broker still knows it.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, cast
from weakref import WeakValueDictionary

import aio_pika
import structlog
from aio_pika.connection import make_url
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosed,
    ChannelNotFoundEntity,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)
from aio_pika.robust_connection import RobustConnection
from aiormq import spec
from aiormq.abc import DeliveredMessage
from pamqp.common import FieldTable
from pamqp.exceptions import PAMQPException
from yarl import URL

from core.errors import ConfigurationError, DependencyUnavailable, PublishRefused
from models.log_event import LogEvent
from workers.broker import BrokerHealth, Delivery, OnDelivery, OutgoingMessage, Properties, Unroutable
from workers.topology import Route, Topology, declare, explain_refusal, inspect

log = structlog.get_logger()

TopologyMode = Literal["declare", "passive"]

_PERSISTENT = 2
_VHOST_OPENED = "Connection.OpenOk"
_ENCODING_ERRORS = (TypeError, ValueError, struct.error, PAMQPException)
_LIBRARY_ERRORS = (AMQPError, OSError, RuntimeError)  # aiormq raises a bare RuntimeError on a closed connection


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpTimings:
    """Seconds: how soon trouble is noticed, and how soon it is mended."""

    heartbeat_s: int = 15
    connect_timeout_s: float = 5.0
    call_timeout_s: float = 10.0
    confirm_timeout_s: float = 10.0
    retry_interval_s: float = 1.0
    watchdog_interval_s: float = 5.0


class AmqpBroker:
    """The ``Broker`` of a RabbitMQ server; ``topology_mode`` ``passive`` uses what is there and declares nothing."""

    def __init__(
        self,
        url: str,
        topology: Topology,
        *,
        topology_mode: TopologyMode = "declare",
        timings: AmqpTimings | None = None,
        connection_name: str = "songs-ai",
    ) -> None:
        self._url = url
        self._topology = topology
        self._topology_mode = topology_mode
        self._connection_name = connection_name
        self.timings = timings or AmqpTimings()
        self._connection: RobustConnection | None = None
        self._publisher: aio_pika.Channel | None = None
        self._publisher_lock = asyncio.Lock()
        self._declare_lock = asyncio.Lock()
        self._n_declared = 0
        self._in_turn: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._subscriptions: list[_AmqpSubscription] = []

    @property
    def topology(self) -> Topology:
        """See ``Broker``."""
        return self._topology

    # --- connecting ---

    async def start(self, *, within_s: float = 30.0) -> None:
        """See ``Broker``."""
        try:
            async with asyncio.timeout(within_s):
                self._connection = await self._connect_patiently()
        except TimeoutError as error:
            raise DependencyUnavailable("broker", f"no connection within {within_s:g} s") from error
        try:
            await self.prepare()
        except BaseException:
            await self.close()
            raise
        self._watch(self._connection)

    async def _connect_patiently(self) -> RobustConnection:
        while True:
            try:
                return await self._connect()
            except _LIBRARY_ERRORS as error:
                _raise_if_refused(error, URL(self._url).path.removeprefix("/") or "/")
                log.warning(LogEvent.BROKER_DISCONNECTED, error=_sentence(error))
            await asyncio.sleep(self.timings.retry_interval_s)

    async def _connect(self) -> RobustConnection:
        url = make_url(self._url, reconnect_interval=self.timings.retry_interval_s, name=self._connection_name)
        if "heartbeat" not in url.query:
            url = url.update_query(heartbeat=self.timings.heartbeat_s)
        connection = RobustConnection(url)
        try:
            await connection.connect(timeout=self.timings.connect_timeout_s)
        except BaseException:
            await connection.close()
            raise
        return connection

    def _watch(self, connection: RobustConnection) -> None:
        log.info(LogEvent.BROKER_CONNECTED)
        connection.reconnect_callbacks.add(lambda _: log.info(LogEvent.BROKER_CONNECTED))
        connection.close_callbacks.add(lambda _, error: self._on_disconnect(error))

    def _on_disconnect(self, error: BaseException | None) -> None:
        if self._connection is not None:
            log.warning(LogEvent.BROKER_DISCONNECTED, error=error and _sentence(error))

    async def prepare(self) -> None:
        """Declare the topology, or in passive mode ask for it."""
        async with self.channel() as channel:
            timeout_s = self.timings.call_timeout_s
            if self._topology_mode == "declare":
                await declare(channel, self._topology, timeout_s=timeout_s)
            else:
                await inspect(channel, self._topology, timeout_s=timeout_s)
        self._n_declared += 1

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[aio_pika.Channel]:
        """A channel of its own, since the broker closes it at the first refusal."""
        channel = await self.open_channel(confirms=False)
        try:
            with _library_errors():
                yield channel
        finally:
            await _close_quietly(channel)

    async def open_channel(self, *, confirms: bool) -> aio_pika.Channel:
        """A plain channel, once the connection is up."""
        connection = self._connection
        if connection is None or connection.is_closed:
            raise DependencyUnavailable("broker", "not connected")
        with _library_errors():
            async with asyncio.timeout(self.timings.call_timeout_s):
                await connection.ready()
                channel = aio_pika.Channel(connection, publisher_confirms=confirms, on_return_raises=confirms)
                await channel.initialize()
                return channel

    # --- consuming ---

    async def consume(self, route: Route, *, prefetch: int, on_delivery: OnDelivery) -> "_AmqpSubscription":
        """See ``Broker``."""
        subscription = _AmqpSubscription(self, route, prefetch, on_delivery)
        await subscription.start()
        self._subscriptions.append(subscription)
        return subscription

    async def redeclare(self) -> None:
        """Declare the topology again; in passive mode that is not ours to do."""
        if self._topology_mode == "declare":
            await self.prepare()

    async def n_consumers(self, queue: str) -> int:
        """How many consumers the broker knows of; none where the queue is gone."""
        async with self.channel() as channel:
            try:
                declared = await channel.declare_queue(queue, passive=True, timeout=self.timings.call_timeout_s)
            except ChannelNotFoundEntity:
                return 0
            return declared.declaration_result.consumer_count or 0

    # --- publishing ---

    async def publish(self, message: OutgoingMessage) -> None:
        """See ``Broker``; where no queue takes it, the topology is declared again and the publish repeated once."""
        async with self._turn(message.properties.message_id):
            n_declared = self._n_declared
            try:
                await self._publish(message)
            except Unroutable:
                if self._topology_mode == "passive":
                    raise
                await self._redeclare_since(n_declared)
                await self._publish(message)

    @asynccontextmanager
    async def _turn(self, message_id: str | None) -> AsyncIterator[None]:
        """Publish two messages of one id one after the other.

        aiormq finds the publish that a returned message belongs to by the message id: with two under way it would
        blame one, and take the lost one for confirmed.
        """
        if message_id is None:
            yield
            return
        async with self._in_turn.setdefault(message_id, asyncio.Lock()):
            yield

    async def _publish(self, message: OutgoingMessage) -> None:
        try:
            async with asyncio.timeout(self.timings.confirm_timeout_s):
                await self._publish_confirmed(message)
        except (PublishError, ChannelNotFoundEntity) as error:
            raise Unroutable(f"no queue took it: {_sentence(error)}") from error
        except DeliveryError as error:
            raise PublishRefused(f"not accepted: {_sentence(error)}") from error
        except TimeoutError as error:
            raise PublishRefused(f"not confirmed within {self.timings.confirm_timeout_s:g} s") from error
        except _ENCODING_ERRORS as error:
            raise PublishRefused(f"cannot be written as AMQP: {_sentence(error)}") from error
        except (*_LIBRARY_ERRORS, DependencyUnavailable) as error:
            raise PublishRefused(_sentence(error)) from error
        except asyncio.CancelledError:
            _raise_if_cancelled()
            raise PublishRefused("the connection was closed before it confirmed") from None

    async def _publish_confirmed(self, message: OutgoingMessage) -> None:
        channel = await self._publishing_channel()
        underlay = await channel.get_underlay_channel()
        await underlay.basic_publish(
            message.body,
            exchange=message.exchange,
            routing_key=message.routing_key,
            properties=_amqp_properties(message),
            mandatory=True,
        )

    async def _publishing_channel(self) -> aio_pika.Channel:
        async with self._publisher_lock:
            if self._publisher is None or self._publisher.is_closed:
                self._publisher = await self.open_channel(confirms=True)
            return self._publisher

    async def _redeclare_since(self, n_declared: int) -> None:
        async with self._declare_lock:
            if self._n_declared > n_declared:
                return  # another publish did it meanwhile
            try:
                await self.prepare()
            except (DependencyUnavailable, ConfigurationError) as error:
                raise Unroutable(f"no queue took it, and the topology cannot be declared: {error}") from error

    # --- settling ---

    async def ack(self, delivery: Delivery) -> None:
        """See ``Broker``."""
        message = _message_of(delivery)
        with _library_errors():
            await message.channel.basic_ack(_tag_of(message))

    async def reject(self, delivery: Delivery, *, requeue: bool) -> None:
        """See ``Broker``."""
        message = _message_of(delivery)
        with _library_errors():
            await message.channel.basic_reject(_tag_of(message), requeue=requeue)

    # --- state ---

    def health(self) -> BrokerHealth:
        """See ``Broker``."""
        connection = self._connection
        if connection is None or connection.is_closed or not connection.connected.is_set():
            return BrokerHealth(connected=False, consuming=False, reason="not connected to the broker")
        reasons = [subscription.reason for subscription in self._subscriptions if not subscription.live]
        return BrokerHealth(True, bool(self._subscriptions) and not reasons, "; ".join(reasons))

    async def close(self) -> None:
        """See ``Broker``."""
        for subscription in tuple(self._subscriptions):
            await subscription.close()
        publisher, self._publisher = self._publisher, None
        connection, self._connection = self._connection, None
        if publisher is not None:
            await _close_quietly(publisher)
        if connection is not None:
            await connection.close()

    def forget(self, subscription: "_AmqpSubscription") -> None:
        """The subscription was closed."""
        with suppress(ValueError):
            self._subscriptions.remove(subscription)


@dataclass(frozen=True, slots=True)
class _Consumer:
    """One consumer on one channel; ``lost`` is set when either ends."""

    channel: aio_pika.Channel
    tag: str
    lost: asyncio.Event


class _AmqpSubscription:
    """Keeps one consumer of a queue, and replaces it whenever it is lost."""

    def __init__(self, broker: AmqpBroker, route: Route, prefetch: int, on_delivery: OnDelivery) -> None:
        self._broker = broker
        self._route = route
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._consumer: _Consumer | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.live = False
        self.reason = "not started"

    async def start(self) -> None:
        """Raises ``ConfigurationError`` where the broker refuses the first consumer."""
        self._consumer = await self._open()
        self._keeper = asyncio.create_task(self._keep(self._consumer), name=f"subscription:{self._route.name}")
        self._keeper.add_done_callback(self._keeper_ended)

    async def cancel(self) -> None:
        """See ``Subscription``."""
        if self._keeper is None:
            return
        self._keeper.cancel()
        await asyncio.wait([self._keeper])
        self._keeper = None
        self._mark_lost("stopped")
        if self._consumer is not None and not self._consumer.lost.is_set():
            with suppress(DependencyUnavailable), _library_errors():
                underlay = await self._consumer.channel.get_underlay_channel()
                await underlay.basic_cancel(self._consumer.tag, timeout=self._broker.timings.call_timeout_s)

    async def close(self) -> None:
        """See ``Subscription``."""
        await self.cancel()
        if self._consumer is not None:
            await _close_quietly(self._consumer.channel)
            self._consumer = None
        self._broker.forget(self)

    async def _keep(self, consumer: _Consumer) -> None:
        while True:
            await self._until_lost(consumer)
            self._mark_lost(f"the broker no longer serves a consumer of {self._route.queue!r}")
            log.warning(LogEvent.CONSUMER_LOST, queue=self._route.queue)
            # Closing gives back what is unsettled on it: those jobs are recognised when they come again.
            await _close_quietly(consumer.channel)
            consumer = self._consumer = await self._reopen()

    async def _until_lost(self, consumer: _Consumer) -> None:
        """Return when the channel ends, when the broker cancels, or when it turns out to know of no consumer."""
        while True:
            try:
                async with asyncio.timeout(self._broker.timings.watchdog_interval_s):
                    await consumer.lost.wait()
            except TimeoutError:
                if await self._is_served():
                    continue
            return

    async def _is_served(self) -> bool:
        try:
            return await self._broker.n_consumers(self._route.queue) > 0
        except DependencyUnavailable:
            return True  # nothing learnt; a lost connection ends the channel, and that is noticed

    async def _reopen(self) -> _Consumer:
        while True:
            try:
                await self._broker.redeclare()
                return await self._open()
            except (DependencyUnavailable, ConfigurationError) as error:
                self._mark_lost(str(error))
            await asyncio.sleep(self._broker.timings.retry_interval_s)

    async def _open(self) -> _Consumer:
        channel = await self._broker.open_channel(confirms=False)
        try:
            with _library_errors():
                async with asyncio.timeout(self._broker.timings.call_timeout_s):
                    consumer = await self._consume(channel)
        except BaseException:
            await _close_quietly(channel)
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
            sentence = explain_refusal("queue", self._route.queue, str(refusal))
            raise ConfigurationError(sentence) from refusal
        return _Consumer(channel, str(ok.consumer_tag), lost)

    async def _take(self, message: DeliveredMessage) -> None:
        # Returns at once: aiormq cancels what runs in here when the channel ends, and a job must outlive that.
        properties = message.header.properties
        self._on_delivery(
            Delivery(
                body=message.body,
                headers=properties.headers or {},
                properties=_properties_of(properties),
                routing_key=message.routing_key or "",
                redelivered=bool(message.redelivered),
                handle=message,
            )
        )

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            self._mark_lost(f"a bug ended the subscription: {_sentence(error)}")
            log.error(LogEvent.UNEXPECTED_ERROR_CAUGHT, queue=self._route.queue, exc_info=error)

    def _mark_lost(self, reason: str) -> None:
        self.live, self.reason = False, reason


# --- the library's side ---


@contextmanager
def _library_errors() -> Iterator[None]:
    """Turn what aio-pika and aiormq raise into ``DependencyUnavailable``."""
    try:
        yield
    except _LIBRARY_ERRORS as error:
        raise DependencyUnavailable("broker", _sentence(error)) from error
    except asyncio.CancelledError:
        _raise_if_cancelled()
        raise DependencyUnavailable("broker", "the connection was closed") from None


def _raise_if_cancelled() -> None:
    """Re-raise the cancellation in hand if it is this task's own.

    aiormq rejects all that waits on a closed connection *with* a ``CancelledError``, although nobody cancelled the
    task that waits.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise  # noqa: PLE0704 - called from an except block


def _raise_if_refused(error: BaseException, vhost: str) -> None:
    if isinstance(error, AuthenticationError | ProbableAuthenticationError):
        raise ConfigurationError("BROKER_URL: the broker refused the user or the password") from error
    if isinstance(error, InvalidFrameError) and _VHOST_OPENED in str(error):
        # aiormq keeps neither the code nor the text of the broker's answer
        raise ConfigurationError(
            f"BROKER_URL: virtual host {vhost!r} is missing on the broker, or this user may not use it"
        ) from error


def _sentence(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _close_quietly(channel: aio_pika.Channel) -> None:
    with suppress(DependencyUnavailable), _library_errors():
        await channel.close()


def _message_of(delivery: Delivery) -> DeliveredMessage:
    if not isinstance(delivery.handle, DeliveredMessage):
        raise TypeError("the delivery is another broker's")
    return delivery.handle


def _tag_of(message: DeliveredMessage) -> int:
    return message.delivery_tag or 0


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


def _amqp_properties(message: OutgoingMessage) -> spec.Basic.Properties:
    properties = message.properties
    return spec.Basic.Properties(
        delivery_mode=_PERSISTENT,
        headers=cast(FieldTable, dict(message.headers)),
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
