"""A TCP proxy before RabbitMQ that knows AMQP's frames, and cuts a connection in the middle of a chosen one.

Frames by the AMQP 0-9-1 specification, 2.3.5: type, channel and size, then the payload, then one end octet; the payload
of a method frame begins with the numbers of class and method.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

_HEAD = struct.Struct(">BHI")
_METHOD = struct.Struct(">HH")
_METHOD_FRAME = 1
_PROTOCOL_HEADER_BYTES = 8


class Frame(Enum):
    """A method frame: whether it is the client's, its class and its method."""

    ACK = (True, 60, 80)
    PUBLISH = (True, 60, 40)
    CONFIRM = (False, 60, 80)
    DELIVERY = (False, 60, 60)


@dataclass(eq=False)
class _Trap:
    """Cuts the connection in the middle of ``at``, on the first one that has carried ``after``."""

    at: Frame
    after: Frame | None
    sprung: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Connection:
    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    carried: set[Frame] = field(default_factory=set)

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class FrameWire:
    """Passes frames on to the broker at ``url``; ``keeps_acks``: but for the clients' acks, which it swallows."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._trap: _Trap | None = None
        self.port = 0
        self.keeps_acks = False
        self.n_acks_kept = 0

    @property
    def url(self) -> str:
        """What clients connect to instead."""
        return self._target._replace(netloc=f"guest:guest@127.0.0.1:{self.port}").geturl()

    @property
    def n_connections(self) -> int:
        """Connections at this moment."""
        return len(self._connections)

    async def open(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse connections, and cut those that there are."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cut()
        while self._connections:  # noqa: ASYNC110 - they end by themselves
            await asyncio.sleep(0.01)

    async def cut_in_mid_frame(self, at: Frame, *, after: Frame | None = None, within_s: float) -> bool:
        """Cut the next connection that carries ``at`` (once it has carried ``after``) in the middle of that frame.

        False where none came ``within_s``.
        """
        trap = self._trap = _Trap(at, after)
        for connection in self._connections:
            connection.carried.clear()
        try:
            async with asyncio.timeout(within_s):
                await trap.sprung.wait()
        except TimeoutError:
            return False
        finally:
            self._trap = None
        return True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection((writer, far_writer))
        self._connections.add(connection)
        try:
            await asyncio.gather(
                self._pass_on(connection, reader, far_writer, is_client=True),
                self._pass_on(connection, far_reader, writer, is_client=False),
            )
        finally:
            self._connections.discard(connection)

    async def _pass_on(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if is_client:
                writer.write(await reader.readexactly(_PROTOCOL_HEADER_BYTES))
            while True:
                head = await reader.readexactly(_HEAD.size)
                kind, _, size = _HEAD.unpack(head)
                body = await reader.readexactly(size + 1)
                frame = _frame(body, is_client=is_client) if kind == _METHOD_FRAME else None
                if frame is Frame.ACK and self.keeps_acks:
                    self.n_acks_kept += 1
                    continue
                await self._write(connection, writer, head + body, frame)
        connection.cut()

    async def _write(
        self, connection: _Connection, writer: asyncio.StreamWriter, data: bytes, frame: Frame | None
    ) -> None:
        trap = self._trap
        if trap is not None and frame is trap.at and (trap.after is None or trap.after in connection.carried):
            self._trap = None
            writer.write(data[: len(data) // 2])
            await writer.drain()
            connection.cut()
            trap.sprung.set()
            raise ConnectionAbortedError
        if frame is not None:
            connection.carried.add(frame)
        writer.write(data)
        await writer.drain()


_FRAMES = {frame.value: frame for frame in Frame}


def _frame(payload: bytes, *, is_client: bool) -> Frame | None:
    return _FRAMES.get((is_client, *_METHOD.unpack(payload[: _METHOD.size])))


@contextlib.asynccontextmanager
async def open_frame_wire(url: str) -> AsyncIterator[FrameWire]:
    """A wire to the broker at ``url``, closed at the end."""
    wire = FrameWire(url)
    await wire.open()
    try:
        yield wire
    finally:
        await wire.close()
