"""Messages whose properties no library would write: none of them may end the connection, or be lost."""

import struct
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.exceptions import UnmarshalingException
from pamqp.frame import unmarshal
from pamqp.header import ContentHeader

from core.errors import NotEncodable
from tests.support.messaging import Inbox, delete_topology, private_topology
from tests.support.raw_amqp import (
    APP_ID,
    CONTENT_TYPE,
    CORRELATION_ID,
    EXPIRATION,
    HEADERS,
    REPLY_TO,
    TIMESTAMP,
    TYPE,
    long,
    nested_tables,
    publish_raw,
    short,
    table,
)
from workers.amqp_broker import AmqpBroker
from workers.amqp_properties import UNREADABLE_HEADER, forgive_unreadable_properties
from workers.broker import Delivery
from workers.disposition import DeadLetter, DeadLetterReason, ErrorNote, RetryLater, RetryReason
from workers.settlement import ERROR_HEADER, settle
from workers.topology import Route, Topology

MICROSECONDS = struct.pack(">Q", 1_769_860_800_123_456)
UNREADABLE = {
    "timestamp in microseconds": (TIMESTAMP, MICROSECONDS, "timestamp: "),
    "the greatest timestamp": (TIMESTAMP, b"\xff" * 8, "timestamp: "),
    "content type that is no UTF-8": (CONTENT_TYPE, short(b"\xff\xfe"), "content_type: "),
    "five texts that are no UTF-8": (
        CORRELATION_ID | REPLY_TO | TYPE | APP_ID,
        short(b"\xff") * 4,
        "correlation_id: ",
    ),
    "header whose name is no UTF-8": (HEADERS, table((b"\xff", b"S" + long(b"x"))), "headers: "),
    "header of the greatest timestamp": (HEADERS, table((b"a", b"T" + b"\xff" * 8)), "headers: "),
    "tables in tables in tables": (HEADERS, table((b"a", nested_tables(3000))), "headers: "),
}
READABLE = {
    "header value that is no UTF-8": table((b"a", b"S" + long(b"\xff\xfe"))),
    "header without a name": table((b"", b"S" + long(b"x"))),
    "header twice": table((b"a", b"S" + long(b"x")), (b"a", b"S" + long(b"y"))),
    "decimal, float, nothing, bytes": table(
        (b"a", b"D\x02" + struct.pack(">i", 500)),
        (b"b", b"f" + struct.pack(">f", 1.5)),
        (b"c", b"V"),
        (b"d", b"x" + long(b"\xff\0")),
    ),
    "x-death that is text": table((b"x-death", b"S" + long(b"often"))),
    "x-death that lists text": table((b"x-death", b"A" + long(b"S" + long(b"x")))),
    "x-death whose count is text": table((b"x-death", b"F" + table((b"count", b"S" + long(b"x"))))),
    "a type id that is a table": table((b"__TypeId__", b"F" + table((b"a", b"V")))),
    "nearly a frame": table((b"a", b"S" + long(b"x" * 130_000))),
}
INVALID = DeadLetter(DeadLetterReason.INVALID, ErrorNote("INVALID_JOB", "jobId: must be a string, got 1"))
AGAIN = RetryLater(RetryReason.DEPENDENCY_UNAVAILABLE, 0.05, 1, ErrorNote("DEPENDENCY_UNAVAILABLE", "redis: away"))


@pytest.fixture
async def topology(amqp_url: str) -> AsyncIterator[Topology]:
    topology = private_topology()
    yield topology
    await delete_topology(amqp_url, topology)


@pytest.fixture
async def broker(amqp_url: str, topology: Topology) -> AsyncIterator[AmqpBroker]:
    broker = AmqpBroker(amqp_url, topology)
    await broker.start()
    yield broker
    await broker.close()


async def publish(url: str, route: Route, flags: int, properties: bytes, body: bytes = b"{}") -> None:
    await publish_raw(url, route.exchange, route.routing_key, flags, properties, body)


async def delivered(broker: AmqpBroker, route: Route) -> tuple[Inbox, Delivery]:
    inbox = Inbox()
    await broker.consume(route, prefetch=4, on_delivery=inbox)
    return inbox, await inbox.get()


async def dead_letter(broker: AmqpBroker, route: Route) -> Delivery:
    return (await delivered(broker, replace(route, queue=route.dead_letter_queue)))[1]


@pytest.mark.parametrize("case", UNREADABLE)
async def test_a_message_with_properties_that_cannot_be_read_is_delivered_by_its_body_and_says_so(
    broker: AmqpBroker, amqp_url: str, case: str
) -> None:
    flags, properties, problem = UNREADABLE[case]
    await publish(amqp_url, broker.topology.main, flags, properties, b'{"jobId":"odd"}')
    inbox, odd = await delivered(broker, broker.topology.main)
    await broker.ack(odd)
    await publish(amqp_url, broker.topology.main, 0, b"", b'{"jobId":"next"}')
    assert odd.body == b'{"jobId":"odd"}'
    assert str(odd.headers[UNREADABLE_HEADER]).startswith(problem)
    assert len(str(odd.headers[UNREADABLE_HEADER])) <= 200
    following = await inbox.get()
    assert (following.body, following.redelivered) == (b'{"jobId":"next"}', False)


@pytest.mark.parametrize("case", UNREADABLE)
async def test_what_had_unreadable_properties_is_dead_lettered_with_both_reasons(
    broker: AmqpBroker, amqp_url: str, case: str
) -> None:
    main = broker.topology.main
    await publish(amqp_url, main, *UNREADABLE[case][:2])
    await settle(broker, main, (await delivered(broker, main))[1], INVALID)
    dead = await dead_letter(broker, main)
    assert dead.body == b"{}"
    assert dead.headers[ERROR_HEADER] == INVALID.error.message
    assert UNREADABLE_HEADER in dead.headers


async def test_properties_before_the_unreadable_one_are_kept(broker: AmqpBroker, amqp_url: str) -> None:
    headers = table((b"x-replayed", b"S" + long(b"1")))
    await publish(amqp_url, broker.topology.main, HEADERS | TIMESTAMP, headers + MICROSECONDS)
    _, delivery = await delivered(broker, broker.topology.main)
    assert delivery.headers.keys() == {"x-replayed", UNREADABLE_HEADER}


@pytest.mark.parametrize("case", READABLE)
@pytest.mark.parametrize("disposition", [INVALID, AGAIN], ids=["dead letter", "retry"])
async def test_odd_headers_go_along_to_whatever_queue_comes_next(
    broker: AmqpBroker, amqp_url: str, case: str, disposition: DeadLetter | RetryLater
) -> None:
    main = broker.topology.main
    await publish(amqp_url, main, HEADERS, READABLE[case])
    inbox, odd = await delivered(broker, main)
    await settle(broker, main, odd, disposition)
    again = await (inbox.get() if disposition is AGAIN else dead_letter(broker, main))
    assert again.headers[ERROR_HEADER] == disposition.error.message  # type: ignore[union-attr]
    ours = {name: value for name, value in odd.headers.items() if name != "x-death"}
    assert {name: again.headers[name] for name in ours} == ours


@pytest.mark.parametrize("depth", [50, 120, 180, 240, 300])
async def test_tables_that_can_be_read_but_perhaps_not_written_again_are_dead_lettered_all_the_same(
    broker: AmqpBroker, amqp_url: str, depth: int
) -> None:
    main = broker.topology.main
    await publish(amqp_url, main, HEADERS, table((b"a", nested_tables(depth))))
    await settle(broker, main, (await delivered(broker, main))[1], INVALID)
    assert (await dead_letter(broker, main)).body == b"{}"
    assert broker.health().connected


async def test_a_dead_letter_does_not_expire_with_the_message_that_it_was(broker: AmqpBroker, amqp_url: str) -> None:
    main = broker.topology.main
    await publish(amqp_url, main, EXPIRATION, short(b"60000"))
    _, hasty = await delivered(broker, main)
    await settle(broker, main, hasty, INVALID)
    assert hasty.properties.expiration == "60000"
    assert (await dead_letter(broker, main)).properties.expiration is None


async def test_headers_that_leave_no_room_for_the_reason_are_left_to_the_queues_own_dead_lettering(
    broker: AmqpBroker, amqp_url: str
) -> None:
    main = broker.topology.main
    await publish(amqp_url, main, HEADERS, table((b"a", b"S" + long(b"x" * 130_980))))
    inbox, odd = await delivered(broker, main)
    await settle(broker, main, odd, INVALID)
    await publish(amqp_url, main, 0, b"", b'{"jobId":"next"}')
    assert (await inbox.get()).body == b'{"jobId":"next"}'
    dead = await dead_letter(broker, main)
    assert len(str(dead.headers["a"])) == 130_980
    assert "x-death" in dead.headers


async def test_a_retry_that_no_frame_holds_is_said_to_be_impossible(broker: AmqpBroker, amqp_url: str) -> None:
    main = broker.topology.main
    await publish(amqp_url, main, HEADERS, table((b"a", b"S" + long(b"x" * 130_980))))
    with pytest.raises(NotEncodable, match=r"properties take 13\d{4} bytes, and the broker takes 131072 in a frame"):
        await settle(broker, main, (await delivered(broker, main))[1], AGAIN)
    assert broker.health().connected


# --- the library, without a broker ---


def header_frame(flags: int, properties: bytes) -> bytes:
    payload = struct.pack(">HHQH", 60, 0, 2, flags) + properties
    return struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce"


@given(st.integers(0, 0xFFFE).map(lambda flags: flags & ~1), st.binary(max_size=400))
def test_no_bytes_of_properties_end_the_reading(flags: int, properties: bytes) -> None:
    forgive_unreadable_properties()
    _, _, frame = unmarshal(header_frame(flags, properties))
    assert isinstance(frame, ContentHeader)
    assert frame.body_size == 2


@given(st.binary(max_size=200))
def test_no_bytes_of_headers_end_the_reading(content: bytes) -> None:
    forgive_unreadable_properties()
    _, _, frame = unmarshal(header_frame(HEADERS, long(content)))
    assert isinstance(frame, ContentHeader)
    assert frame.properties.headers is not None


def test_a_frame_that_is_cut_off_is_still_an_error() -> None:
    forgive_unreadable_properties()
    with pytest.raises(UnmarshalingException):
        unmarshal(struct.pack(">BHI", 2, 1, 3) + b"\0\x3c\0\xce")


def test_to_forgive_twice_is_to_forgive_once() -> None:
    forgive_unreadable_properties()
    once = ContentHeader.unmarshal
    forgive_unreadable_properties()
    assert ContentHeader.unmarshal is once
