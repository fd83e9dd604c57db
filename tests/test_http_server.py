"""Serving from the process and event loop of a host: a real socket, no signals, a graceful end."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator

import httpx
import orjson
import pytest
import structlog
from starlette.types import Receive, Scope, Send

from api.server import HttpServer
from tests.support.http_app import http_bench

HOST = "127.0.0.1"


class Hello:
    """An application that answers, and can be told to wait before it does."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        self.entered.set()
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"hi"})


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        yield client


def url_of(server: HttpServer, path: str = "/") -> str:
    return f"http://{HOST}:{server.port}{path}"


async def test_it_binds_any_free_port_and_serves_the_application(client: httpx.AsyncClient) -> None:
    async with http_bench() as bench, HttpServer(bench.app, HOST, 0) as server:
        assert server.port > 0
        live = await client.get(url_of(server, "/health/live"))
        queued = await client.post(url_of(server, "/recommend"), json={"memberId": "42"})
    assert (live.status_code, live.json()) == (200, {"status": "ok"})
    assert queued.json()["status"] == "queued"
    assert "server" not in live.headers
    assert [job.member_id for job in bench.publisher.main] == [42]


async def test_it_serves_as_soon_as_it_was_started_and_no_more_once_stopped(client: httpx.AsyncClient) -> None:
    server = HttpServer(Hello(), HOST, 0)
    await server.start()
    assert (await client.get(url_of(server))).text == "hi"
    await server.stop()
    with pytest.raises(httpx.ConnectError):
        await client.get(url_of(server))


async def test_a_request_under_way_is_answered_before_it_stops(client: httpx.AsyncClient) -> None:
    app = Hello()
    app.may_answer.clear()
    server = HttpServer(app, HOST, 0)
    await server.start()
    request = asyncio.create_task(client.get(url_of(server)))
    await asyncio.wait_for(app.entered.wait(), 5)
    stopping = asyncio.create_task(server.stop())
    done, _ = await asyncio.wait({stopping}, timeout=0.05)
    assert not done
    app.may_answer.set()
    assert (await request).text == "hi"
    await asyncio.wait_for(stopping, 5)


async def test_an_idle_connection_does_not_hold_the_stop_up(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(4):
        async with HttpServer(Hello(), HOST, 0) as server:
            reader, writer = await asyncio.open_connection(HOST, server.port)
            assert (await client.get(url_of(server))).status_code == 200
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_to_stop_twice_or_unstarted_does_nothing() -> None:
    server = HttpServer(Hello(), HOST, 0)
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()


async def test_a_port_in_use_is_an_error_and_not_the_end_of_the_process() -> None:
    async with HttpServer(Hello(), HOST, 0) as first:
        with pytest.raises(OSError, match="in use"):
            await HttpServer(Hello(), HOST, first.port).start()


async def test_the_port_is_free_again_after_the_stop(client: httpx.AsyncClient) -> None:
    async with HttpServer(Hello(), HOST, 0) as first:
        await client.get(url_of(first))
    async with HttpServer(Hello(), HOST, first.port) as second:
        assert (await client.get(url_of(second))).status_code == 200


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
async def test_an_ipv6_address_is_bound_too(client: httpx.AsyncClient) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 address here")
    async with HttpServer(Hello(), "::1", 0) as server:
        assert (await client.get(f"http://[::1]:{server.port}/")).text == "hi"


async def test_an_unexpected_error_reaches_the_client_as_a_problem_over_the_wire(client: httpx.AsyncClient) -> None:
    class Broken:
        async def cached_view(self, _member_id: int) -> bytes:
            raise ZeroDivisionError

    async with http_bench(results=Broken()) as bench, HttpServer(bench.app, HOST, 0) as server:
        with structlog.testing.capture_logs():
            response = await client.post(url_of(server, "/recommend/cached"), json={"memberId": 1})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"


async def test_signals_stay_with_the_host(client: httpx.AsyncClient) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    async with HttpServer(Hello(), HOST, 0) as server:
        await client.get(url_of(server))
        assert {number: signal.getsignal(number) for number in before} == before
    assert {number: signal.getsignal(number) for number in before} == before


SCRIPT = """
import asyncio, signal, sys
import uvloop
from api.server import HttpServer
from services.logs import configure_logging

configure_logging("INFO", "json")

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hi"})

async def main():
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with HttpServer(app, "127.0.0.1", 0) as server:
        print(server.port, flush=True)
        await told.wait()
    print("stopped", flush=True)

with asyncio.Runner(loop_factory=%s) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("loop_factory", ["uvloop.new_event_loop", "asyncio.new_event_loop"])
async def test_a_process_ends_by_its_hosts_signal_alone_without_warnings(
    client: httpx.AsyncClient, loop_factory: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", SCRIPT % loop_factory,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            port = int(await process.stdout.readline())
            assert (await client.get(f"http://{HOST}:{port}/")).text == "hi"
            process.terminate()
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert (out, process.returncode) == (b"stopped\n", 0), err
    assert [orjson.loads(line)["event"] for line in err.splitlines()] == ["http_started"]
