"""Quorum queues on a real broker: what kills its workers ends where it can be seen, and nothing is dropped."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from core.errors import DeliveredTooOften
from tests.support.backend import job_body
from tests.support.llm_faults import Fault
from tests.support.llm_server import LLMServer
from tests.support.messaging import Inbox, delete_topology
from tests.support.waiting import until
from tests.support.worker_process import worker
from tests.test_end_to_end import Site, open_site
from workers.amqp_broker import AmqpBroker
from workers.broker import JSON_MESSAGE, Delivery, OutgoingMessage
from workers.delivery_count import DELIVERY_COUNT_HEADER, RETURNED_HEADER, n_returns, refuse_if_too_often
from workers.disposition import DeadLetter, DeadLetterReason, RetryLater, RetryReason, disposition_of, note_of
from workers.settlement import dead_letter_message, retry_message
from workers.topology import Topology, build_topology

TOO_OFTEN = DeliveredTooOften("delivered 4 times")


def delivered(count: object, *, before: object = None, redelivered: bool = False) -> Delivery:
    told = {DELIVERY_COUNT_HEADER: count, RETURNED_HEADER: before}
    headers = {name: value for name, value in told.items() if value is not None}
    return Delivery(
        body=b"{}", headers=headers, properties=JSON_MESSAGE, routing_key="k", redelivered=redelivered, handle=object()
    )


# --- the rule ---


@pytest.mark.parametrize(
    ("count", "before", "redelivered", "n"),
    [
        (None, None, False, 0),
        (0, None, False, 0),
        (3, None, True, 3),
        (3, 4, True, 7),
        (None, None, True, 1),  # a classic queue
        (None, 4, True, 5),
        (None, 4, False, 4),
        ("3", "4", False, 0),  # whatever else a publisher writes there
        (2.0, -4, False, 0),
        (-2, None, True, 1),
    ],
)
def test_returns_are_those_that_all_its_queues_have_told(
    count: object, before: object, redelivered: bool, n: int
) -> None:
    assert n_returns(delivered(count, before=before, redelivered=redelivered)) == n


@pytest.mark.parametrize(
    ("count", "limit", "is_refused"), [(2, 3, False), (3, 3, True), (99, 3, True), (99, 0, False), (None, 1, False)]
)
def test_a_job_is_refused_from_the_limit_on(count: int | None, limit: int, is_refused: bool) -> None:
    if not is_refused:
        refuse_if_too_often(delivered(count), limit=limit)
        return
    with pytest.raises(DeliveredTooOften, match=f"delivered {count + 1 if count else 0} times"):
        refuse_if_too_often(delivered(count), limit=limit)


def test_what_came_too_often_is_dead_lettered_whatever_attempts_it_has_left() -> None:
    disposition = disposition_of(TOO_OFTEN, attempt=0, max_attempts=4, delays_s=(5,))
    assert disposition == DeadLetter(DeadLetterReason.DELIVERED_TOO_OFTEN, note_of(TOO_OFTEN))
    assert note_of(TOO_OFTEN).code == "DELIVERED_TOO_OFTEN"


def test_a_job_that_waits_for_its_dead_workers_lease_keeps_its_count() -> None:
    waiting = RetryLater(RetryReason.RUNNING_ELSEWHERE, 5)
    headers = retry_message(build_topology().main, delivered(2, before=1), waiting).headers
    assert headers[RETURNED_HEADER] == 3
    assert DELIVERY_COUNT_HEADER not in headers
    assert RETURNED_HEADER not in retry_message(build_topology().main, delivered(None), waiting).headers


def test_another_try_and_a_dead_letter_begin_to_count_anew() -> None:
    main = build_topology().main
    tried = RetryLater(RetryReason.DEPENDENCY_UNAVAILABLE, 5, attempt=1)
    dead = DeadLetter(DeadLetterReason.DELIVERED_TOO_OFTEN, note_of(TOO_OFTEN))
    once_more = replace(delivered(2, before=1), body=b'{"jobId": "j", "memberId": 1}')
    for message in (retry_message(main, once_more, tried), dead_letter_message(main, once_more, dead)):
        assert not message.headers.keys() & {RETURNED_HEADER, DELIVERY_COUNT_HEADER}


# --- on a real broker ---


@pytest.fixture
async def operator(amqp_url: str) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        yield channel


@pytest.fixture
async def topology(amqp_url: str) -> AsyncIterator[Topology]:
    topology = build_topology(f"test.{uuid.uuid4().hex}", (0.1,), "quorum", delivery_limit=1)
    yield topology
    await delete_topology(amqp_url, topology)


def topology_limit(topology: Topology) -> int:
    [main] = [queue for queue in topology.queues if queue.name == topology.main.queue]
    return int(main.arguments["x-delivery-limit"])


def message(topology: Topology, body: bytes = b"{}", key: str | None = None) -> OutgoingMessage:
    main = topology.main
    exchange = main.exchange if key is None else main.dead_letter_exchange
    return OutgoingMessage(exchange=exchange, routing_key=key or main.routing_key, body=body)


async def test_every_return_to_the_queue_is_counted_however_it_came_back(amqp_url: str, topology: Topology) -> None:
    broker = AmqpBroker(amqp_url, topology)
    await broker.start()
    try:
        await broker.publish(message(topology))
        counts = []
        for _ in range(3):
            inbox = Inbox()
            subscription = await broker.consume(topology.main, prefetch=1, on_delivery=inbox)
            counts.append(n_returns(await inbox.get()))
            await subscription.close()
        inbox = Inbox()
        await broker.consume(topology.main, prefetch=1, on_delivery=inbox)
        delivery = await inbox.get()
        counts.append(n_returns(delivery))
        await broker.reject(delivery, requeue=True)
        counts.append(n_returns(await inbox.get()))
    finally:
        await broker.close()
    assert counts == [0, 1, 2, 3, 4]


async def test_beyond_the_brokers_own_limit_a_message_is_a_dead_letter_and_not_gone(
    amqp_url: str, topology: Topology, operator: AbstractChannel
) -> None:
    broker = AmqpBroker(amqp_url, topology)
    await broker.start()
    try:
        await broker.publish(message(topology, b'{"jobId": "poison"}'))
        inbox = Inbox()
        await broker.consume(topology.main, prefetch=1, on_delivery=inbox)
        for _ in range(topology_limit(topology) + 1):
            await broker.reject(await inbox.get(), requeue=True)
        letter = await next_letter(operator, topology.main.dead_letter_queue)
        assert letter.body == b'{"jobId": "poison"}'
        assert letter.headers["x-first-death-reason"] == "delivery_limit"
        assert letter.headers["x-first-death-queue"] == topology.main.queue
        assert not len(inbox)
    finally:
        await broker.close()


async def test_dead_letters_may_be_looked_at_and_put_back_without_end(
    amqp_url: str, topology: Topology, operator: AbstractChannel
) -> None:
    broker = AmqpBroker(amqp_url, topology)
    await broker.start()
    try:
        await broker.publish(message(topology, b"dead", topology.main.dead_letter_key))
        dead = await operator.get_queue(topology.main.dead_letter_queue)
        for _ in range(30):
            await (await got(dead)).reject(requeue=True)
        assert (await next_letter(operator, dead.name)).body == b"dead"
    finally:
        await broker.close()


async def test_a_message_comes_back_from_a_retry_queue_with_the_count_that_was_carried_over(
    amqp_url: str, topology: Topology
) -> None:
    broker = AmqpBroker(amqp_url, topology)
    await broker.start()
    try:
        inbox = Inbox()
        await broker.consume(topology.main, prefetch=1, on_delivery=inbox)
        await broker.publish(message(topology))
        await broker.reject(await inbox.get(), requeue=True)
        again = await inbox.get()
        assert n_returns(again) == 1
        await broker.publish(retry_message(topology.main, again, RetryLater(RetryReason.RUNNING_ELSEWHERE, 0.1)))
        await broker.ack(again)
        back = await inbox.get()
        assert (back.headers[RETURNED_HEADER], n_returns(back)) == (1, 1)
    finally:
        await broker.close()


# --- real workers ---


async def next_letter(operator: AbstractChannel, queue: str) -> AbstractIncomingMessage:
    """Taken off the queue."""
    letter = await got(await operator.get_queue(queue))
    await letter.ack()
    return letter


async def got(queue: AbstractQueue) -> AbstractIncomingMessage:
    async with asyncio.timeout(10):
        while (letter := await queue.get(fail=False)) is None:  # noqa: ASYNC110 - the broker has no event for it
            await asyncio.sleep(0.01)
        return letter


async def without_lease(site: Site, job_id: str) -> bool:
    return not await site.backend.exists(f"songs_ai:lease:{job_id}")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("queue_type", "is_lease_over"), [("quorum", False), ("classic", False), ("classic", True)])
async def test_a_job_that_kills_every_worker_ends_failed_and_in_the_dead_letter_queue(
    amqp_url: str,
    mysql_url: str,
    redis_url: str,
    llm_server: LLMServer,
    operator: AbstractChannel,
    queue_type: str,
    is_lease_over: bool,
) -> None:
    settings = {"QUEUE_TYPE": queue_type, "DELIVERY_LIMIT": "2"}
    async with open_site(amqp_url, mysql_url, redis_url, llm_server, **settings) as site:
        poison, good = job_body(7, [3, 4, 5]), job_body(8, [3, 4, 5])
        llm_server.fail(Fault.HANG)
        await site.backend.publish([poison])
        for n_deaths in (1, 2):
            async with worker(site.environment):  # which it leaves by SIGKILL
                await llm_server.called(n_deaths, timeout_s=20)
            if is_lease_over:
                await until(lambda: without_lease(site, poison["jobId"]), within_s=30)
        async with worker(site.environment):
            statuses = await site.backend.wait([poison["jobId"]], 20, until={"failed"})
            assert statuses[poison["jobId"]]["error.code"] == "DELIVERED_TOO_OFTEN"
            assert "do its workers die of it?" in statuses[poison["jobId"]]["error.message"]
            letter = await next_letter(operator, f"{site.prefix}.recommendation.dlq")
            assert json.loads(letter.body)["jobId"] == poison["jobId"]
            assert letter.headers["x-dead-letter-reason"] == "delivered_too_often"
            assert llm_server.n_calls == 2
            llm_server.heal()
            await site.backend.publish([good])
            await site.backend.wait([good["jobId"]], 20, until={"succeeded"})
