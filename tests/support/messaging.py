"""What the messaging tests share: a topology of their own, an inbox, and a wire that can be cut."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit, urlunsplit

import aio_pika

from workers.broker import Delivery
from workers.topology import Topology, build_topology

PATIENCE_S = 10.0


def private_topology(*retry_delays_s: float) -> Topology:
    """A topology that no other test uses."""
    return build_topology(f"test.{uuid.uuid4().hex}", retry_delays_s or (0.05, 0.2))


async def delete_topology(url: str, topology: Topology) -> None:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for queue in topology.queues:
            await channel.queue_delete(queue.name)
        for exchange in topology.exchanges:
            await channel.exchange_delete(exchange.name)


async def eventually(condition: Callable[[], bool], *, within_s: float = PATIENCE_S) -> None:
    """Return once ``condition`` holds; fails after ``within_s``."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


class Inbox:
    """Takes deliveries as a consumer's ``on_delivery``."""

    def __init__(self) -> None:
        self._deliveries: asyncio.Queue[Delivery] = asyncio.Queue()

    def __call__(self, delivery: Delivery) -> None:
        self._deliveries.put_nowait(delivery)

    def __len__(self) -> int:
        return self._deliveries.qsize()

    async def get(self, *, within_s: float = PATIENCE_S) -> Delivery:
        async with asyncio.timeout(within_s):
            return await self._deliveries.get()


class Wire:
    """A TCP proxy before a server: it can be cut, held so that bytes go nowhere, and slowed down by ``delay_s``."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        credentials = self._target.netloc.rpartition("@")[0]
        return urlunsplit(self._target._replace(netloc=f"{credentials}@127.0.0.1:{self._port}"))

    async def open(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse connections, and cut those that there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        await eventually(lambda: not self._writers)

    def cut(self) -> None:
        """Reset all connections; new ones are accepted."""
        self._flowing.set()
        for writer in self._writers:
            writer.transport.abort()

    def hold(self) -> None:
        """Let no byte through, in either direction, until the wire is cut or released."""
        self._flowing.clear()

    def release(self) -> None:
        self._flowing.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await self._open_far()
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            self._writers -= {writer, far_writer}

    async def _open_far(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._target.hostname, self._target.port)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._flowing.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@contextlib.asynccontextmanager
async def open_wire(url: str) -> AsyncIterator[Wire]:
    wire = Wire(url)
    await wire.open()
    try:
        yield wire
    finally:
        await wire.close()
