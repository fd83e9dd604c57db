"""Opening Redis, and telling outages from mistakes: on real servers, and on one that answers what it is told to."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from threading import Thread
from typing import cast

import pytest
import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ResponseError

from core.errors import ConfigurationError, DependencyUnavailable
from services.redis_client import RedisScript, appendonly_enabled, open_redis, ping, redis_errors
from tests.support.private_servers import free_port
from tests.support.servers import BreakableServer
from tests.support.waiting import until

PASSWORD = "pa55word"


@contextmanager
def administered(server: BreakableServer) -> Iterator["redis.Redis"]:
    """A client that is not the one under test; what it configures is undone, since other tests use the server too."""
    with redis.Redis.from_url(server.url) as admin:
        try:
            yield admin
        finally:
            admin.replicaof("NO", "ONE")
            admin.config_set("maxmemory", 0)
            admin.config_set("min-replicas-to-write", 0)
            admin.config_set("appendonly", "yes")
            admin.acl_deluser("limited")


@contextmanager
def hanging_up() -> Iterator[str]:
    """The URL of a server that answers one command of each connection and resets it, as one that is killed does."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(1000)
                    connection.send(b"+OK\r\n")
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve)
        thread.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@asynccontextmanager
async def answering(line: str | None) -> AsyncIterator[str]:
    """The URL of a server that accepts CLIENT and SELECT, and answers all else with ``line``, or (None) never."""

    async with answering_by(lambda _: line) as url:
        yield url


@asynccontextmanager
async def answering_by(answer_to: Callable[[bytes], str | None]) -> AsyncIterator[str]:
    """The URL of a server that accepts CLIENT and SELECT, and answers any other command by its name."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            words = []
            for _ in range(int(head[1:])):
                words.append(await reader.readexactly(int((await reader.readline())[1:])))
                await reader.readexactly(2)
            greeting, line = words[0] in {b"CLIENT", b"SELECT"}, answer_to(words[0])
            if greeting or line is not None:
                writer.write(b"+OK\r\n" if greeting else f"{line}\r\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


async def is_blocked(watcher: Redis, client_id: int) -> bool:
    return any(entry["cmd"] == "blpop" for entry in await watcher.client_list(client_id=[str(client_id)]))


# --- opening ---


@pytest.mark.parametrize(
    "url",
    [
        f"amqp://:{PASSWORD}@host:5672/",
        f"host:6379?password={PASSWORD}",
        f"redis://:{PASSWORD}/with-a-slash@host:6379/0",
        f"redis://host:{PASSWORD}/0",
        f"redis://:{PASSWORD}@host/0?socket_timeout=soon",
        "",
    ],
)
async def test_a_url_that_cannot_be_used_is_a_configuration_error_without_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        async with open_redis(url, max_connections=1, timeout_s=1):
            pass
    assert "REDIS_URL" in str(caught.value)
    assert PASSWORD not in str(caught.getrepr(style="native"))


async def test_no_password_is_in_the_repr_of_a_client() -> None:
    url = f"rediss://user:{PASSWORD}@localhost:6379/0"
    async with open_redis(url, max_connections=1, timeout_s=1) as client:
        assert PASSWORD not in repr(client)


async def test_nothing_is_connected_before_the_first_command() -> None:
    async with open_redis(f"redis://127.0.0.1:{free_port()}/0", max_connections=1, timeout_s=1):
        pass


async def test_every_memory_client_is_a_redis_of_its_own() -> None:
    async with (
        open_redis("memory://", max_connections=1, timeout_s=1) as one,
        open_redis("memory://", max_connections=1, timeout_s=1) as other,
    ):
        await one.set("key", "value")
        assert await one.get("key") == b"value"
        assert await other.get("key") is None


async def test_replies_of_a_server_are_bytes(redis_url: str) -> None:
    async with open_redis(redis_url, max_connections=1, timeout_s=2) as client:
        await ping(client)
        await client.set("key", b"\xff\x00")
        assert await client.get("key") == b"\xff\x00"


# --- the pool ---


async def test_more_tasks_than_connections_wait_for_their_turn(redis_url: str) -> None:
    async with open_redis(redis_url, max_connections=2, timeout_s=5) as client:
        counts = await asyncio.gather(*(client.incr("n") for _ in range(200)))
        assert sorted(counts) == list(range(1, 201))
        database = redis_url.rpartition("/")[2]  # the server may have other users
        ours = [each for each in await client.client_list() if each["db"] == database]
        assert 1 <= len(ours) <= 2


async def test_waiting_too_long_for_a_connection_is_an_outage(redis_url: str) -> None:
    async with open_redis(redis_url, max_connections=1, timeout_s=0.1) as client:
        pool = cast("BlockingConnectionPool", client.connection_pool)
        taken = await pool.get_connection()  # type: ignore[no-untyped-call]
        with pytest.raises(DependencyUnavailable, match="No connection available"):
            await ping(client)
        await pool.release(taken)
        await ping(client)


# --- outages ---


async def test_a_server_that_is_not_there_is_an_outage() -> None:
    async with open_redis(f"redis://127.0.0.1:{free_port()}/0", max_connections=1, timeout_s=1) as client:
        with pytest.raises(DependencyUnavailable) as caught:
            await ping(client)
    assert caught.value.dependency == "redis"


async def test_a_server_that_hangs_up_between_two_steps_is_an_outage() -> None:
    with hanging_up() as url:
        async with open_redis(url, max_connections=50, timeout_s=1) as client:
            outcomes = await asyncio.gather(*(ping(client) for _ in range(50)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {DependencyUnavailable}


async def test_a_bug_in_using_the_client_stays_a_bug() -> None:
    with pytest.raises(RuntimeError, match="a bug"), redis_errors():
        raise RuntimeError("a bug")


async def test_a_server_that_does_not_answer_is_given_up_after_one_time_limit() -> None:
    async with answering(None) as url, open_redis(url, max_connections=1, timeout_s=0.5) as client:
        async with asyncio.timeout(1.4):  # each of its retries would take as long again
            with pytest.raises(DependencyUnavailable, match="Timeout"):
                await ping(client)


@pytest.mark.parametrize(
    "line",
    [
        "-LOADING Redis is loading the dataset in memory",
        "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "-NOAUTH Authentication required.",
        "-ERR max number of clients reached",
        "-OOM command not allowed when used memory > 'maxmemory'.",
        "-ERR Error running script (call to f_0): @user_script:1: -OOM command not allowed when used memory > 'max",
        "-ERR Error running script (call to f_0): @user_script:1: -READONLY You can't write against a replica",
    ],
)
async def test_what_the_state_of_the_server_forbids_is_an_outage(line: str) -> None:
    async with answering(line) as url, open_redis(url, max_connections=1, timeout_s=2) as client:
        with pytest.raises(DependencyUnavailable):
            await ping(client)


@pytest.mark.parametrize(
    "line",
    [
        "-ERR unknown command 'PONG', with args beginning with: ",
        "-WRONGTYPE Operation against a key holding the wrong kind of value",
        "-ERR user_script:1: Script attempted to access nonexistent global variable 'BUSY'",
    ],
)
async def test_a_mistake_of_ours_comes_to_light_as_it_is(line: str) -> None:
    async with answering(line) as url, open_redis(url, max_connections=1, timeout_s=2) as client:
        with pytest.raises(ResponseError):
            await ping(client)


async def test_an_error_that_is_not_of_redis_goes_through() -> None:
    with pytest.raises(ZeroDivisionError), redis_errors():
        _ = 1 / 0


async def test_a_full_memory_is_an_outage(private_redis: BreakableServer) -> None:
    async with open_redis(private_redis.url, max_connections=1, timeout_s=2) as client:
        take = RedisScript(client, "lease_take")
        with administered(private_redis) as admin:
            admin.config_set("maxmemory", 1)
            with pytest.raises(DependencyUnavailable, match="maxmemory"):
                await take(["songs_ai:lease:full"], ["token", 60_000])
        assert await take(["songs_ai:lease:full"], ["token", 60_000]) == 1


async def test_a_replica_and_a_primary_without_replicas_are_outages(private_redis: BreakableServer) -> None:
    async with open_redis(private_redis.url, max_connections=1, timeout_s=2) as client:
        take = RedisScript(client, "lease_take")
        with administered(private_redis) as admin:
            admin.config_set("min-replicas-to-write", 1)
            with pytest.raises(DependencyUnavailable, match="NOREPLICAS"):
                await take(["songs_ai:lease:a"], ["token", 60_000])
            admin.config_set("min-replicas-to-write", 0)
            admin.replicaof("127.0.0.1", str(free_port()))
            with pytest.raises(DependencyUnavailable, match="ReadOnly"):
                await take(["songs_ai:lease:a"], ["token", 60_000])


async def test_a_restarted_server_is_found_again_by_the_very_next_command(private_redis: BreakableServer) -> None:
    async with open_redis(private_redis.url, max_connections=2, timeout_s=2) as client:
        take = RedisScript(client, "lease_take")
        assert await take(["songs_ai:lease:before"], ["token", 60_000]) == 1
        await asyncio.to_thread(private_redis.restart)
        assert await take(["songs_ai:lease:after"], ["token", 60_000]) == 1


async def test_a_dead_server_is_an_outage_until_it_lives_again(private_redis: BreakableServer) -> None:
    async with open_redis(private_redis.url, max_connections=2, timeout_s=2) as client:
        await ping(client)
        await asyncio.to_thread(private_redis.kill)
        with pytest.raises(DependencyUnavailable):
            await ping(client)
        await asyncio.to_thread(private_redis.start)
        await ping(client)


async def test_a_cancelled_command_leaves_no_reply_behind_for_the_next_one(redis_url: str) -> None:
    async def wait_for_a_list(client: Redis) -> None:
        await client.blpop(["never"], timeout=4)

    async with (
        open_redis(redis_url, max_connections=1, timeout_s=5) as client,
        open_redis(redis_url, max_connections=1, timeout_s=5) as watcher,
    ):
        name = await client.client_id()
        waiting = asyncio.create_task(wait_for_a_list(client))
        await until(lambda: is_blocked(watcher, name))
        waiting.cancel()
        await asyncio.wait([waiting])
        await client.set("key", "value")
        assert await client.get("key") == b"value"


@pytest.mark.parametrize("n_steps", range(10))
@pytest.mark.parametrize("backend", ["redis", "memory"])
async def test_a_cancellation_is_not_lost_at_any_step_of_a_command(backend: str, n_steps: int, redis_url: str) -> None:
    async def ping_for_ever(client: Redis) -> None:
        while True:
            await ping(client)
            await asyncio.sleep(0)  # the one in memory never waits, from Python 3.12 on not even for a moment

    async with open_redis(redis_url if backend == "redis" else "memory://", max_connections=1, timeout_s=5) as client:
        await ping(client)
        pinging = asyncio.create_task(ping_for_ever(client))
        for _ in range(n_steps):
            await asyncio.sleep(0)
        pinging.cancel()
        await asyncio.wait([pinging], timeout=2)
        was_lost = not pinging.done()
        pinging.cancel()
        assert not was_lost


# --- scripts ---


@pytest.mark.parametrize("backend", ["redis", "memory"])
async def test_a_script_outlives_that_the_server_forgets_it(backend: str, redis_url: str) -> None:
    async with open_redis(redis_url if backend == "redis" else "memory://", max_connections=1, timeout_s=2) as client:
        take = RedisScript(client, "lease_take")
        assert await take(["songs_ai:lease:a"], ["token", 60_000]) == 1
        await client.script_flush()
        assert await take(["songs_ai:lease:b"], ["token", 60_000]) == 1


async def test_a_script_outlives_a_server_that_forgets_it_as_soon_as_it_is_loaded() -> None:
    def answer_to(command: bytes) -> str:
        return ":1" if command == b"EVAL" else "-NOSCRIPT No matching script. Please use EVAL."

    async with answering_by(answer_to) as url, open_redis(url, max_connections=1, timeout_s=2) as client:
        assert await RedisScript(client, "lease_take")(["songs_ai:lease:a"], ["token", 60_000]) == 1


# --- persistence ---


async def test_the_append_only_file_is_seen_on_and_off(private_redis: BreakableServer) -> None:
    async with open_redis(private_redis.url, max_connections=1, timeout_s=2) as client:
        with administered(private_redis) as admin:
            assert await appendonly_enabled(client) is True
            admin.config_set("appendonly", "no")
            assert await appendonly_enabled(client) is False


async def test_who_may_not_ask_for_the_append_only_file_does_not_know(private_redis: BreakableServer) -> None:
    with administered(private_redis) as admin:
        admin.acl_setuser("limited", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+ping", "+get"])
        url = private_redis.url.replace("redis://", f"redis://limited:{PASSWORD}@")
        async with open_redis(url, max_connections=1, timeout_s=2) as client:
            assert await appendonly_enabled(client) is None
            with pytest.raises(DependencyUnavailable, match="no permissions"), redis_errors():
                await client.set("key", "value")


async def test_a_wrong_password_is_an_outage_that_does_not_tell_it(private_redis: BreakableServer) -> None:
    url = private_redis.url.replace("redis://", f"redis://nobody:{PASSWORD}@")
    async with open_redis(url, max_connections=1, timeout_s=2) as client:
        with pytest.raises(DependencyUnavailable) as caught:
            await ping(client)
    assert PASSWORD not in str(caught.value)


async def test_memory_has_no_append_only_file_to_ask_for() -> None:
    async with open_redis("memory://", max_connections=1, timeout_s=1) as client:
        await ping(client)
        assert await appendonly_enabled(client) is None


async def test_asking_for_the_append_only_file_of_a_dead_server_is_an_outage() -> None:
    async with open_redis(f"redis://127.0.0.1:{free_port()}/0", max_connections=1, timeout_s=1) as client:
        with pytest.raises(DependencyUnavailable):
            await appendonly_enabled(client)
