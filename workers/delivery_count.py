"""Deliveries of a job that comes back again and again, as a poisonous one does that kills each worker it is given to.

Quorum queues count how often a message came back without having been settled, in the header ``x-delivery-count``
(https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling), and dead-letter it beyond a limit: without a word
to the job's poller. So a worker gives it up a little sooner, and says so. Classic queues count nothing.
"""

from collections.abc import Mapping

from core.errors import DeliveredTooOften
from workers.broker import Delivery

DELIVERY_COUNT_HEADER = "x-delivery-count"


def n_returns(headers: Mapping[str, object]) -> int:
    """How often the queue has had the message back; 0 where it does not count."""
    count = headers.get(DELIVERY_COUNT_HEADER)
    return count if isinstance(count, int) else 0


def refuse_if_too_often(delivery: Delivery, *, limit: int) -> None:
    """Raises ``DeliveredTooOften`` for a message that came back ``limit`` times or more (0: however often)."""
    n = n_returns(delivery.headers)
    if limit and n >= limit:
        raise DeliveredTooOften(f"delivered {n + 1} times and never settled: do its workers die of it?")
