"""Serves the application from the worker's own process and event loop."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Self

import structlog
import uvicorn
from starlette.types import ASGIApp

from api.connection import HttpLimits, LimitedConnection
from models.log_event import LogEvent

log = structlog.get_logger()

GRACE_S = 5


class _GuestServer(uvicorn.Server):
    """uvicorn as a guest: signals are its host's, and it says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, then say so."""
        await super().startup(sockets)
        self.serving.set()


class HttpServer:
    """An HTTP server on ``host`` and ``port`` (0: any free one), between ``start`` and ``stop``."""

    def __init__(self, app: ASGIApp, host: str, port: int, *, limits: HttpLimits | None = None) -> None:
        self._host = host
        self._port = port
        self._server = _GuestServer(_config(app, limits or HttpLimits()))
        self._task: asyncio.Task[None] | None = None
        self.is_on_loopback = True

    @property
    def port(self) -> int:
        """The port that is really bound, once it was started."""
        return self._port

    async def start(self) -> None:
        """Return once requests are accepted; raises ``OSError`` where the address cannot be bound."""
        listener = await _bind(self._host, self._port)
        address, self._port = listener.getsockname()[:2]
        self.is_on_loopback = ip_address(address).is_loopback
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http-server")
        serving = asyncio.create_task(self._server.serving.wait())
        try:
            await asyncio.wait({self._task, serving}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        finally:
            serving.cancel()
        if self._task.done():
            self._task.result()
        log.info(LogEvent.HTTP_STARTED, host=self._host, port=self._port)

    async def stop(self) -> None:
        """Accept nothing more, let requests end within ``GRACE_S``, then close; does nothing a second time."""
        if self._task is None:
            return
        self._server.should_exit = True
        task, self._task = self._task, None
        await task

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _config(app: ASGIApp, limits: HttpLimits) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=type("Connection", (LimitedConnection,), {"limits": limits}),  # uvicorn makes them, knowing no limits
        h11_max_incomplete_event_size=limits.max_header_bytes,
        timeout_keep_alive=limits.idle_timeout_s,
        ws="none",
        lifespan="off",
        log_config=None,  # its loggers go where all the others go
        access_log=False,  # every request is counted
        server_header=False,
        # Given, so that uvicorn does not read them from the environment.
        workers=1,
        proxy_headers=False,
        forwarded_allow_ips="",
        timeout_graceful_shutdown=GRACE_S,
    )


async def _bind(host: str, port: int) -> socket.socket:
    """A listening socket; uvicorn's own binding would end the whole process where it fails."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return socket.create_server(address[:2], family=family, backlog=2048)
