"""Exchanges, queues, bindings and retry delays as frozen data, and how a broker is told of them or asked for them.

Names and arguments are the wire contract's to the letter: the backend declares the same, and a broker refuses a second
declaration that differs.
"""

import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelClosed

from core.errors import ConfigurationError

QueueType = Literal["classic", "quorum"]
Argument = str | int

_JOB_KEY = "recommendation.generate"
_BATCH_KEY = "recommendation.batch"
_DEAD_JOB_KEY = f"{_JOB_KEY}.dlq"
_EVENT_PATTERN = "event.#"
_DEAD_EVENT_KEY = "event.dlq"

# What a worker gives up after ``delivery_limit`` returns it marks as failed, which the broker cannot: so the broker's
# own limit lies above it, and is met only by a message that no worker of ours looks at.
_LIMIT_MARGIN = 20
# Dead letters are read and put back by whoever looks at them, and have nowhere else to go: RabbitMQ 4 drops them after
# 20 returns where nothing is said, and older ones refuse its -1 for "no limit".
_NO_LIMIT = 1_000_000
# From one replicated queue to the next with confirms; by default a message whose next queue has lost its leader at that
# moment is dropped. It wants reject-publish in the place of drop-head, which only matters where there is a max-length.
_SAFE_DEAD_LETTERING: Mapping[str, Argument] = {
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: Literal["direct", "topic"] = "direct"


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue, bound to ``exchange`` by ``routing_key`` (a pattern where the exchange is a topic exchange)."""

    name: str
    exchange: str
    routing_key: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RetryStep:
    """One retry queue: a message published with ``routing_key`` comes back to its route after ``delay_s``."""

    delay_s: float
    queue: str
    routing_key: str

    @property
    def label(self) -> str:
        """The delay as names have it: ``5s``."""
        return _label(self.delay_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One stream of deliveries: where it is published, consumed, retried and dead-lettered.

    ``retries`` rise in delay; they and ``dead_letter_key`` are routing keys of ``dead_letter_exchange``.
    """

    name: str
    queue: str
    exchange: str
    routing_key: str
    dead_letter_exchange: str
    dead_letter_queue: str
    dead_letter_key: str
    retries: tuple[RetryStep, ...] = ()

    def retry(self, delay_s: float) -> RetryStep:
        """The step that waits at least ``delay_s``, or the longest there is."""
        return next((step for step in self.retries if step.delay_s >= delay_s), self.retries[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """All that the worker needs of a broker."""

    main: Route
    batch: Route
    events: Route
    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]


def build_topology(
    prefix: str = "rec",
    retry_delays_s: Sequence[float] = (5, 30, 120),
    queue_type: QueueType = "classic",
    *,
    batch: bool = True,
    events: bool = True,
    delivery_limit: int = 20,
) -> Topology:
    """The wire contract's topology under ``prefix``, with one retry queue for each delay (rising, in seconds).

    The broker itself dead-letters what quorum queues have had back 20 times more than ``delivery_limit`` (0: a million
    times).
    Without ``batch`` or ``events`` their queues are neither declared nor asked for: the backend alone does not make
    them, so a passive worker that does not consume them must not insist.
    """
    main = _job_route("main", prefix, f"{prefix}.recommendation", _JOB_KEY, retry_delays_s)
    batch_route = _job_route("batch", prefix, f"{prefix}.recommendation.batch", _BATCH_KEY, retry_delays_s)
    event_route = _event_route(prefix)
    routes = (main, *((batch_route,) if batch else ()), *((event_route,) if events else ()))
    queues = {queue.name: queue for route in routes for queue in _queues_of(route, queue_type, delivery_limit)}
    return Topology(
        main=main,
        batch=batch_route,
        events=event_route,
        exchanges=_exchanges(prefix, events=events),
        queues=tuple(queues.values()),
    )


def _exchanges(prefix: str, *, events: bool) -> tuple[Exchange, ...]:
    exchanges = (Exchange(f"{prefix}.exchange"), Exchange(f"{prefix}.dlx"))
    return (*exchanges, Exchange(f"{prefix}.events.exchange", "topic")) if events else exchanges


def _job_route(name: str, prefix: str, queues: str, key: str, delays_s: Sequence[float]) -> Route:
    labels = [(delay_s, _label(delay_s)) for delay_s in sorted(delays_s)]
    return Route(
        name=name,
        queue=f"{queues}.q",
        exchange=f"{prefix}.exchange",
        routing_key=key,
        dead_letter_exchange=f"{prefix}.dlx",
        dead_letter_queue=f"{prefix}.recommendation.dlq",
        dead_letter_key=_DEAD_JOB_KEY,
        retries=tuple(RetryStep(s, f"{queues}.retry.{label}.q", f"{key}.retry.{label}") for s, label in labels),
    )


def _event_route(prefix: str) -> Route:
    return Route(
        name="events",
        queue=f"{prefix}.events.q",
        exchange=f"{prefix}.events.exchange",
        routing_key=_EVENT_PATTERN,
        dead_letter_exchange=f"{prefix}.dlx",
        dead_letter_queue=f"{prefix}.events.dlq",
        dead_letter_key=_DEAD_EVENT_KEY,
    )


def _label(delay_s: float) -> str:
    """``5s`` of 5.0 and ``0.2s`` of 0.2: the names must not depend on how a number was written."""
    return f"{Decimal(str(delay_s)).normalize():f}s"


def _queues_of(route: Route, queue_type: QueueType, delivery_limit: int) -> list[Queue]:
    dead_letters: dict[str, Argument] = {
        "x-dead-letter-exchange": route.dead_letter_exchange,
        "x-dead-letter-routing-key": route.dead_letter_key,
    }
    jobs, retries, dead = _kinds(queue_type, delivery_limit)
    return [
        Queue(route.queue, route.exchange, route.routing_key, {**dead_letters, **jobs}),
        *(_retry_queue(route, step, retries) for step in route.retries),
        Queue(route.dead_letter_queue, route.dead_letter_exchange, route.dead_letter_key, dead),
    ]


def _kinds(queue_type: QueueType, delivery_limit: int) -> tuple[dict[str, Argument], ...]:
    """What the type adds to the arguments of job queues, of retry queues and of dead-letter queues."""
    if queue_type == "classic":
        return {}, {}, {}
    kind: dict[str, Argument] = {"x-queue-type": queue_type}
    limit = {"x-delivery-limit": delivery_limit + _LIMIT_MARGIN if delivery_limit else _NO_LIMIT}
    return (
        {**kind, **_SAFE_DEAD_LETTERING, **limit},
        {**kind, **_SAFE_DEAD_LETTERING},
        {**kind, "x-delivery-limit": _NO_LIMIT},
    )


def _retry_queue(route: Route, step: RetryStep, kind: Mapping[str, Argument]) -> Queue:
    arguments: dict[str, Argument] = {
        "x-message-ttl": round(step.delay_s * 1000),
        "x-dead-letter-exchange": route.exchange,
        "x-dead-letter-routing-key": route.routing_key,
    }
    return Queue(step.queue, route.dead_letter_exchange, step.routing_key, {**arguments, **kind})


# --- the broker's side ---


async def declare(channel: AbstractChannel, topology: Topology, *, timeout_s: float = 10.0) -> None:
    """Declare everything; what already stands as it should is left as it is.

    Raises ``ConfigurationError`` naming the exchange or queue, and the argument, that the broker refused.
    """
    for exchange in topology.exchanges:
        call = channel.declare_exchange(exchange.name, exchange.kind, durable=True, timeout=timeout_s)
        await _accepted(call, "exchange", exchange.name)
    for queue in topology.queues:
        await _accepted(_declare_queue(channel, queue, timeout_s), "queue", queue.name)


async def _declare_queue(channel: AbstractChannel, queue: Queue, timeout_s: float) -> None:
    declared = await channel.declare_queue(
        queue.name, durable=True, arguments=dict(queue.arguments) or None, timeout=timeout_s
    )
    await declared.bind(queue.exchange, queue.routing_key, timeout=timeout_s)


async def inspect(channel: AbstractChannel, topology: Topology, *, timeout_s: float = 10.0) -> None:
    """Ask for every exchange and queue by name, and declare nothing: any type and any arguments will do.

    Raises ``ConfigurationError`` naming the one that is missing.
    """
    for exchange in topology.exchanges:
        call = channel.declare_exchange(exchange.name, exchange.kind, passive=True, timeout=timeout_s)
        await _accepted(call, "exchange", exchange.name)
    for queue in topology.queues:
        await _accepted(channel.declare_queue(queue.name, passive=True, timeout=timeout_s), "queue", queue.name)


async def _accepted(call: Awaitable[object], kind: str, name: str) -> None:
    try:
        await call
    except ChannelClosed as refusal:
        raise ConfigurationError(explain_refusal(kind, name, str(refusal))) from refusal


_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for \w+ '(?P<name>[^']+)'.*?"
    r"received (?P<wanted>.+?) but current is (?P<current>.+?)(?:, .*|\"?\s*)$",
    re.DOTALL,
)


def explain_refusal(kind: str, name: str, reply_text: str) -> str:
    """A sentence for whoever runs the worker, from the broker's reply to a declaration of that exchange or queue."""
    if match := _INEQUIVALENT.search(reply_text):
        return (
            f"{kind} {match['name']!r}: argument {match['argument']!r} is {match['current']} on the broker and "
            f"{match['wanted']} here; change RETRY_DELAYS_S, QUEUE_TYPE or DELIVERY_LIMIT to match it, or set "
            "TOPOLOGY_MODE=passive"
        )
    if "NOT_FOUND" in reply_text:
        return f"{kind} {name!r} does not exist on the broker; create it, or set TOPOLOGY_MODE=declare"
    if "ACCESS_REFUSED" in reply_text:
        return f"{kind} {name!r}: the broker's user may not do this, TOPOLOGY_MODE=passive needs less: {reply_text}"
    return f"{kind} {name!r}: the broker refused it: {reply_text}"
