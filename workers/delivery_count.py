"""Deliveries of a job that comes back again and again, as a poisonous one does that kills each worker it is given to.

Quorum queues count how often a message came back without having been settled, in the header ``x-delivery-count``
(https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling), and dead-letter it beyond a limit: without a word
to the job's poller. So a worker gives it up sooner, and says so. Classic queues only tell that it came back; there the
job's own status does the counting, see ``ResultCache.claim``.

The count is the queue's own, and ends in the retry queue where a job waits for its dead worker's lease: a header of
ours carries it over.
"""

from core.errors import DeliveredTooOften
from core.ports.results import Claim
from workers.broker import Delivery

DELIVERY_COUNT_HEADER = "x-delivery-count"
RETURNED_HEADER = "x-returned"


def n_returns(delivery: Delivery) -> int:
    """How often the message came back, as far as its queues have told."""
    counted = _count(delivery, DELIVERY_COUNT_HEADER)
    return _count(delivery, RETURNED_HEADER) + max(counted, int(delivery.redelivered))


def refuse_if_too_often(delivery: Delivery, *, limit: int) -> None:
    """Raises ``DeliveredTooOften`` for a message that came back ``limit`` times or more (0: however often)."""
    n = n_returns(delivery)
    if limit and n >= limit:
        raise DeliveredTooOften(f"delivered {n + 1} times and never settled: do its workers die of it?")


def refuse_if_left_too_often(claim: Claim) -> None:
    """Raises ``DeliveredTooOften`` for a job that was granted too often, since its workers fell silent."""
    if claim is Claim.GRANTED_TOO_OFTEN:
        raise DeliveredTooOften("one worker after another fell silent: do its workers die of it?")


def _count(delivery: Delivery, header: str) -> int:
    value = delivery.headers.get(header)
    return value if isinstance(value, int) and value > 0 else 0
