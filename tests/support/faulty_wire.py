"""A TCP proxy before a real server that stalls or cuts everything at a test's word."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit


class FaultyWire:
    """Passes bytes on to the server at ``url``, of any scheme."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._port = 0

    @property
    def url(self) -> str:
        """That of the server, but through the wire."""
        user, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{user}{at}127.0.0.1:{self._port}"))

    async def start(self) -> None:
        """Listen, at the port of before where it was cut."""
        self._server = await asyncio.start_server(self._joined, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse all connections, and end those there are."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        self._server = None

    @contextlib.asynccontextmanager
    async def stalled(self) -> AsyncIterator[None]:
        """Hold all answers back inside of the block, and let them go at its end."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, theirs[1]}
        await asyncio.gather(self._pass_on(reader, theirs[1]), self._pass_on(theirs[0], writer, may_stall=True))

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, may_stall: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if may_stall:
                    await self._flows.wait()
                sink.write(data)
                await sink.drain()
        self._writers.discard(sink)
        sink.close()


@contextlib.asynccontextmanager
async def faulty_wire(url: str) -> AsyncIterator[FaultyWire]:
    wire = FaultyWire(url)
    await wire.start()
    try:
        yield wire
    finally:
        await wire.cut()
