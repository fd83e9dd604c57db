import re
import uuid
from collections.abc import AsyncIterator

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection

from core.errors import ConfigurationError
from workers.topology import Queue, Topology, build_topology, declare, explain_refusal, inspect

DLX = "x-dead-letter-exchange"
DLK = "x-dead-letter-routing-key"
TTL = "x-message-ttl"


def retry(queue: str, key: str, ttl_ms: int, back: str) -> Queue:
    return Queue(queue, "rec.dlx", key, {TTL: ttl_ms, DLX: "rec.exchange", DLK: back})


def test_the_default_topology_is_the_contracts_to_the_letter() -> None:
    job, batch, dead = "recommendation.generate", "recommendation.batch", "recommendation.generate.dlq"
    assert set(map(repr, build_topology().queues)) == {
        repr(Queue("rec.recommendation.q", "rec.exchange", job, {DLX: "rec.dlx", DLK: dead})),
        repr(retry("rec.recommendation.retry.5s.q", f"{job}.retry.5s", 5000, job)),
        repr(retry("rec.recommendation.retry.30s.q", f"{job}.retry.30s", 30000, job)),
        repr(retry("rec.recommendation.retry.120s.q", f"{job}.retry.120s", 120000, job)),
        repr(Queue("rec.recommendation.dlq", "rec.dlx", dead)),
        repr(Queue("rec.recommendation.batch.q", "rec.exchange", batch, {DLX: "rec.dlx", DLK: dead})),
        repr(retry("rec.recommendation.batch.retry.5s.q", f"{batch}.retry.5s", 5000, batch)),
        repr(retry("rec.recommendation.batch.retry.30s.q", f"{batch}.retry.30s", 30000, batch)),
        repr(retry("rec.recommendation.batch.retry.120s.q", f"{batch}.retry.120s", 120000, batch)),
        repr(Queue("rec.events.q", "rec.events.exchange", "event.#", {DLX: "rec.dlx", DLK: "event.dlq"})),
        repr(Queue("rec.events.dlq", "rec.dlx", "event.dlq")),
    }
    kinds = {exchange.name: exchange.kind for exchange in build_topology().exchanges}
    assert kinds == {"rec.exchange": "direct", "rec.dlx": "direct", "rec.events.exchange": "topic"}


@pytest.mark.parametrize(
    ("delay_s", "label", "ttl_ms"),
    [(5.0, "5s", 5000), (0.2, "0.2s", 200), (120, "120s", 120_000), (1.5, "1.5s", 1500), (3e6, "3000000s", 3 * 10**9)],
)
def test_a_retry_queue_is_named_by_its_delay_in_seconds(delay_s: float, label: str, ttl_ms: int) -> None:
    topology = build_topology("rec", (delay_s,))
    names = {queue.name: queue.arguments.get(TTL) for queue in topology.queues}
    assert names[f"rec.recommendation.retry.{label}.q"] == ttl_ms
    assert topology.main.retries[0].routing_key == f"recommendation.generate.retry.{label}"


def test_every_name_carries_the_prefix() -> None:
    topology = build_topology("site.7")
    names = [*(queue.name for queue in topology.queues), *(exchange.name for exchange in topology.exchanges)]
    assert all(name.startswith("site.7.") for name in names)


def test_a_delay_takes_the_first_retry_queue_that_waits_long_enough() -> None:
    route = build_topology().main
    assert [route.retry(s).delay_s for s in (0.1, 5, 6, 30, 120, 999)] == [5, 5, 30, 30, 120, 120]


def test_every_queue_of_a_quorum_topology_says_so_and_keeps_its_other_arguments() -> None:
    classic, quorum = build_topology(), build_topology(queue_type="quorum")
    for plain, typed in zip(classic.queues, quorum.queues, strict=True):
        assert plain.arguments.items() <= typed.arguments.items()
        assert typed.arguments["x-queue-type"] == "quorum"


def test_what_leaves_a_quorum_queue_for_another_is_confirmed_there_before() -> None:
    for queue in build_topology(queue_type="quorum").queues:
        is_safe = (queue.arguments.get("x-dead-letter-strategy"), queue.arguments.get("x-overflow"))
        assert (is_safe == ("at-least-once", "reject-publish")) == (DLX in queue.arguments)


def test_the_brokers_delivery_limit_lies_above_the_workers_and_dead_letters_have_none_to_speak_of() -> None:
    limits = {
        queue.name: queue.arguments.get("x-delivery-limit")
        for queue in build_topology(queue_type="quorum", delivery_limit=7).queues
    }
    assert limits["rec.recommendation.q"] == limits["rec.recommendation.batch.q"] == 27
    assert limits["rec.recommendation.dlq"] == limits["rec.events.dlq"] == 1_000_000
    assert limits["rec.recommendation.retry.5s.q"] is None


def test_what_is_not_consumed_is_not_asked_for() -> None:
    names = {queue.name for queue in build_topology(batch=False, events=False).queues}
    assert not {name for name in names if "batch" in name or "events" in name}
    assert len(names) == 5


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': "
            "received '5000' but current is '7'",
            "queue 'q': argument 'x-message-ttl' is '7' on the broker and '5000' here",
        ),
        ("ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'", "'q'.*TOPOLOGY_MODE=passive"),
        ("NOT_FOUND - no queue 'q' in vhost '/'", "'q' does not exist"),
        ("RESOURCE_LOCKED - whatever", "queue 'q': the broker refused it: RESOURCE_LOCKED"),
    ],
)
def test_a_refusal_names_the_queue_and_what_is_wrong(reply: str, sentence: str) -> None:
    assert re.search(sentence, explain_refusal("queue", "q", reply))


# --- on a real broker ---


@pytest.fixture
async def connection(amqp_url: str) -> AsyncIterator[AbstractConnection]:
    async with await aio_pika.connect(amqp_url) as connection:
        yield connection


@pytest.fixture
async def prefix(connection: AbstractConnection) -> AsyncIterator[str]:
    prefix = f"test.{uuid.uuid4().hex}"
    yield prefix
    async with connection.channel() as channel:
        topology = build_topology(prefix)
        for queue in topology.queues:
            await channel.queue_delete(queue.name)
        for exchange in topology.exchanges:
            await channel.exchange_delete(exchange.name)


async def refusal(connection: AbstractConnection, topology: Topology) -> str:
    async with connection.channel() as channel:
        with pytest.raises(ConfigurationError) as caught:
            await declare(channel, topology)
    return str(caught.value)


async def test_declaring_twice_changes_nothing(connection: AbstractConnection, prefix: str) -> None:
    async with connection.channel() as channel:
        await declare(channel, build_topology(prefix))
        await declare(channel, build_topology(prefix))
        await inspect(channel, build_topology(prefix))


async def test_declared_queues_are_bound(connection: AbstractConnection, prefix: str) -> None:
    topology = build_topology(prefix)
    async with connection.channel(on_return_raises=True) as channel:
        await declare(channel, topology)
        for queue in topology.queues:
            exchange = await channel.get_exchange(queue.exchange, ensure=False)
            await exchange.publish(aio_pika.Message(b"x"), queue.routing_key.replace("#", "like"), mandatory=True)


async def test_quorum_queues_can_be_declared(connection: AbstractConnection, prefix: str) -> None:
    async with connection.channel() as channel:
        await declare(channel, build_topology(prefix, (5,), "quorum"))
    assert "argument 'x-dead-letter-strategy' is" in await refusal(connection, build_topology(prefix, (5,)))


async def test_the_passive_mode_takes_other_arguments(connection: AbstractConnection, prefix: str) -> None:
    async with connection.channel() as channel:
        await declare(channel, build_topology(prefix, (5,), "quorum"))
        await inspect(channel, build_topology(prefix, (5,)))


async def test_the_passive_mode_names_what_is_missing(connection: AbstractConnection, prefix: str) -> None:
    async with connection.channel() as channel:
        await declare(channel, build_topology(prefix, (5,)))
    async with connection.channel() as channel:
        with pytest.raises(ConfigurationError, match=r"recommendation\.retry\.30s\.q' does not exist"):
            await inspect(channel, build_topology(prefix, (5, 30)))


async def test_another_argument_is_refused_by_queue_and_argument(connection: AbstractConnection, prefix: str) -> None:
    name = f"{prefix}.recommendation.retry.5s.q"
    async with connection.channel() as channel:
        await channel.declare_queue(
            name, durable=True, arguments={TTL: 7, DLX: f"{prefix}.exchange", DLK: "recommendation.generate"}
        )
    sentence = await refusal(connection, build_topology(prefix))
    assert f"queue '{name}': argument '{TTL}' is '7' on the broker and '5000' here" in sentence


async def test_another_type_of_exchange_is_refused_by_name(connection: AbstractConnection, prefix: str) -> None:
    async with connection.channel() as channel:
        await channel.declare_exchange(f"{prefix}.exchange", "topic", durable=True)
    sentence = await refusal(connection, build_topology(prefix))
    assert f"exchange '{prefix}.exchange': argument 'type' is 'topic'" in sentence
