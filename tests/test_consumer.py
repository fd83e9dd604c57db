"""Side by side, drained in order, and never lost: the consumer over both brokers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

import pytest

from core.errors import DependencyUnavailable, NotEncodable, PublishRefused
from core.job_codec import decode_job
from tests.support.messaging import Inbox, Wire, delete_topology, eventually, open_wire, private_topology
from workers.amqp_broker import AmqpBroker
from workers.amqp_connection import AmqpTimings
from workers.broker import Broker, Delivery, OutgoingMessage, Unroutable
from workers.consumer import Consumer
from workers.disposition import (
    Ack,
    AckReason,
    DeadLetter,
    DeadLetterReason,
    Disposition,
    ErrorNote,
    RetryLater,
    RetryReason,
)
from workers.memory_broker import MemoryBroker
from workers.observer import SilentObserver
from workers.settlement import settle

DONE = Ack(AckReason.SUCCEEDED)
AGAIN = RetryLater(RetryReason.DEPENDENCY_UNAVAILABLE, 0.05, 1)
NOTE = ErrorNote("INTERNAL_ERROR", "a bug")
FAST = AmqpTimings(call_timeout_s=2.0, confirm_timeout_s=2.0, retry_interval_s=0.05, watchdog_interval_s=0.1)


class GatedHandler:
    """Handles nothing before its gate is opened, and remembers what it was given."""

    def __init__(self, decide: Callable[[Delivery], Disposition] = lambda _: DONE, *, is_open: bool = True) -> None:
        self.gate = asyncio.Event()
        if is_open:
            self.gate.set()
        self.begun: list[Delivery] = []
        self.ended: list[Delivery] = []
        self.n_running = self.max_running = 0
        self._decide = decide

    async def handle(self, delivery: Delivery) -> Disposition:
        self.begun.append(delivery)
        self.n_running += 1
        self.max_running = max(self.max_running, self.n_running)
        try:
            await self.gate.wait()
            self.ended.append(delivery)
            return self._decide(delivery)
        finally:
            self.n_running -= 1


class CountingObserver(SilentObserver):
    def __init__(self) -> None:
        self.settled: list[tuple[str, str, str]] = []
        self.n_not_settled = 0
        self.retried: list[tuple[str, str]] = []

    def delivery_retried(self, *, route: str, delay: str) -> None:
        self.retried.append((route, delay))

    def delivery_settled(self, *, route: str, outcome: str, reason: str) -> None:
        self.settled.append((route, outcome, reason))

    def delivery_not_settled(self, *, route: str) -> None:
        self.n_not_settled += 1


class RefusingBroker(MemoryBroker):
    """Refuses to publish what it is told to, with that error, so many times."""

    def __init__(self) -> None:
        super().__init__(private_topology())
        self.refusals: list[PublishRefused] = []

    async def publish(self, message: OutgoingMessage) -> None:
        if self.refusals and message.exchange == self.topology.main.dead_letter_exchange:
            raise self.refusals.pop()
        await super().publish(message)


def make_consumer(
    broker: Broker, handler: GatedHandler, concurrency: int = 10, pause_s: float = 0.01
) -> tuple[Consumer, CountingObserver]:
    observer = CountingObserver()
    main = broker.topology.main
    return Consumer(broker, main, handler, concurrency=concurrency, observer=observer, pause_s=pause_s), observer


def buggy_unless(good: Callable[[Delivery], bool]) -> Callable[[Delivery], Disposition]:
    def decide(delivery: Delivery) -> Disposition:
        if good(delivery):
            return DONE
        raise ZeroDivisionError

    return decide


async def publish_body(broker: Broker, body: bytes) -> None:
    main = broker.topology.main
    await broker.publish(OutgoingMessage(exchange=main.exchange, routing_key=main.routing_key, body=body))


async def publish(broker: Broker, *job_ids: str) -> None:
    for job_id in job_ids:
        await publish_body(broker, json.dumps({"jobId": job_id, "memberId": 1}).encode())


def ids(deliveries: list[Delivery]) -> list[str]:
    return [decode_job(delivery.body).job_id for delivery in deliveries]


class ConsumerContract:
    async def test_every_delivery_is_handled_and_settled_once(self, broker: Broker) -> None:
        handler = GatedHandler()
        consumer, observer = make_consumer(broker, handler)
        await consumer.start()
        await publish(broker, *map(str, range(20)))
        await eventually(lambda: len(observer.settled) == 20)
        assert sorted(ids(handler.ended), key=int) == [str(n) for n in range(20)]
        assert set(observer.settled) == {("main", "acked", "succeeded")}
        assert await consumer.stop(5)

    async def test_no_more_run_at_once_than_allowed(self, broker: Broker) -> None:
        handler = GatedHandler(is_open=False)
        consumer, observer = make_consumer(broker, handler, concurrency=3)
        await consumer.start()
        await publish(broker, *map(str, range(9)))
        await eventually(lambda: len(handler.begun) == 3)
        handler.gate.set()
        await eventually(lambda: len(observer.settled) == 9)
        assert handler.max_running == 3
        await consumer.stop(5)

    async def test_a_stop_lets_running_jobs_end_and_takes_no_new_ones(self, broker: Broker) -> None:
        handler, heir = GatedHandler(is_open=False), Inbox()
        consumer, observer = make_consumer(broker, handler)
        await consumer.start()
        await publish(broker, "running")
        await eventually(lambda: len(handler.begun) == 1)
        stopping = asyncio.create_task(consumer.stop(5))
        await eventually(lambda: not broker.health().consuming)
        await publish(broker, "new")
        assert not stopping.done()
        handler.gate.set()
        assert await stopping
        assert ids(handler.ended) == ["running"]
        assert len(observer.settled) == 1
        await broker.consume(broker.topology.main, prefetch=9, on_delivery=heir)
        assert ids([await heir.get()]) == ["new"]
        assert len(heir) == 0

    async def test_what_outlasts_the_grace_is_cancelled_and_delivered_again(self, broker: Broker) -> None:
        handler, heir = GatedHandler(is_open=False), Inbox()
        consumer, observer = make_consumer(broker, handler)
        await consumer.start()
        await publish(broker, "slow")
        await eventually(lambda: len(handler.begun) == 1)
        assert not await consumer.stop(0.01)
        assert (handler.n_running, consumer.n_unsettled, observer.settled) == (0, 0, [])
        await broker.consume(broker.topology.main, prefetch=9, on_delivery=heir)
        again = await heir.get()
        assert (ids([again]), again.redelivered) == (["slow"], True)

    async def test_a_second_stop_cuts_the_first_one_short(self, broker: Broker) -> None:
        handler = GatedHandler(is_open=False)
        consumer, _ = make_consumer(broker, handler)
        await consumer.start()
        await publish(broker, "slow")
        await eventually(lambda: len(handler.begun) == 1)
        patient = asyncio.create_task(consumer.stop(60))
        await eventually(lambda: not broker.health().consuming)
        assert not await consumer.stop(0)
        await asyncio.wait_for(patient, 5)

    async def test_a_retried_delivery_is_handled_again_with_its_attempt_raised(self, broker: Broker) -> None:
        handler = GatedHandler(lambda delivery: DONE if decode_job(delivery.body).attempt else AGAIN)
        consumer, observer = make_consumer(broker, handler)
        await consumer.start()
        await publish(broker, "j")
        await eventually(lambda: len(observer.settled) == 2)
        assert [decode_job(delivery.body).attempt for delivery in handler.ended] == [0, 1]
        assert observer.settled[0] == ("main", "retried", "dependency_unavailable")
        await consumer.stop(5)

    async def test_a_delivery_that_a_handler_trips_over_once_is_handled_again(self, broker: Broker) -> None:
        handler = GatedHandler(buggy_unless(lambda delivery: delivery.redelivered))
        consumer, observer = make_consumer(broker, handler, concurrency=1)
        await consumer.start()
        await publish(broker, "j")
        await eventually(lambda: observer.settled == [("main", "acked", "succeeded")])
        assert [delivery.redelivered for delivery in handler.ended] == [False, True]
        await consumer.stop(5)

    async def test_a_delivery_that_a_handler_always_trips_over_gives_its_place_to_the_next(
        self, broker: Broker
    ) -> None:
        handler = GatedHandler(buggy_unless(lambda delivery: b"good" in delivery.body))
        consumer, observer = make_consumer(broker, handler, concurrency=1)
        await consumer.start()
        await publish(broker, "poison", "good")
        await eventually(lambda: observer.settled == [("main", "acked", "succeeded")])
        await eventually(lambda: consumer.n_unsettled == 0)
        assert await consumer.stop(5)
        assert ids(handler.ended) == ["poison", "poison", "good"]

    async def test_a_body_whose_attempt_cannot_be_raised_is_not_handled_without_end(self, broker: Broker) -> None:
        handler = GatedHandler(lambda delivery: AGAIN if delivery.body == b"[]" else DONE)
        consumer, observer = make_consumer(broker, handler, concurrency=1)
        await consumer.start()
        await publish_body(broker, b"[]")
        await publish(broker, "good")
        await eventually(lambda: observer.settled == [("main", "acked", "succeeded")])
        assert len(handler.ended) == 2
        assert observer.n_not_settled == 1
        await consumer.stop(5)


class TestOnMemory(ConsumerContract):
    @pytest.fixture
    async def broker(self) -> AsyncIterator[Broker]:
        broker = MemoryBroker(private_topology())
        await broker.start()
        yield broker
        await broker.close()


class TestOnRabbitMQ(ConsumerContract):
    @pytest.fixture
    async def wire(self, amqp_url: str) -> AsyncIterator[Wire]:
        async with open_wire(amqp_url) as wire:
            yield wire

    @pytest.fixture
    async def broker(self, wire: Wire, amqp_url: str) -> AsyncIterator[Broker]:
        broker = AmqpBroker(wire.url, private_topology(), timings=FAST)
        await broker.start()
        yield broker
        await broker.close()
        await delete_topology(amqp_url, broker.topology)

    async def test_a_job_outlives_the_connection_that_brought_it(self, broker: Broker, wire: Wire) -> None:
        handler = GatedHandler(is_open=False)
        consumer, observer = make_consumer(broker, handler)
        await consumer.start()
        await publish(broker, "j")
        await eventually(lambda: len(handler.begun) == 1)
        wire.cut()
        await eventually(lambda: len(handler.begun) == 2)
        handler.gate.set()
        await eventually(lambda: len(handler.ended) == 2)
        await eventually(lambda: (observer.n_not_settled, len(observer.settled)) == (1, 1))
        assert [delivery.redelivered for delivery in handler.ended] == [False, True]
        assert await consumer.stop(5)

    async def test_old_jobs_count_against_the_concurrency_after_a_reconnect(self, broker: Broker, wire: Wire) -> None:
        handler = GatedHandler(is_open=False)
        consumer, observer = make_consumer(broker, handler, concurrency=2)
        await consumer.start()
        await publish(broker, "a", "b", "c")
        await eventually(lambda: len(handler.begun) == 2)
        wire.cut()
        await eventually(lambda: consumer.n_unsettled == 4)
        assert len(handler.begun) == 2
        handler.gate.set()
        await eventually(lambda: len(observer.settled) == 3)
        assert handler.max_running == 2
        await consumer.stop(5)


# --- when the broker refuses ---


@pytest.fixture
async def refusing() -> AsyncIterator[RefusingBroker]:
    broker = RefusingBroker()
    await broker.start()
    yield broker
    await broker.close()


async def test_a_retry_that_is_refused_is_put_back_after_a_pause_and_not_lost(refusing: RefusingBroker) -> None:
    refusing.refusals = [PublishRefused("not confirmed")]
    handler = GatedHandler(lambda delivery: DONE if decode_job(delivery.body).attempt else AGAIN)
    consumer, observer = make_consumer(refusing, handler)
    await consumer.start()
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    await publish(refusing, "j")
    await eventually(lambda: ("main", "acked", "succeeded") in observer.settled)
    assert [(d.redelivered, decode_job(d.body).attempt) for d in handler.ended] == [(False, 0), (True, 0), (False, 1)]
    assert observer.n_not_settled == 1
    assert loop.time() - begun_s >= 2 * AGAIN.delay_s
    await consumer.stop(5)


async def test_a_retry_that_cannot_be_written_again_is_left_to_the_queues_own_dead_lettering(
    refusing: RefusingBroker,
) -> None:
    refusing.refusals = [NotEncodable("bytes in a header")]
    handler = GatedHandler(lambda _: AGAIN)
    consumer, observer = make_consumer(refusing, handler)
    await consumer.start()
    await publish(refusing, "j")
    await eventually(lambda: len(refusing.dead_letters()) == 1)
    assert (len(handler.ended), observer.n_not_settled) == (1, 1)
    assert await consumer.stop(5)


async def test_what_no_handler_can_take_ends_in_the_dead_letters_as_it_was(refusing: RefusingBroker) -> None:
    consumer, _ = make_consumer(refusing, GatedHandler(buggy_unless(lambda _: False)))
    await consumer.start()
    await publish_body(refusing, b"poison")
    await eventually(lambda: len(refusing.dead_letters()) == 1)
    assert refusing.dead_letters()[0].body == b"poison"
    assert refusing.ready(refusing.topology.main.queue) == ()
    await consumer.stop(5)


async def test_a_stop_does_not_wait_for_the_pause_after_a_bug(refusing: RefusingBroker) -> None:
    handler = GatedHandler(buggy_unless(lambda _: False))
    consumer, _ = make_consumer(refusing, handler, pause_s=600)
    await consumer.start()
    await publish(refusing, "j")
    await eventually(lambda: len(handler.ended) == 1 and handler.n_running == 0)
    assert await consumer.stop(5)
    assert len(refusing.ready(refusing.topology.main.queue)) == 1


async def test_a_stop_does_not_wait_for_the_pause(refusing: RefusingBroker) -> None:
    refusing.refusals = [PublishRefused("not confirmed")]
    handler = GatedHandler(lambda _: replace(AGAIN, delay_s=600))
    consumer, observer = make_consumer(refusing, handler)
    await consumer.start()
    await publish(refusing, "j")
    await eventually(lambda: observer.n_not_settled == 1)
    assert await consumer.stop(5)
    [message] = refusing.ready(refusing.topology.main.queue)
    assert message.redelivered


async def test_a_dead_letter_that_is_refused_is_put_back_and_sent_again_with_its_reason(
    refusing: RefusingBroker,
) -> None:
    refusing.refusals = [PublishRefused("not confirmed"), PublishRefused("the connection was closed")]
    handler = GatedHandler(lambda _: DeadLetter(DeadLetterReason.UNEXPECTED, NOTE))
    consumer, observer = make_consumer(refusing, handler)
    await consumer.start()
    await publish(refusing, "j")
    await eventually(lambda: len(observer.settled) == 1)
    [letter] = refusing.dead_letters()
    assert (letter.headers["x-dead-letter-reason"], letter.headers["x-last-error"]) == ("unexpected", NOTE.message)
    assert (observer.n_not_settled, len(handler.ended)) == (2, 3)
    await consumer.stop(5)


async def test_a_dead_letter_that_no_message_can_carry_is_left_to_the_queues_own_dead_lettering(
    refusing: RefusingBroker,
) -> None:
    refusing.refusals = [NotEncodable("a header that AMQP cannot say")]
    consumer, _ = make_consumer(refusing, GatedHandler(lambda _: DeadLetter(DeadLetterReason.UNEXPECTED, NOTE)))
    await consumer.start()
    await publish(refusing, "j")
    await eventually(lambda: len(refusing.dead_letters()) == 1)
    assert "x-dead-letter-reason" not in refusing.dead_letters()[0].headers
    await consumer.stop(5)


async def test_a_dead_letter_that_no_queue_takes_is_not_thrown_away(refusing: RefusingBroker) -> None:
    refusing.refusals = [Unroutable("no queue is bound")]
    handler = GatedHandler(lambda _: DeadLetter(DeadLetterReason.UNEXPECTED, NOTE))
    consumer, observer = make_consumer(refusing, handler)
    await consumer.start()
    await publish(refusing, "j")
    await eventually(lambda: observer.n_not_settled == 1)
    assert refusing.dead_letters() == ()
    await consumer.stop(5)
    assert len(refusing.ready(refusing.topology.main.queue)) == 1


async def test_a_route_without_retry_queues_keeps_what_should_be_retried(refusing: RefusingBroker) -> None:
    inbox, events = Inbox(), refusing.topology.events
    await refusing.consume(events, prefetch=1, on_delivery=inbox)
    await refusing.publish(OutgoingMessage(exchange=events.exchange, routing_key="event.play", body=b"{}"))
    delivery = await inbox.get()
    with pytest.raises(PublishRefused, match="no retry queue"):
        await settle(refusing, events, delivery, AGAIN)
    await refusing.reject(delivery, requeue=True)


async def test_a_settlement_is_published_before_the_delivery_is_acked() -> None:
    order: list[str] = []

    class Recorder(MemoryBroker):
        async def publish(self, message: OutgoingMessage) -> None:
            order.append("publish")

        async def ack(self, delivery: Delivery) -> None:
            order.append("ack")

    broker = Recorder(private_topology())
    headers: Mapping[str, object] = {}
    inbox = Inbox()
    await broker.consume(broker.topology.main, prefetch=1, on_delivery=inbox)
    main = broker.topology.main
    await MemoryBroker.publish(
        broker,
        OutgoingMessage(
            exchange=main.exchange, routing_key=main.routing_key, body=b'{"jobId":"j","memberId":1}', headers=headers
        ),
    )
    delivery = await inbox.get()
    for disposition in (AGAIN, DeadLetter(DeadLetterReason.INVALID, NOTE)):
        await settle(broker, main, delivery, disposition)
    assert order == ["publish", "ack"] * 2


async def test_a_consumer_of_a_broker_that_is_away_does_not_start() -> None:
    broker = AmqpBroker("amqp://127.0.0.1:1/", private_topology())
    consumer, _ = make_consumer(broker, GatedHandler())
    with pytest.raises(DependencyUnavailable, match="not connected"):
        await consumer.start()
    assert await consumer.stop(1)
