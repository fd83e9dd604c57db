"""The broker's port: what the worker asks of a message broker, and the two shapes that pass through it."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol, Self

from core.errors import PublishRefused
from workers.topology import Route, Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """What an AMQP message carries beside headers and body; all of it goes along when a delivery is sent on.

    Left out on purpose: ``delivery_mode`` (always persistent), and ``user_id``, which a broker takes from its own
    connection's user alone: sent on under ours it would close the channel.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    type: str | None = None
    app_id: str | None = None
    priority: int | None = None
    timestamp: datetime | None = None
    expiration: str | None = None


JSON_MESSAGE = Properties(content_type="application/json", content_encoding="UTF-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message as a queue handed it out; ``handle`` is the adapter's own, by which it is settled."""

    body: bytes
    headers: Mapping[str, object]
    properties: Properties
    routing_key: str
    redelivered: bool
    handle: object = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    """A message to publish."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, object] = field(default_factory=dict)
    properties: Properties = JSON_MESSAGE

    def with_headers(self, headers: Mapping[str, object]) -> Self:
        """The same message with ``headers`` beside, or in place of, those that it has."""
        return replace(self, headers={**self.headers, **headers})


class Unroutable(PublishRefused):
    """The exchange is missing, or no queue is bound to take the message: the broker would drop it."""


@dataclass(frozen=True, slots=True)
class BrokerHealth:
    """How it stands; ``consuming`` means that every subscription that was asked for is live. ``reason`` says why not.

    A broker that nothing was asked to consume from is not consuming.
    """

    connected: bool
    consuming: bool
    reason: str = ""


class Subscription(Protocol):
    """A queue being consumed."""

    async def cancel(self) -> None:
        """Ask for no further deliveries; those that are out may still be settled."""

    async def close(self) -> None:
        """Let go of everything: what is not settled by now, the broker delivers again."""


OnDelivery = Callable[[Delivery], None]
"""Takes a delivery and returns at once; it must not raise."""


class Broker(Protocol):
    """A message broker. Where a method names no other error, it raises ``DependencyUnavailable`` alone."""

    @property
    def topology(self) -> Topology:
        """The exchanges, queues and routes it works with."""

    async def start(self, *, within_s: float = 30.0) -> None:
        """Connect, and declare the topology or check that it is there.

        A broker that is down is tried again until ``within_s`` are over; raises ``ConfigurationError`` at once where
        it refuses the credentials, the virtual host or the topology.
        """

    async def consume(self, route: Route, *, prefetch: int, on_delivery: OnDelivery) -> Subscription:
        """Hand the deliveries of ``route`` to ``on_delivery``, at most ``prefetch`` of them unsettled at a time.

        It comes back by itself after whatever ends it. Raises ``ConfigurationError`` where the first try is refused.
        """

    async def publish(self, message: OutgoingMessage) -> None:
        """Return once the broker has taken responsibility for the message in at least one queue.

        Raises ``PublishRefused``, which leaves open whether it did, or ``Unroutable``: it did not.
        """

    def browse(self, queue: str) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Hand out what waits in ``queue`` by now, oldest first, each one when it is asked for.

        At the end of the block, and when the process dies, what was not settled is in its place again; meanwhile no
        consumer sees what was handed out.
        """

    async def waiting(self, queues: Sequence[str]) -> dict[str, int]:
        """How many messages wait in each of ``queues``; one that is not there is left out."""

    async def ack(self, delivery: Delivery) -> None:
        """Take the delivery off its queue."""

    async def reject(self, delivery: Delivery, *, requeue: bool) -> None:
        """Put it back into its queue, or let the queue dead-letter it."""

    def health(self) -> BrokerHealth:
        """How it stands at this moment; asks nobody."""

    async def close(self) -> None:
        """End all subscriptions and the connection."""
