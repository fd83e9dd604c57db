"""Publishes what no client library would write: a message whose properties are any bytes, over a bare socket.

The frames are those of AMQP 0-9-1 (https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, 2.3 and 4.2).
"""

import asyncio
import struct
from urllib.parse import unquote, urlsplit

_METHOD, _HEADER, _BODY = 1, 2, 3
_ACK = (60, 80)

TIMESTAMP, EXPIRATION, HEADERS, CONTENT_TYPE = 0x0040, 0x0100, 0x2000, 0x8000
CORRELATION_ID, REPLY_TO, TYPE, APP_ID = 0x0400, 0x0200, 0x0020, 0x0008


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def long(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def table(*fields: tuple[bytes, bytes]) -> bytes:
    """A field table of names and values, each value with its type's letter in front."""
    return long(b"".join(short(name) + value for name, value in fields))


def nested_tables(depth: int) -> bytes:
    value = b"S" + long(b"x")
    for _ in range(depth):
        value = b"F" + table((b"k", value))
    return value


async def publish_raw(url: str, exchange: str, routing_key: str, flags: int, properties: bytes, body: bytes) -> None:
    """Publish and wait for the confirm; raises ``AssertionError`` where the broker will not take it."""
    target = urlsplit(url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    wire = _Wire(reader, writer)
    try:
        await wire.log_in(target.username or "guest", target.password or "guest", unquote(target.path[1:]) or "/")
        wire.method(1, (85, 10), b"\0")
        await wire.answer()
        wire.method(1, (60, 40), b"\0\0" + short(exchange.encode()) + short(routing_key.encode()) + b"\0")
        wire.frame(_HEADER, 1, struct.pack(">HHQH", 60, 0, len(body), flags) + properties)
        wire.frame(_BODY, 1, body)
        answer = await wire.answer()
        assert struct.unpack(">HH", answer[:4]) == _ACK, answer
    finally:
        writer.close()


class _Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def log_in(self, user: str, password: str, vhost: str) -> None:
        self._writer.write(b"AMQP\0\0\x09\x01")
        await self.answer()
        plain = f"\0{user}\0{password}".encode()
        self.method(0, (10, 11), long(b"") + short(b"PLAIN") + long(plain) + short(b"en_US"))
        tune = await self.answer()
        self.method(0, (10, 31), tune[4:10] + b"\0\0")
        self.method(0, (10, 40), short(vhost.encode()) + short(b"") + b"\0")
        await self.answer()
        self.method(1, (20, 10), short(b""))
        await self.answer()

    def method(self, channel: int, index: tuple[int, int], arguments: bytes) -> None:
        self.frame(_METHOD, channel, struct.pack(">HH", *index) + arguments)

    def frame(self, kind: int, channel: int, payload: bytes) -> None:
        self._writer.write(struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce")

    async def answer(self) -> bytes:
        async with asyncio.timeout(10):
            _, _, n = struct.unpack(">BHI", await self._reader.readexactly(7))
            return (await self._reader.readexactly(n + 1))[:-1]
