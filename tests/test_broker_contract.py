"""One contract, two brokers: every test body runs on the in-memory broker and on a real RabbitMQ."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from core.errors import DependencyUnavailable
from core.job_codec import decode_job
from models.job import Job
from tests.support.messaging import Inbox, delete_topology, private_topology
from workers.amqp_broker import AmqpBroker
from workers.broker import JSON_MESSAGE, Broker, Delivery, OutgoingMessage, Properties, Unroutable
from workers.disposition import Ack, AckReason, DeadLetter, DeadLetterReason, ErrorNote, RetryLater, RetryReason
from workers.job_publisher import BrokerJobPublisher
from workers.memory_broker import MemoryBroker
from workers.settlement import settle
from workers.topology import Route

BODY = (
    b'{"jobId":"j","memberId":1,"requestedAt":1769860800.123456789,"huge":123456789012345678901234567890,"attempt":0}'
)
HEADERS = {"__TypeId__": "com.example.Job", "traceId": "t-1", "x-replayed": 2}
PROPERTIES = replace(
    JSON_MESSAGE,
    message_id="m-1",
    correlation_id="c-1",
    type="job",
    app_id="backend",
    priority=3,
    timestamp=datetime(2026, 1, 31, 12, tzinfo=UTC),
)
NOTE = ErrorNote("DEPENDENCY_UNAVAILABLE", "redis: timed out")


def job_message(route: Route, body: bytes = BODY) -> OutgoingMessage:
    return OutgoingMessage(
        exchange=route.exchange, routing_key=route.routing_key, body=body, headers=HEADERS, properties=PROPERTIES
    )


async def consume(broker: Broker, route: Route, prefetch: int = 10) -> Inbox:
    inbox = Inbox()
    await broker.consume(route, prefetch=prefetch, on_delivery=inbox)
    return inbox


async def consume_dead_letters(broker: Broker) -> Inbox:
    main = broker.topology.main
    return await consume(broker, replace(main, queue=main.dead_letter_queue))


async def emptied(broker: Broker, queue: str) -> list[bytes]:
    """The bodies that wait in ``queue``, which is empty then."""
    bodies = []
    async with broker.browse(queue) as deliveries:
        async for delivery in deliveries:
            bodies.append(delivery.body)
            await broker.ack(delivery)
    return bodies


def ours(delivery: Delivery) -> dict[str, object]:
    """The headers but those of RabbitMQ's own dead-lettering."""
    rabbits = ("x-death", "x-first-death", "x-last-death")
    return {name: value for name, value in delivery.headers.items() if not name.startswith(rabbits)}


class BrokerContract:
    """What every broker must do."""

    async def test_a_delivery_is_what_was_published(self, broker: Broker) -> None:
        inbox = await consume(broker, broker.topology.main)
        await broker.publish(job_message(broker.topology.main))
        delivery = await inbox.get()
        assert (delivery.body, delivery.headers, delivery.properties) == (BODY, HEADERS, PROPERTIES)
        assert (delivery.routing_key, delivery.redelivered) == ("recommendation.generate", False)

    async def test_what_no_queue_takes_is_not_published(self, broker: Broker) -> None:
        lost = replace(job_message(broker.topology.main), routing_key="no.such.key")
        with pytest.raises(Unroutable):
            await broker.publish(lost)

    async def test_what_has_no_exchange_is_not_published_and_the_next_is(self, broker: Broker) -> None:
        lost = replace(job_message(broker.topology.main), exchange="test.no.such.exchange")
        with pytest.raises(Unroutable):
            await broker.publish(lost)
        await broker.publish(job_message(broker.topology.main))

    async def test_no_more_than_the_prefetch_are_unsettled(self, broker: Broker) -> None:
        main, batch = broker.topology.main, broker.topology.batch
        inbox, fence = await consume(broker, main, prefetch=2), await consume(broker, batch)
        for number in range(3):
            await broker.publish(job_message(main, str(number).encode()))
        first, second = await inbox.get(), await inbox.get()
        await broker.publish(job_message(batch))
        await fence.get()
        assert len(inbox) == 0
        await broker.ack(first)
        assert [d.body for d in (first, second, await inbox.get())] == [b"0", b"1", b"2"]

    async def test_a_requeued_delivery_comes_again_and_says_so(self, broker: Broker) -> None:
        inbox = await consume(broker, broker.topology.main)
        await broker.publish(job_message(broker.topology.main))
        await broker.reject(await inbox.get(), requeue=True)
        again = await inbox.get()
        assert (again.body, again.redelivered) == (BODY, True)

    async def test_a_rejected_delivery_is_dead_lettered_by_its_queue(self, broker: Broker) -> None:
        inbox, dead = await consume(broker, broker.topology.main), await consume_dead_letters(broker)
        await broker.publish(job_message(broker.topology.main))
        await broker.reject(await inbox.get(), requeue=False)
        assert (await dead.get()).body == BODY

    async def test_closing_a_subscription_gives_its_unsettled_deliveries_to_the_next(self, broker: Broker) -> None:
        first_inbox, second_inbox = Inbox(), Inbox()
        first = await broker.consume(broker.topology.main, prefetch=10, on_delivery=first_inbox)
        for number in range(3):
            await broker.publish(job_message(broker.topology.main, str(number).encode()))
        done = await first_inbox.get()
        await first_inbox.get()
        await broker.ack(done)
        await first.close()
        await broker.consume(broker.topology.main, prefetch=10, on_delivery=second_inbox)
        again = [await second_inbox.get() for _ in range(2)]
        assert [delivery.body for delivery in again] == [b"1", b"2"]
        assert again[0].redelivered

    async def test_after_cancel_nothing_new_comes_and_what_is_out_can_be_acked(self, broker: Broker) -> None:
        inbox, heir = Inbox(), Inbox()
        subscription = await broker.consume(broker.topology.main, prefetch=10, on_delivery=inbox)
        await broker.publish(job_message(broker.topology.main, b"old"))
        old = await inbox.get()
        await subscription.cancel()
        await broker.publish(job_message(broker.topology.main, b"new"))
        await broker.ack(old)
        await subscription.close()
        await broker.consume(broker.topology.main, prefetch=10, on_delivery=heir)
        assert (await heir.get()).body == b"new"
        assert (len(inbox), len(heir)) == (0, 0)

    async def test_settling_after_the_subscription_closed_is_an_error(self, broker: Broker) -> None:
        inbox = Inbox()
        subscription = await broker.consume(broker.topology.main, prefetch=1, on_delivery=inbox)
        await broker.publish(job_message(broker.topology.main))
        delivery = await inbox.get()
        await subscription.close()
        with pytest.raises(DependencyUnavailable):
            await broker.ack(delivery)
        with pytest.raises(DependencyUnavailable):
            await broker.reject(delivery, requeue=True)

    async def test_an_acked_delivery_is_gone(self, broker: Broker) -> None:
        inbox = Inbox()
        subscription = await broker.consume(broker.topology.main, prefetch=1, on_delivery=inbox)
        await broker.publish(job_message(broker.topology.main, b"done"))
        await settle(broker, broker.topology.main, await inbox.get(), Ack(AckReason.SUCCEEDED))
        await subscription.close()
        heir = await consume(broker, broker.topology.main)
        await broker.publish(job_message(broker.topology.main, b"next"))
        assert (await heir.get()).body == b"next"

    async def test_a_retried_job_comes_back_with_only_its_attempt_changed(self, broker: Broker) -> None:
        main = broker.topology.main
        inbox = await consume(broker, main)
        await broker.publish(job_message(main))
        retry = RetryLater(RetryReason.DEPENDENCY_UNAVAILABLE, 0.05, 1, NOTE)
        await settle(broker, main, await inbox.get(), retry)
        back = await inbox.get()
        assert back.body == BODY.replace(b'"attempt":0', b'"attempt":1')
        assert back.properties == PROPERTIES
        assert ours(back) == HEADERS | {
            "x-retry-reason": "dependency_unavailable",
            "x-last-error": "redis: timed out",
            "x-last-error-code": "DEPENDENCY_UNAVAILABLE",
        }
        assert back.routing_key == "recommendation.generate"

    async def test_a_job_may_pass_through_the_same_retry_queue_again_and_again(self, broker: Broker) -> None:
        main = broker.topology.main
        inbox = await consume(broker, main)
        await broker.publish(job_message(main))
        for _ in range(4):
            retry = RetryLater(RetryReason.RUNNING_ELSEWHERE, 0.05)
            await settle(broker, main, await inbox.get(), retry)
        assert (await inbox.get()).body == BODY

    async def test_a_batch_job_is_retried_into_the_batch_queue(self, broker: Broker) -> None:
        batch = broker.topology.batch
        inbox = await consume(broker, batch)
        await broker.publish(job_message(batch))
        await settle(broker, batch, await inbox.get(), RetryLater(RetryReason.TIMED_OUT, 0.05, 1, NOTE))
        assert decode_job((await inbox.get()).body).attempt == 1

    async def test_a_dead_letter_keeps_every_byte_and_says_why(self, broker: Broker) -> None:
        inbox, dead = await consume(broker, broker.topology.main), await consume_dead_letters(broker)
        await broker.publish(job_message(broker.topology.main))
        note = ErrorNote("INTERNAL_ERROR", "ValueError: x", "0123456789ab")
        await settle(broker, broker.topology.main, await inbox.get(), DeadLetter(DeadLetterReason.UNEXPECTED, note))
        letter = await dead.get()
        assert (letter.body, letter.properties) == (BODY, PROPERTIES)
        assert letter.headers == HEADERS | {
            "x-dead-letter-reason": "unexpected",
            "x-dead-letter-route": "main",
            "x-last-error": "ValueError: x",
            "x-last-error-code": "INTERNAL_ERROR",
            "x-last-error-digest": "0123456789ab",
        }

    async def test_a_dead_letter_has_no_lifetime_whatever_its_job_had(self, broker: Broker) -> None:
        main = broker.topology.main
        inbox, dead = await consume(broker, main), await consume_dead_letters(broker)
        mortal = replace(job_message(main), properties=replace(PROPERTIES, expiration="60000"))
        await broker.publish(mortal)
        await settle(broker, main, await inbox.get(), DeadLetter(DeadLetterReason.INVALID, NOTE))
        assert (await dead.get()).properties == PROPERTIES

    async def test_browsing_hands_out_what_waits_and_puts_back_what_was_not_settled(self, broker: Broker) -> None:
        main = broker.topology.main
        for number in range(4):
            await broker.publish(job_message(main, str(number).encode()))
        async with broker.browse(main.queue) as deliveries:
            seen = []
            async for delivery in deliveries:
                seen.append(delivery.body)
                if delivery.body == b"1":
                    await broker.ack(delivery)
                await broker.publish(job_message(main, b"later"))
        assert seen == [b"0", b"1", b"2", b"3"]
        inbox = await consume(broker, main)
        assert [(await inbox.get()).body for _ in range(4)] == [b"0", b"2", b"3", b"later"]

    async def test_browsing_takes_no_more_than_is_asked_for(self, broker: Broker) -> None:
        main = broker.topology.main
        for number in range(3):
            await broker.publish(job_message(main, str(number).encode()))
        async with broker.browse(main.queue) as deliveries:
            assert (await anext(deliveries)).body == b"0"
            assert await broker.waiting([main.queue]) == {main.queue: 2}
        assert await emptied(broker, main.queue) == [b"0", b"1", b"2"]

    async def test_what_waits_is_counted_and_a_queue_that_is_missing_left_out(self, broker: Broker) -> None:
        main = broker.topology.main
        for _ in range(2):
            await broker.publish(job_message(main))
        assert await broker.waiting([main.queue, "no.such.queue", main.dead_letter_queue]) == {
            main.queue: 2,
            main.dead_letter_queue: 0,
        }

    async def test_a_body_that_is_no_json_is_dead_lettered_as_it_is(self, broker: Broker) -> None:
        inbox, dead = await consume(broker, broker.topology.main), await consume_dead_letters(broker)
        await broker.publish(job_message(broker.topology.main, b"\xff\x00not a job"))
        letter = DeadLetter(DeadLetterReason.INVALID, ErrorNote("INVALID_JOB", "body: 한국어"))
        await settle(broker, broker.topology.main, await inbox.get(), letter)
        delivery = await dead.get()
        assert (delivery.body, delivery.headers["x-last-error"]) == (b"\xff\x00not a job", "body: 한국어")

    async def test_copies_that_a_publisher_asked_for_are_not_made_again(self, broker: Broker) -> None:
        main = broker.topology.main
        inbox, dead = await consume(broker, main), await consume_dead_letters(broker)
        await broker.publish(replace(job_message(main), headers={"x": 1, "CC": []}))
        letter = DeadLetter(DeadLetterReason.INVALID, NOTE)
        await settle(broker, main, await inbox.get(), letter)
        assert "CC" not in (await dead.get()).headers

    @pytest.mark.parametrize("batch", [False, True])
    async def test_jobs_of_ours_are_published_as_the_backend_does(self, broker: Broker, batch: bool) -> None:
        inbox = await consume(broker, broker.topology.batch if batch else broker.topology.main)
        job = Job(job_id="ours", member_id=5, favorite_item_ids=(1, 2), requested_at_ns=1_769_860_800_000_000_001)
        await BrokerJobPublisher(broker).publish_job(job, batch=batch)
        delivery = await inbox.get()
        assert decode_job(delivery.body) == job
        assert "favoriteSongIds" in json.loads(delivery.body)
        assert delivery.properties.content_type == "application/json"
        assert delivery.properties.content_encoding == "UTF-8"

    async def test_an_event_reaches_the_events_queue_by_its_type(self, broker: Broker) -> None:
        events = broker.topology.events
        inbox = await consume(broker, events)
        await broker.publish(OutgoingMessage(exchange=events.exchange, routing_key="event.like", body=b"{}"))
        assert (await inbox.get()).routing_key == "event.like"

    async def test_health_tells_whether_it_consumes(self, broker: Broker) -> None:
        assert (broker.health().connected, broker.health().consuming) == (True, False)
        subscription = await broker.consume(broker.topology.main, prefetch=1, on_delivery=Inbox())
        assert (broker.health().connected, broker.health().consuming) == (True, True)
        await subscription.close()
        assert not broker.health().consuming
        await broker.close()
        assert not broker.health().connected


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    async def broker(self) -> AsyncIterator[Broker]:
        broker = MemoryBroker(private_topology())
        await broker.start()
        yield broker
        await broker.close()

    async def test_retry_delays_pass_on_a_clock_that_is_handed_in(self) -> None:
        waiting = []
        broker = MemoryBroker(private_topology(5, 30), call_later=lambda s, run: waiting.append((s, run)))
        main = broker.topology.main
        inbox = await consume(broker, main)
        await broker.publish(job_message(main))
        await settle(broker, main, await inbox.get(), RetryLater(RetryReason.TIMED_OUT, 30, 1))
        [(delay_s, expire)] = waiting
        assert (delay_s, len(inbox)) == (30, 0)
        assert [message.routing_key for message in broker.ready(main.retries[1].queue)] == [main.retries[1].routing_key]
        expire()
        assert decode_job((await inbox.get()).body).attempt == 1

    async def test_what_was_given_up_can_be_looked_at(self) -> None:
        broker = MemoryBroker(private_topology())
        inbox = await consume(broker, broker.topology.main)
        await broker.publish(job_message(broker.topology.main))
        await settle(broker, broker.topology.main, await inbox.get(), DeadLetter(DeadLetterReason.INVALID, NOTE))
        [letter] = broker.dead_letters()
        assert letter.headers["x-dead-letter-reason"] == "invalid"


class TestAmqpBroker(BrokerContract):
    @pytest.fixture
    async def broker(self, amqp_url: str) -> AsyncIterator[Broker]:
        broker = AmqpBroker(amqp_url, private_topology())
        await broker.start()
        yield broker
        await broker.close()
        await delete_topology(amqp_url, broker.topology)


def test_a_properties_record_names_nothing_that_a_broker_checks_against_its_user() -> None:
    assert "user_id" not in Properties.__dataclass_fields__
