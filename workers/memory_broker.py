"""A broker inside the process, made of the same topology: bytes in, bytes out, retry delays, a dead-letter queue.

It reads the queues' own arguments (``x-message-ttl``, ``x-dead-letter-...``), so what works on it is what was declared.
Nothing survives the process: it is for demos and tests.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from core.errors import DependencyUnavailable
from workers.broker import BrokerHealth, Delivery, OnDelivery, OutgoingMessage, Properties, Unroutable
from workers.topology import Queue, Route, Topology

CallLater = Callable[[float, Callable[[], None]], object]
"""Runs a function after so many seconds, as ``loop.call_later`` does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message that waits in a queue."""

    body: bytes
    headers: Mapping[str, object]
    properties: Properties
    routing_key: str
    redelivered: bool = False


class _MemoryQueue:
    """The messages of one queue that are ready, and who consumes them."""

    def __init__(self, declared: Queue) -> None:
        self.declared = declared
        self.ready: deque[StoredMessage] = deque()
        self.subscriptions: list[_MemorySubscription] = []

    @property
    def ttl_s(self) -> float | None:
        ttl_ms = self.declared.arguments.get("x-message-ttl")
        return None if ttl_ms is None else int(ttl_ms) / 1000

    def dispatch(self) -> None:
        while self.ready and (subscription := self._least_busy()) is not None:
            subscription.deliver(self.ready.popleft())

    def _least_busy(self) -> "_MemorySubscription | None":
        free = [subscription for subscription in self.subscriptions if subscription.has_room]
        return min(free, key=lambda subscription: len(subscription.unsettled), default=None)


class _Handle:
    """Identifies one delivery of one message."""

    def __init__(self, subscription: "_MemorySubscription") -> None:
        self.subscription = subscription


class _MemorySubscription:
    def __init__(self, queue: _MemoryQueue, prefetch: int, on_delivery: OnDelivery) -> None:
        self.queue = queue
        self.unsettled: dict[_Handle, StoredMessage] = {}
        self._prefetch = prefetch
        self._on_delivery = on_delivery

    @property
    def has_room(self) -> bool:
        return len(self.unsettled) < self._prefetch

    def deliver(self, message: StoredMessage) -> None:
        handle = _Handle(self)
        self.unsettled[handle] = message
        self._on_delivery(
            Delivery(
                body=message.body,
                headers=message.headers,
                properties=message.properties,
                routing_key=message.routing_key,
                redelivered=message.redelivered,
                handle=handle,
            )
        )

    async def cancel(self) -> None:
        if self in self.queue.subscriptions:
            self.queue.subscriptions.remove(self)

    async def close(self) -> None:
        await self.cancel()
        back = [replace(message, redelivered=True) for message in self.unsettled.values()]
        self.unsettled.clear()
        self.queue.ready.extendleft(reversed(back))
        self.queue.dispatch()


class MemoryBroker:
    """The ``Broker`` of the embedded worker; ``call_later`` runs the retry delays (default: the running loop's)."""

    def __init__(self, topology: Topology, *, call_later: CallLater | None = None) -> None:
        self._topology = topology
        self._call_later = call_later
        self._kinds = {exchange.name: exchange.kind for exchange in topology.exchanges}
        self._queues = {queue.name: _MemoryQueue(queue) for queue in topology.queues}
        self._started = False

    @property
    def topology(self) -> Topology:
        """See ``Broker``."""
        return self._topology

    async def start(self, *, within_s: float = 30.0) -> None:
        """See ``Broker``; there is nobody who could refuse."""
        self._started = True

    async def consume(self, route: Route, *, prefetch: int, on_delivery: OnDelivery) -> _MemorySubscription:
        """See ``Broker``."""
        queue = self._queues[route.queue]
        subscription = _MemorySubscription(queue, prefetch, on_delivery)
        queue.subscriptions.append(subscription)
        queue.dispatch()
        return subscription

    async def publish(self, message: OutgoingMessage) -> None:
        """See ``Broker``."""
        self._route(
            message.exchange,
            StoredMessage(
                body=message.body,
                headers=dict(message.headers),
                properties=message.properties,
                routing_key=message.routing_key,
            ),
        )

    @asynccontextmanager
    async def browse(self, queue: str) -> AsyncIterator[AsyncIterator[Delivery]]:
        """See ``Broker``."""
        handed_out: deque[Delivery] = deque()
        subscription = _MemorySubscription(self._queues[queue], 0, handed_out.append)
        try:
            yield self._handed_out(subscription, handed_out)
        finally:
            await subscription.close()

    async def _handed_out(
        self, subscription: _MemorySubscription, handed_out: deque[Delivery]
    ) -> AsyncIterator[Delivery]:
        ready = subscription.queue.ready
        for _ in range(len(ready)):
            if not ready:
                return
            subscription.deliver(ready.popleft())
            yield handed_out.popleft()

    async def waiting(self, queues: Sequence[str]) -> dict[str, int]:
        """See ``Broker``."""
        return {queue: len(self._queues[queue].ready) for queue in queues if queue in self._queues}

    async def ack(self, delivery: Delivery) -> None:
        """See ``Broker``."""
        queue, _ = self._settled(delivery)
        queue.dispatch()

    async def reject(self, delivery: Delivery, *, requeue: bool) -> None:
        """See ``Broker``."""
        queue, message = self._settled(delivery)
        if requeue:
            queue.ready.appendleft(replace(message, redelivered=True))
        else:
            self._dead_letter(queue, message)
        queue.dispatch()

    def health(self) -> BrokerHealth:
        """See ``Broker``."""
        return BrokerHealth(self._started, any(queue.subscriptions for queue in self._queues.values()))

    async def close(self) -> None:
        """See ``Broker``."""
        self._started = False
        for queue in self._queues.values():
            for subscription in tuple(queue.subscriptions):
                await subscription.close()

    def ready(self, queue: str) -> tuple[StoredMessage, ...]:
        """What waits in ``queue``, oldest first."""
        return tuple(self._queues[queue].ready)

    def dead_letters(self) -> tuple[StoredMessage, ...]:
        """The jobs that were given up, oldest first."""
        return self.ready(self._topology.main.dead_letter_queue)

    def _settled(self, delivery: Delivery) -> tuple[_MemoryQueue, StoredMessage]:
        handle = delivery.handle
        if not isinstance(handle, _Handle) or handle not in handle.subscription.unsettled:
            raise DependencyUnavailable("broker", "the delivery was settled before, or its subscription is closed")
        return handle.subscription.queue, handle.subscription.unsettled.pop(handle)

    def _route(self, exchange: str, message: StoredMessage) -> None:
        takers = [queue for queue in self._queues.values() if self._takes(queue.declared, exchange, message)]
        if not takers:
            raise Unroutable(f"no queue is bound to {exchange!r} by {message.routing_key!r}")
        for queue in takers:
            self._enqueue(queue, message)

    def _takes(self, queue: Queue, exchange: str, message: StoredMessage) -> bool:
        if queue.exchange != exchange:
            return False
        if self._kinds.get(exchange) == "topic" and queue.routing_key.endswith(".#"):
            stem = queue.routing_key.removesuffix(".#")  # '#' stands for any number of words, none included
            return message.routing_key == stem or message.routing_key.startswith(f"{stem}.")
        return queue.routing_key == message.routing_key

    def _enqueue(self, queue: _MemoryQueue, message: StoredMessage) -> None:
        queue.ready.append(message)
        if queue.ttl_s is not None:
            call_later = self._call_later or asyncio.get_running_loop().call_later
            call_later(queue.ttl_s, lambda: self._expire(queue, message))
        queue.dispatch()

    def _expire(self, queue: _MemoryQueue, message: StoredMessage) -> None:
        if message in queue.ready:
            queue.ready.remove(message)
            self._dead_letter(queue, message)

    def _dead_letter(self, queue: _MemoryQueue, message: StoredMessage) -> None:
        exchange = queue.declared.arguments.get("x-dead-letter-exchange")
        key = queue.declared.arguments.get("x-dead-letter-routing-key", message.routing_key)
        if exchange is not None:
            self._route(str(exchange), replace(message, routing_key=str(key), redelivered=False))
