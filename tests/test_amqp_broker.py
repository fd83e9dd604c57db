"""What only a real broker, and a wire that breaks, can do to us."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit, urlunsplit

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from core.errors import ConfigurationError, DependencyUnavailable, NotEncodable, PublishRefused
from tests.support.messaging import Inbox, Wire, delete_topology, eventually, open_wire, private_topology
from tests.support.servers import BreakableServer
from tests.support.waiting import until
from workers.amqp_broker import AmqpBroker
from workers.amqp_connection import AmqpConnection, AmqpTimings
from workers.broker import OutgoingMessage, Properties, Unroutable
from workers.topology import Topology, declare

FAST = AmqpTimings(
    heartbeat_s=1, call_timeout_s=2.0, confirm_timeout_s=2.0, retry_interval_s=0.05, watchdog_interval_s=0.1
)


@dataclass
class Rig:
    """A broker of ours behind a wire, and a channel of the operator's that goes past it."""

    broker: AmqpBroker
    wire: Wire
    operator: AbstractChannel
    url: str

    @property
    def topology(self) -> Topology:
        return self.broker.topology

    async def consume(self) -> Inbox:
        inbox = Inbox()
        await self.broker.consume(self.topology.main, prefetch=10, on_delivery=inbox)
        return inbox

    def message(self, body: bytes = b"{}", message_id: str | None = None) -> OutgoingMessage:
        main = self.topology.main
        properties = Properties(message_id=message_id)
        return OutgoingMessage(exchange=main.exchange, routing_key=main.routing_key, body=body, properties=properties)

    async def consuming(self) -> None:
        await eventually(lambda: self.broker.health().consuming)

    def consumer(self) -> object:
        """The consumer in force: another one after it was lost, however short the gap was."""
        [subscription] = self.broker._subscriptions
        return subscription._consumer

    async def consuming_anew(self, before: object) -> None:
        await eventually(lambda: self.consumer() is not before and self.broker.health().consuming)

    async def not_consuming(self) -> None:
        await eventually(lambda: not self.broker.health().consuming)


@pytest.fixture
async def rig(amqp_url: str) -> AsyncIterator[Rig]:
    async with open_wire(amqp_url) as wire, await aio_pika.connect(amqp_url) as connection:
        broker = AmqpBroker(wire.url, private_topology(), timings=FAST)
        await broker.start()
        yield Rig(broker, wire, await connection.channel(), amqp_url)
        wire.release()
        await broker.close()
        await delete_topology(amqp_url, broker.topology)


# --- losing the connection ---


async def test_a_cut_connection_comes_back_and_unsettled_deliveries_with_it(rig: Rig) -> None:
    inbox = await rig.consume()
    await rig.broker.publish(rig.message(b"1"))
    old = await inbox.get()
    rig.wire.cut()
    again = await inbox.get()
    assert (again.body, again.redelivered) == (b"1", True)
    with pytest.raises(DependencyUnavailable):
        await rig.broker.ack(old)
    await rig.broker.ack(again)
    await rig.consuming()
    assert rig.broker.health().connected


async def test_health_says_that_a_broker_is_away(rig: Rig) -> None:
    await rig.consume()
    await rig.wire.close()
    await rig.not_consuming()
    await eventually(lambda: not rig.broker.health().connected)
    assert rig.broker.health().reason == "not connected to the broker"
    await rig.wire.open()
    await rig.consuming()


async def test_a_wire_that_holds_everything_is_noticed_by_the_heartbeat_and_ends_what_waits(rig: Rig) -> None:
    inbox = await rig.consume()
    await rig.broker.publish(rig.message(b"before"))
    await inbox.get()
    rig.broker._publishing.timings = replace(FAST, confirm_timeout_s=60)
    rig.wire.hold()
    publishing = asyncio.create_task(rig.broker.publish(rig.message(b"held")))
    await eventually(lambda: not rig.broker.health().connected, within_s=15)
    with pytest.raises(PublishRefused):  # and no CancelledError, with which aiormq ends what waits here
        await publishing
    rig.wire.cut()
    await rig.consuming()
    await rig.broker.publish(rig.message(b"after"))
    while (await inbox.get()).body != b"after":
        pass


async def test_a_publish_waits_for_a_connection_that_is_coming_back(rig: Rig) -> None:
    inbox = await rig.consume()
    await rig.wire.close()
    await eventually(lambda: not rig.broker.health().connected)
    publishing = asyncio.create_task(rig.broker.publish(rig.message(b"late")))
    await asyncio.sleep(0)
    assert not publishing.done()
    await rig.wire.open()
    await publishing
    assert (await inbox.get()).body == b"late"


async def test_a_publish_that_is_not_confirmed_in_time_is_refused(rig: Rig) -> None:
    await rig.broker.publish(rig.message())
    rig.broker._publishing.timings = replace(FAST, confirm_timeout_s=0.1)
    rig.wire.hold()
    with pytest.raises(PublishRefused, match="not confirmed within"):
        await rig.broker.publish(rig.message())


async def test_a_publish_cut_in_mid_flight_is_refused_and_not_taken_for_a_cancellation(rig: Rig) -> None:
    await rig.broker.publish(rig.message())
    rig.wire.hold()
    publishing = asyncio.create_task(rig.broker.publish(rig.message()))
    await asyncio.sleep(0)
    rig.wire.cut()
    with pytest.raises(PublishRefused):
        await publishing
    assert not publishing.cancelled()


async def test_a_cancelled_publish_is_cancelled(rig: Rig) -> None:
    await rig.broker.publish(rig.message())
    rig.wire.hold()
    publishing = asyncio.create_task(rig.broker.publish(rig.message()))
    await asyncio.sleep(0)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing


async def test_consumption_goes_on_after_a_broker_restart(private_rabbitmq: BreakableServer) -> None:
    broker = AmqpBroker(private_rabbitmq.url, private_topology())
    await broker.start()
    inbox = Inbox()
    await broker.consume(broker.topology.main, prefetch=10, on_delivery=inbox)
    main = broker.topology.main
    await broker.publish(OutgoingMessage(exchange=main.exchange, routing_key=main.routing_key, body=b"before"))
    await inbox.get()
    await asyncio.to_thread(private_rabbitmq.restart)
    again = await inbox.get(within_s=15)
    assert (again.body, again.redelivered) == (b"before", True)
    await broker.publish(OutgoingMessage(exchange=main.exchange, routing_key=main.routing_key, body=b"after"))
    assert (await inbox.get()).body == b"after"
    await broker.close()


# --- losing queues and consumers ---


async def test_a_deleted_queue_is_declared_again_and_consumed(rig: Rig) -> None:
    inbox = await rig.consume()
    before = rig.consumer()
    await rig.operator.queue_delete(rig.topology.main.queue)
    await rig.consuming_anew(before)
    await rig.broker.publish(rig.message(b"new"))
    assert (await inbox.get()).body == b"new"


async def test_a_queue_deleted_and_created_again_is_consumed_once(rig: Rig) -> None:
    inbox = await rig.consume()
    before = rig.consumer()
    await rig.operator.queue_delete(rig.topology.main.queue)
    await declare(rig.operator, rig.topology)
    await rig.consuming_anew(before)
    assert await rig.broker._connection.n_consumers(rig.topology.main.queue) == 1
    await rig.broker.publish(rig.message(b"new"))
    assert (await inbox.get()).body == b"new"


async def test_a_passive_worker_waits_until_somebody_creates_the_queue(rig: Rig) -> None:
    passive = AmqpBroker(rig.url, rig.topology, topology_mode="passive", timings=FAST)
    await passive.start()
    inbox = Inbox()
    await passive.consume(rig.topology.main, prefetch=1, on_delivery=inbox)
    await rig.operator.queue_delete(rig.topology.main.queue)
    await eventually(lambda: "does not exist" in passive.health().reason)
    await declare(rig.operator, rig.topology)
    await eventually(lambda: passive.health().consuming)
    await rig.broker.publish(rig.message(b"new"))
    assert (await inbox.get()).body == b"new"
    await passive.close()


async def test_a_consumer_that_the_broker_forgot_is_replaced(rig: Rig) -> None:
    inbox = await rig.consume()
    before = rig.consumer()
    [subscription] = rig.broker._subscriptions
    assert subscription._consumer is not None
    underlay = await subscription._consumer.channel.get_underlay_channel()
    await underlay.basic_cancel(subscription._consumer.tag)  # as if it had been lost in silence
    await rig.consuming_anew(before)
    await rig.broker.publish(rig.message(b"new"))
    assert (await inbox.get()).body == b"new"


async def test_a_queue_created_again_with_other_arguments_stops_the_worker_and_is_named_in_health(rig: Rig) -> None:
    await rig.consume()
    name = rig.topology.main.retries[0].queue
    await rig.operator.queue_delete(name)
    await rig.operator.declare_queue(name, durable=True)
    rig.wire.cut()
    await eventually(lambda: f"queue '{name}': argument 'x-message-ttl'" in rig.broker.health().reason)
    assert not rig.broker.health().consuming
    await rig.operator.queue_delete(name)
    await rig.consuming()


async def test_a_deleted_retry_queue_is_declared_again_by_the_publish_that_misses_it(rig: Rig) -> None:
    step = rig.topology.main.retries[0]
    inbox = await rig.consume()
    await rig.operator.queue_delete(step.queue)
    message = replace(rig.message(b"x"), exchange=rig.topology.main.dead_letter_exchange, routing_key=step.routing_key)
    await rig.broker.publish(message)
    assert (await inbox.get()).body == b"x"


async def test_a_deleted_exchange_is_declared_again_by_the_publish_that_misses_it(rig: Rig) -> None:
    inbox = await rig.consume()
    await rig.operator.exchange_delete(rig.topology.main.exchange)
    await rig.broker.publish(rig.message(b"x"))
    assert (await inbox.get()).body == b"x"


async def test_a_passive_worker_declares_nothing_when_a_publish_is_returned(rig: Rig) -> None:
    passive = AmqpBroker(rig.url, rig.topology, topology_mode="passive", timings=FAST)
    await passive.start()
    await rig.operator.queue_delete(rig.topology.main.queue)
    with pytest.raises(Unroutable, match="NO_ROUTE"):
        await passive.publish(rig.message())
    await passive.close()


async def test_of_two_messages_with_one_id_the_lost_one_is_not_taken_for_confirmed(rig: Rig) -> None:
    good = rig.message(message_id="same")
    lost = replace(good, routing_key="no.such.key")
    outcomes = await asyncio.gather(
        *(rig.broker.publish(message) for message in (lost, good, lost, good)), return_exceptions=True
    )
    assert [isinstance(outcome, Unroutable) for outcome in outcomes] == [True, False, True, False]


async def test_messages_of_ours_survive_a_broker_restart(rig: Rig) -> None:
    await rig.broker.publish(rig.message())
    queue = await rig.operator.get_queue(rig.topology.main.queue)
    message = await queue.get(no_ack=True)
    assert message.delivery_mode is aio_pika.DeliveryMode.PERSISTENT


@pytest.fixture
def channels_opened(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One for each channel that is opened from now on: whether it confirms."""
    opened: list[bool] = []
    open_channel = AmqpConnection.open_channel

    async def counted(connection: AmqpConnection, *, confirms: bool) -> aio_pika.Channel:
        opened.append(confirms)
        return await open_channel(connection, confirms=confirms)

    monkeypatch.setattr(AmqpConnection, "open_channel", counted)
    return opened


async def test_many_looks_at_queues_open_no_more_channels_than_one(rig: Rig, channels_opened: list[bool]) -> None:
    main = rig.topology.main
    for _ in range(20):
        counts = await rig.broker.waiting([main.queue, main.dead_letter_queue])
        assert counts == {main.queue: 0, main.dead_letter_queue: 0}
    assert channels_opened == [False]


async def test_a_consumer_that_is_watched_opens_no_more_channels_than_its_own_and_one(
    rig: Rig, channels_opened: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    n_consumers = AmqpConnection.n_consumers

    async def counted(connection: AmqpConnection, queue: str) -> int:
        looked.append(await n_consumers(connection, queue))
        return looked[-1]

    monkeypatch.setattr(AmqpConnection, "n_consumers", counted)
    await rig.consume()
    await eventually(lambda: len(looked) > 10)
    assert set(looked) == {1}
    assert channels_opened == [False, False]


async def test_queues_are_looked_at_again_after_the_connection_was_cut(rig: Rig) -> None:
    main = rig.topology.main
    assert await rig.broker.waiting([main.queue]) == {main.queue: 0}
    rig.wire.cut()

    async def is_answered() -> bool:
        try:
            return await rig.broker.waiting([main.queue]) == {main.queue: 0}
        except DependencyUnavailable:
            return False

    await until(is_answered)


@pytest.mark.parametrize("header", [object(), {"nested": object()}, 2**70])
async def test_headers_that_cannot_be_written_are_refused_and_the_next_publish_is_not(rig: Rig, header: object) -> None:
    with pytest.raises(NotEncodable, match="cannot be written"):
        await rig.broker.publish(rig.message().with_headers({"x": header}))
    await rig.broker.publish(rig.message())


async def test_header_bytes_that_are_no_text_go_out_as_they_are(rig: Rig) -> None:
    await rig.broker.publish(rig.message().with_headers({"x": b"\xff"}))
    message = await (await rig.operator.get_queue(rig.topology.main.queue)).get(no_ack=True)
    assert message.headers["x"] == b"\xff"


# --- starting ---


async def test_a_broker_that_comes_up_late_is_waited_for(amqp_url: str) -> None:
    async with open_wire(amqp_url) as wire:
        await wire.close()
        broker = AmqpBroker(wire.url, private_topology(), timings=FAST)
        starting = asyncio.create_task(broker.start(within_s=10))
        await asyncio.sleep(0.1)
        assert not starting.done()
        await wire.open()
        await starting
        assert broker.health().connected
        await broker.close()
    await delete_topology(amqp_url, broker.topology)


async def test_a_broker_that_stays_away_ends_the_start_in_time(amqp_url: str) -> None:
    async with open_wire(amqp_url) as wire:
        await wire.close()
        broker = AmqpBroker(wire.url, private_topology(), timings=FAST)
        with pytest.raises(DependencyUnavailable, match=r"no connection within 0\.2 s"):
            await broker.start(within_s=0.2)
        assert not broker.health().connected


def changed(url: str, *, password: str | None = None, path: str | None = None) -> str:
    parts = urlsplit(url)
    netloc = parts.netloc
    if password is not None:
        netloc = f"{parts.username}:{password}@{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=netloc, path=parts.path if path is None else path))


async def test_wrong_credentials_are_a_matter_of_configuration_and_never_shown(amqp_url: str) -> None:
    broker = AmqpBroker(changed(amqp_url, password="s3cret-wrong"), private_topology(), timings=FAST)
    with pytest.raises(ConfigurationError, match=r"BROKER_URL.*password") as caught:
        await broker.start()
    assert "s3cret" not in str(caught.value)


async def test_a_virtual_host_that_is_not_there_is_a_matter_of_configuration(amqp_url: str) -> None:
    broker = AmqpBroker(changed(amqp_url, path="/no-such-vhost"), private_topology(), timings=FAST)
    with pytest.raises(ConfigurationError, match=r"BROKER_URL.*no-such-vhost"):
        await broker.start()


async def test_a_refused_topology_ends_the_start_and_the_connection(amqp_url: str) -> None:
    broker = AmqpBroker(amqp_url, private_topology(), topology_mode="passive", timings=FAST)
    with pytest.raises(ConfigurationError, match="does not exist"):
        await broker.start()
    assert not broker.health().connected


async def test_publishing_before_the_start_is_refused() -> None:
    broker = AmqpBroker("amqp://127.0.0.1:1/", private_topology())
    with pytest.raises(PublishRefused, match="not connected"):
        await broker.publish(OutgoingMessage(exchange="e", routing_key="k", body=b""))


async def test_closing_twice_is_harmless(rig: Rig) -> None:
    await rig.consume()
    await rig.broker.close()
    await rig.broker.close()
    assert not rig.broker.health().connected
