"""Clients that cost more than they should: slow ones, large ones, many, and what is no HTTP; on a real socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson
import pytest
import structlog
from starlette.types import Receive, Scope, Send

from api.connection import HttpLimits
from api.server import HttpServer
from tests.support.http_app import http_bench

HOST = "127.0.0.1"
READ_S, WRITE_S = 0.4, 0.4
LIMITS = HttpLimits(read_timeout_s=READ_S, write_timeout_s=WRITE_S, idle_timeout_s=1, max_connections=3)
PATIENCE_S = 10

REQUEST = b"POST /recommend HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
BODY = b'{"memberId": 1}'
WHOLE = REQUEST + b"Content-Length: 15\r\n\r\n" + BODY


@dataclass
class Client:
    """A client without manners."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def trickle(self, data: bytes) -> None:
        """One byte at a time, for longer than a request may take, or until the other side has had enough."""
        with contextlib.suppress(OSError, RuntimeError):  # the latter is uvloop's, of a transport that is closed
            while not self.reader.at_eof():
                for byte in data:
                    self.writer.write(bytes([byte]))
                    await self.writer.drain()
                    await asyncio.sleep(READ_S / 20)

    async def answer(self) -> tuple[int, dict[str, object]]:
        """Status and JSON of the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2]) for line in head.splitlines() if line.lower().startswith(b"content-length")
            )
            return int(head.split()[1]), orjson.loads(await self.reader.readexactly(length))

    async def closed(self) -> bytes:
        """What comes until the other side hangs up."""
        rest = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while data := await self.reader.read(65_536):
                    rest += data
        return rest


@contextlib.asynccontextmanager
async def client_of(server: HttpServer) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(HOST, server.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    async with http_bench() as bench, HttpServer(bench.app, HOST, 0, limits=LIMITS) as server:
        yield server


@contextlib.asynccontextmanager
async def keyed_server() -> AsyncIterator[HttpServer]:
    """A server that answers requests without a key before it has read their bodies."""
    async with http_bench(api_key="k") as bench, HttpServer(bench.app, HOST, 0, limits=LIMITS) as server:
        yield server


async def assert_timed_out(client: Client) -> None:
    status, body = await client.answer()
    assert (status, body["status"]) == (408, 408)
    assert f"{READ_S:g} seconds" in str(body["detail"])
    assert await client.closed() == b""


# --- slow ---


@pytest.mark.parametrize(
    "sent",
    [b"", b"P", REQUEST, REQUEST + b"Content-Length: 15\r\n\r\n", WHOLE[:-1]],
    ids=["nothing", "one byte", "half the headers", "no body", "all but a byte"],
)
async def test_a_request_that_does_not_come_whole_in_time_is_answered_408_and_closed(
    server: HttpServer, sent: bytes
) -> None:
    async with client_of(server) as client:
        client.send(sent)
        await assert_timed_out(client)


async def test_headers_that_trickle_in_gain_no_time(server: HttpServer) -> None:
    async with client_of(server) as client:
        client.send(REQUEST)
        trickling = asyncio.create_task(client.trickle(b"X-Slow: a\r\n"))
        assert b" 408 " in await client.closed()
        await trickling


async def test_a_body_that_trickles_in_gains_no_time_and_is_no_job(server: HttpServer) -> None:
    async with client_of(server) as client:
        client.send(REQUEST + b"Transfer-Encoding: chunked\r\n\r\n")
        trickling = asyncio.create_task(client.trickle(b"1\r\n \r\n"))
        assert b" 408 " in await client.closed()
        await trickling


async def test_a_second_request_on_a_connection_has_its_own_time(server: HttpServer) -> None:
    async with client_of(server) as client:
        for _ in range(3):
            client.send(WHOLE[:20])
            await asyncio.sleep(READ_S / 2)
            client.send(WHOLE[20:])
            assert (await client.answer())[0] == 200
        client.send(WHOLE[:20])
        await assert_timed_out(client)


async def test_a_connection_that_idles_between_requests_is_closed_without_a_word(server: HttpServer) -> None:
    async with client_of(server) as client:
        client.send(WHOLE)
        assert (await client.answer())[0] == 200
        assert await client.closed() == b""


async def test_requests_sent_ahead_are_all_answered(server: HttpServer) -> None:
    async with client_of(server) as client:
        client.send(WHOLE * 3 + WHOLE[:30])
        for _ in range(3):
            assert (await client.answer())[0] == 200
        await client.closed()


async def test_the_time_of_an_answer_is_not_the_time_of_its_request() -> None:
    async def slow(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(2 * READ_S)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async with HttpServer(slow, HOST, 0, limits=LIMITS) as server, client_of(server) as client:
        client.send(WHOLE)
        assert (await client.answer())[0] == 200


async def test_the_rest_of_a_body_that_was_answered_before_its_end_is_not_awaited_for_ever() -> None:
    async with keyed_server() as server, client_of(server) as client:
        client.send(REQUEST + b"Content-Length: 100000\r\n\r\n")
        assert (await client.answer())[0] == 401
        trickling = asyncio.create_task(client.trickle(b" "))
        await client.closed()
        await trickling


async def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    finished = asyncio.Event()

    async def endless(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for _ in range(1000):
                await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
        finally:
            finished.set()

    async with HttpServer(endless, HOST, 0, limits=LIMITS) as server, client_of(server) as client:
        client.send(WHOLE)
        async with asyncio.timeout(PATIENCE_S):
            await finished.wait()


async def test_a_client_that_does_not_read_the_end_of_its_answer_is_cut_off_too() -> None:
    n_bytes = 8_000_000

    async def large(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * n_bytes})

    async with HttpServer(large, HOST, 0, limits=LIMITS) as server, client_of(server) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(WHOLE)
        await asyncio.sleep(3 * WRITE_S)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await client.closed()) < n_bytes


# --- large, many, and no HTTP ---


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 40_000,
        b"GET /" + b"x" * 40_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        REQUEST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        REQUEST + b"Content-Length: 15\r\nContent-Length: 16\r\n\r\n" + BODY,
        REQUEST + b"Transfer-Encoding: chunked\r\n\r\nmany\r\n",
        REQUEST + b"Bad Header: 1\r\n\r\n",
    ],
    ids=["header", "path", "tls", "no http", "no host", "length", "two lengths", "chunk", "header name"],
)
async def test_what_is_no_request_is_answered_400_and_closed(server: HttpServer, sent: bytes) -> None:
    async with client_of(server) as client:
        client.send(sent)
        status, body = await client.answer()
        assert (status, body["title"]) == (400, "Bad Request")
        await client.closed()
    async with client_of(server) as client:
        client.send(WHOLE)
        assert (await client.answer())[0] == 200


async def test_what_turns_out_to_be_no_http_after_the_answer_cuts_the_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with keyed_server() as server, client_of(server) as client:
        client.send(REQUEST + b"Transfer-Encoding: chunked\r\n\r\n")
        assert (await client.answer())[0] == 401
        client.send(b"many\r\n")
        assert await client.closed() == b""
    assert "Traceback" not in caplog.text


async def test_a_body_beyond_a_mebibyte_is_answered_413_while_it_is_sent(server: HttpServer) -> None:
    async with client_of(server) as client:
        client.send(REQUEST + b"Content-Length: 2000000\r\n\r\n" + b" " * 2_000_000)
        assert (await client.answer())[0] == 413
        client.send(WHOLE)  # the connection still serves
        assert (await client.answer())[0] == 200


async def test_connections_beyond_the_ceiling_are_told_so_and_others_go_on(server: HttpServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(server)) for _ in range(LIMITS.max_connections)]
        for client in clients:
            client.send(WHOLE)
            assert (await client.answer())[0] == 200
        one_more = await stack.enter_async_context(client_of(server))
        status, body = await one_more.answer()
        assert (status, body["detail"]) == (503, "too many connections are open")
        assert await one_more.closed() == b""
        clients[0].send(WHOLE)
        assert (await clients[0].answer())[0] == 200
        clients[0].writer.transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with client_of(server) as next_one:
                    next_one.send(WHOLE)
                    if (await next_one.answer())[0] == 200:
                        break


async def test_many_slow_clients_keep_nobody_else_waiting() -> None:
    limits = HttpLimits(read_timeout_s=PATIENCE_S, max_connections=200)
    async with (
        http_bench() as bench,
        HttpServer(bench.app, HOST, 0, limits=limits) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(150):
            slow = await stack.enter_async_context(client_of(server))
            slow.send(REQUEST)
        async with asyncio.timeout(5), client_of(server) as quick:
            quick.send(WHOLE)
            assert (await quick.answer())[0] == 200


async def test_a_server_stops_in_time_with_slow_clients_connected(server: HttpServer) -> None:
    async with client_of(server) as client:
        client.send(REQUEST + b"Content-Length: 15\r\n\r\n")
        with structlog.testing.capture_logs():
            async with asyncio.timeout(PATIENCE_S):
                await server.stop()
