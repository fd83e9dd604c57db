"""The ``Broker`` of a RabbitMQ server: one connection to consume, one to publish, a subscription for each route.

A broker that is short of memory or disk reads nothing more from connections that publish
(https://www.rabbitmq.com/docs/alarms): over one for both, no job could be acked until the shortage is over, and the
queue that caused it would never be emptied.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from aiormq.abc import DeliveredMessage

from workers.amqp_browsing import browse
from workers.amqp_connection import AmqpConnection, AmqpTimings, TopologyMode, library_errors
from workers.amqp_publisher import AmqpPublisher
from workers.amqp_subscription import AmqpSubscription
from workers.broker import BrokerHealth, Delivery, OnDelivery, OutgoingMessage
from workers.topology import Route, Topology


class AmqpBroker:
    """RabbitMQ, by aio-pika; ``topology_mode`` ``passive`` uses what is there and declares nothing.

    An ``amqps://`` broker's certificate and name are verified, by the CAs of ``ca_file`` or else the system's.
    """

    def __init__(
        self,
        url: str,
        topology: Topology,
        *,
        topology_mode: TopologyMode = "declare",
        timings: AmqpTimings | None = None,
        connection_name: str = "songs-ai",
        ca_file: str = "",
    ) -> None:
        timings = timings or AmqpTimings()
        self._connection, self._publishing = (
            AmqpConnection(url, topology, topology_mode, timings, name, ca_file)
            for name in (connection_name, f"{connection_name} publisher")
        )
        self._publisher = AmqpPublisher(self._publishing)
        self._subscriptions: list[AmqpSubscription] = []

    @property
    def topology(self) -> Topology:
        """See ``Broker``."""
        return self._connection.topology

    async def start(self, *, within_s: float = 30.0) -> None:
        """See ``Broker``."""
        await self._connection.start(within_s)
        try:
            await self._publishing.start(within_s, prepares=False)
        except BaseException:
            await self._connection.close()
            raise

    async def consume(self, route: Route, *, prefetch: int, on_delivery: OnDelivery) -> AmqpSubscription:
        """See ``Broker``."""
        subscription = AmqpSubscription(self._connection, route, prefetch, on_delivery)
        await subscription.start()
        self._subscriptions.append(subscription)
        return subscription

    async def publish(self, message: OutgoingMessage) -> None:
        """See ``Broker``."""
        await self._publisher.publish(message)

    def browse(self, queue: str) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """See ``Broker``."""
        return browse(self._connection, queue)

    async def waiting(self, queues: Sequence[str]) -> dict[str, int]:
        """See ``Broker``."""
        found = {queue: await self._connection.queue(queue) for queue in queues}
        return {queue: told.message_count or 0 for queue, told in found.items() if told is not None}

    async def ack(self, delivery: Delivery) -> None:
        """See ``Broker``."""
        message = _message_of(delivery)
        with library_errors():
            await message.channel.basic_ack(message.delivery_tag or 0)

    async def reject(self, delivery: Delivery, *, requeue: bool) -> None:
        """See ``Broker``."""
        message = _message_of(delivery)
        with library_errors():
            await message.channel.basic_reject(message.delivery_tag or 0, requeue=requeue)

    def health(self) -> BrokerHealth:
        """See ``Broker``."""
        if not (self._connection.connected and self._publishing.connected):
            return BrokerHealth(connected=False, consuming=False, reason="not connected to the broker")
        self._subscriptions = [subscription for subscription in self._subscriptions if not subscription.closed]
        reasons = [subscription.reason for subscription in self._subscriptions if not subscription.live]
        return BrokerHealth(True, bool(self._subscriptions) and not reasons, "; ".join(reasons))

    async def close(self) -> None:
        """See ``Broker``."""
        for subscription in self._subscriptions:
            await subscription.close()
        self._subscriptions.clear()
        await self._publisher.close()
        await self._publishing.close()
        await self._connection.close()


def _message_of(delivery: Delivery) -> DeliveredMessage:
    if not isinstance(delivery.handle, DeliveredMessage):
        raise TypeError("the delivery is another broker's")
    return delivery.handle
