"""Tells the broker what becomes of a delivery, so that at no moment it is in no queue at all.

Sending on is a confirmed publish first and an ack after it: between the two the message is there twice, never not at
all, and a job that comes twice is recognised by its id.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from core.errors import NotEncodable, PublishRefused
from core.job_codec import with_attempt
from workers.broker import Broker, Delivery, OutgoingMessage
from workers.delivery_count import DELIVERY_COUNT_HEADER, RETURNED_HEADER, n_returns
from workers.disposition import Ack, DeadLetter, Disposition, ErrorNote, RetryLater
from workers.topology import Route

RETRY_REASON_HEADER = "x-retry-reason"
DEAD_LETTER_REASON_HEADER = "x-dead-letter-reason"
ERROR_HEADER = "x-last-error"
ERROR_CODE_HEADER = "x-last-error-code"
ERROR_DIGEST_HEADER = "x-last-error-digest"
DEAD_LETTER_ROUTE_HEADER = "x-dead-letter-route"
REPLAYED_HEADER = "x-replayed"

OnDeadLettered = Callable[[Delivery], Awaitable[None]]
"""Told of a delivery once its dead letter is safe, before it is acked; raises nothing but ``CancelledError``."""

# Sender-selected distribution (https://www.rabbitmq.com/docs/sender-selected): sent on with the message they would
# copy it into the queues of its first journey again.
# x-death is the broker's own: RabbitMQ 3 reads it back, and its queue crashes where a publisher wrote something else.
_NOT_SENT_ON = frozenset({"CC", "BCC", "x-death", DELIVERY_COUNT_HEADER, RETURNED_HEADER})
_MAX_REPLAYS = 1_000_000  # beyond any that were made; within what a script of Redis counts exactly


def n_replays(headers: Mapping[str, object]) -> int:
    """How often the message was replayed, by its header; 1 where the header is there and is no number."""
    if REPLAYED_HEADER not in headers:
        return 0
    n = headers[REPLAYED_HEADER]
    return n if isinstance(n, int) and 0 < n <= _MAX_REPLAYS else 1


async def settle(
    broker: Broker,
    route: Route,
    delivery: Delivery,
    disposition: Disposition,
    on_dead_lettered: OnDeadLettered | None = None,
) -> None:
    """Carry ``disposition`` out.

    Raises ``PublishRefused`` where the message could not be sent on and is still unsettled (the caller puts it back
    after a pause), and ``DependencyUnavailable`` where the delivery's channel is gone and the broker delivers again.
    """
    match disposition:
        case Ack():
            await broker.ack(delivery)
        case RetryLater():
            await broker.publish(retry_message(route, delivery, disposition))
            await broker.ack(delivery)
        case DeadLetter():
            await _dead_letter(broker, route, delivery, disposition, on_dead_lettered)


async def _dead_letter(
    broker: Broker, route: Route, delivery: Delivery, disposition: DeadLetter, on_safe: OnDeadLettered | None
) -> None:
    try:
        await broker.publish(dead_letter_message(route, delivery, disposition))
    except NotEncodable:
        # Elsewhere the queue's own dead-lettering is no way out: it would tell no reason, and where no queue takes the
        # message, or the one that should is full, drop it.
        await broker.reject(delivery, requeue=False)
    else:
        # Before the ack: a connection that is lost between the two brings the delivery once more.
        if on_safe is not None:
            await on_safe(delivery)
        await broker.ack(delivery)


def retry_message(route: Route, delivery: Delivery, disposition: RetryLater) -> OutgoingMessage:
    """The delivery on its way to a retry queue: only ``attempt`` changes, and the error joins the headers.

    Raises ``PublishRefused`` where the route has no retry queue.
    """
    if not route.retries:
        raise PublishRefused(f"route {route.name!r} has no retry queue")
    body = delivery.body if disposition.attempt is None else with_attempt(delivery.body, disposition.attempt)
    key = route.retry(disposition.delay_s).routing_key
    notes = {RETRY_REASON_HEADER: disposition.reason.value, **_notes(disposition.error)}
    if disposition.attempt is None and (n := n_returns(delivery)):
        notes = {**notes, RETURNED_HEADER: n}
    return _sent_on(route, key, delivery, body).with_headers(notes)


def dead_letter_message(route: Route, delivery: Delivery, disposition: DeadLetter) -> OutgoingMessage:
    """The delivery on its way to the dead-letter queue, its body to the byte, the reason in its headers."""
    notes = {
        DEAD_LETTER_REASON_HEADER: disposition.reason.value,
        DEAD_LETTER_ROUTE_HEADER: route.name,
        **_notes(disposition.error),
    }
    letter = _sent_on(route, route.dead_letter_key, delivery, delivery.body).with_headers(notes)
    # It waits for people: where its publisher gave it a lifetime, the broker would drop it once that is over.
    return replace(letter, properties=replace(letter.properties, expiration=None))


def _sent_on(route: Route, routing_key: str, delivery: Delivery, body: bytes) -> OutgoingMessage:
    return OutgoingMessage(
        exchange=route.dead_letter_exchange,
        routing_key=routing_key,
        body=body,
        headers={name: value for name, value in delivery.headers.items() if name not in _NOT_SENT_ON},
        properties=delivery.properties,
    )


def _notes(error: ErrorNote | None) -> Mapping[str, object]:
    if error is None:
        return {}
    notes = {ERROR_HEADER: error.message, ERROR_CODE_HEADER: error.code}
    return notes if error.digest is None else {**notes, ERROR_DIGEST_HEADER: error.digest}
