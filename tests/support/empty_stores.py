"""A store of its own for each test, on servers that other tests, or other people, use at the same time."""

import contextlib
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import redis

from tests.support.handshakes import mysql_connection

_CLAIM_TTL_S = 600
# a test that leaves a transaction open fails here, instead of blocking the drop for MySQL's default of a year
_LOCK_WAIT_S = 10


@contextlib.contextmanager
def empty_database(server_url: str) -> Iterator[str]:
    """The URL of a new database on that server, which is dropped at the end."""
    url = urlsplit(server_url)._replace(scheme="mysql", path=f"/test_{uuid.uuid4().hex[:12]}").geturl()
    recreate_database(url)
    try:
        yield url
    finally:
        _execute(url, "DROP DATABASE {}")


def recreate_database(url: str) -> None:
    """Drop the database that ``url`` names, if it is there, and create it empty."""
    _execute(url, "DROP DATABASE IF EXISTS {}", "CREATE DATABASE {} CHARACTER SET utf8mb4")


def _execute(url: str, *statements: str) -> None:
    name = urlsplit(url).path.strip("/")
    with contextlib.closing(mysql_connection(url)) as connection, connection.cursor() as cursor:
        for statement in (f"SET SESSION lock_wait_timeout = {_LOCK_WAIT_S}", *statements):
            cursor.execute(statement.format(f"`{name}`"))


@contextlib.contextmanager
def empty_logical_database(server_url: str) -> Iterator[str]:
    """The URL of a logical database that was empty, claimed for this test, flushed at the end.

    A given server may hold somebody's data, so one that is not empty is never taken, nor is number 0, which holds the
    claims. Raises ``RuntimeError`` where none is left.
    """
    with redis.Redis.from_url(_numbered(server_url, 0)) as claims:
        number = _claim(claims)
        url = _numbered(server_url, number)
        try:
            yield url
        finally:
            with redis.Redis.from_url(url) as client:
                client.flushdb()
            claims.delete(_claim_key(number))


def flush(url: str) -> None:
    """Empty a Redis that belongs to the tests."""
    with redis.Redis.from_url(url) as client:
        client.flushall()


def _claim(claims: redis.Redis) -> int:
    n_databases = int(str(claims.config_get("databases")["databases"]))
    for number in range(1, n_databases):
        free = f"db{number}" not in claims.info("keyspace")
        if free and claims.set(_claim_key(number), "taken", nx=True, ex=_CLAIM_TTL_S):
            return number
    raise RuntimeError(f"none of the Redis server's databases 1 to {n_databases - 1} is both empty and unclaimed")


def _claim_key(number: int) -> str:
    return f"songs-ai-tests:claim:{number}"


def _numbered(url: str, number: int) -> str:
    return urlsplit(url)._replace(path=f"/{number}").geturl()
