"""Whether a server answers in its own protocol: the only kind of readiness that the tests trust."""

import socket
import time
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import pymysql
import redis

PROBE_TIMEOUT_S = 2.0
_AMQP_0_9_1 = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = b"\x01"
_POLL_S = 0.05

Handshake = Callable[[str], None]
"""Returns when the server at the URL answers; raises ``OSError`` or the client library's error when not."""


def amqp_handshake(url: str) -> None:
    """Send the protocol header (AMQP 0-9-1, 4.2.2) and expect Connection.Start, the broker's first method frame."""
    parts = urlsplit(url)
    address = (parts.hostname or "127.0.0.1", parts.port or 5672)
    with socket.create_connection(address, timeout=PROBE_TIMEOUT_S) as connection:
        connection.sendall(_AMQP_0_9_1)
        if connection.recv(1) != _METHOD_FRAME:
            raise ConnectionError(f"{address} does not speak AMQP 0-9-1")


def mysql_connection(url: str) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    """A connection to the server, without a database chosen."""
    parts = urlsplit(url)
    return pymysql.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or "root"),
        password=unquote(parts.password or ""),
        connect_timeout=round(PROBE_TIMEOUT_S),
        read_timeout=30,
        autocommit=True,
    )


def mysql_handshake(url: str) -> None:
    """Log in."""
    mysql_connection(url).close()


def redis_handshake(url: str) -> None:
    """PING, which a Redis that is still loading its append-only file refuses."""
    with redis.Redis.from_url(url, socket_timeout=PROBE_TIMEOUT_S, socket_connect_timeout=PROBE_TIMEOUT_S) as client:
        client.ping()


def wait_until_ready(handshake: Handshake, url: str, *, timeout_s: float, check_alive: Callable[[], None]) -> None:
    """Repeat ``handshake`` until it succeeds; ``check_alive`` raises where the server has died meanwhile.

    Raises ``TimeoutError`` with the last failure of the handshake.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return handshake(url)
        except (OSError, pymysql.Error, redis.RedisError) as error:
            check_alive()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {timeout_s:.0f} s: {error}") from error
            time.sleep(_POLL_S)
