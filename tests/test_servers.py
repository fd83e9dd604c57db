"""The harness itself: what the other tests stand on."""

import asyncio
import uuid
from urllib.parse import urlsplit

import aio_pika
import pymysql
import pytest
import redis
import redis.asyncio

from tests.support.empty_stores import empty_database, empty_logical_database
from tests.support.handshakes import amqp_handshake, mysql_connection
from tests.support.servers import BreakableServer


async def test_the_broker_takes_a_message_and_gives_it_back(amqp_url: str) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await channel.default_exchange.publish(aio_pika.Message(b"hello"), queue.name)
        message = await queue.get(timeout=10)
        assert message.body == b"hello"
        await message.ack()


def test_two_mysql_databases_are_empty_and_apart(mysql_url: str) -> None:
    with empty_database(mysql_url) as other:
        assert urlsplit(other).path != urlsplit(mysql_url).path
        with mysql_connection(mysql_url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = %s", (_name(other),))
            assert cursor.fetchone() == (0,)


def test_a_mysql_database_is_dropped_after_its_test_and_takes_any_script(mysql_url: str) -> None:
    with empty_database(mysql_url) as url, mysql_connection(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE `{_name(url)}`.song (title TEXT)")
        cursor.execute(f"INSERT INTO `{_name(url)}`.song VALUES ('노래 🎤')")
        cursor.execute(f"SELECT title FROM `{_name(url)}`.song")
        assert cursor.fetchone() == ("노래 🎤",)
    with mysql_connection(mysql_url) as connection, connection.cursor() as cursor, pytest.raises(pymysql.err.Error):
        cursor.execute(f"SELECT 1 FROM `{_name(url)}`.song")


async def test_two_redis_databases_are_empty_and_apart(redis_url: str) -> None:
    with empty_logical_database(redis_url) as other_url:
        async with redis.asyncio.from_url(redis_url) as mine, redis.asyncio.from_url(other_url) as other:
            await mine.set("key", "mine")
            assert await other.dbsize() == 0


def test_a_redis_database_that_holds_something_is_never_taken(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("somebody", "else's")
        client.delete(f"songs-ai-tests:claim:{urlsplit(redis_url).path.strip('/')}")
        with empty_logical_database(redis_url) as url:
            assert url != redis_url
        assert client.get("somebody") == b"else's"


def test_a_killed_redis_keeps_what_it_acknowledged(private_redis: BreakableServer) -> None:
    with redis.Redis.from_url(private_redis.url) as client:
        client.set("key", "value")
        private_redis.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        private_redis.start()
        assert client.get("key") == b"value"


def test_a_stopped_mysql_comes_back_on_the_same_url(private_mysql: BreakableServer) -> None:
    private_mysql.stop()
    assert not private_mysql.running
    with pytest.raises(pymysql.err.OperationalError):
        mysql_connection(private_mysql.url)
    private_mysql.start()
    mysql_connection(private_mysql.url).close()


async def test_a_stopped_broker_comes_back_with_its_durable_messages(private_rabbitmq: BreakableServer) -> None:
    name = f"kept-{uuid.uuid4().hex}"
    async with await aio_pika.connect(private_rabbitmq.url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name, durable=True)
        message = aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, queue.name)
    await asyncio.to_thread(private_rabbitmq.stop)
    with pytest.raises(OSError, match="refused"):
        amqp_handshake(private_rabbitmq.url)
    await asyncio.to_thread(private_rabbitmq.start)
    async with await aio_pika.connect(private_rabbitmq.url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name, durable=True)
        async with (await queue.get(timeout=10)).process():
            pass
        await queue.delete(if_empty=False)


def _name(url: str) -> str:
    return urlsplit(url).path.strip("/")
