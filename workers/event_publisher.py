"""Puts events of ours on their queue, as the backend does."""

from core.event_codec import encode_event
from models.event import Event
from workers.broker import Broker, OutgoingMessage


class BrokerEventPublisher:
    """The ``EventPublisher`` of a broker: persistent UTF-8 JSON, with a routing key that says the type."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def publish_event(self, event: Event) -> None:
        """Return once the broker has confirmed it; raises ``PublishRefused``."""
        exchange, key = self._broker.topology.events.exchange, f"event.{event.type.value}"
        await self._broker.publish(OutgoingMessage(exchange=exchange, routing_key=key, body=encode_event(event)))
