"""Events from their queue to the table, as fast as one worker takes them, and what is left of them where it is killed.

    .venv/bin/python -m benchmarks.events [--events 20000] [--members 2000] [--kill]

Servers come from ``TEST_BROKER_URL``, ``TEST_DATABASE_URL`` and ``TEST_REDIS_URL``, else from containers or private
processes, as for the tests. All events wait in the queue before the worker starts; the clock runs from its first row to
its last. ``--kill``: SIGKILL at a third of them, and another worker does the rest.
"""

import argparse
import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from benchmarks.main_job import cpu_s, given_servers
from core.event_codec import encode_event
from models.event import Event, EventType
from services.database import Database
from tests.support.catalogue import create_all_tables
from tests.support.event_consumer import EventConsumer, event_consumer
from tests.support.messaging import delete_topology
from workers.amqp_broker import AmqpBroker
from workers.broker import OutgoingMessage
from workers.topology import build_topology

WINDOW = 500
PREFIX = f"bench-events-{os.getpid()}"
# As listeners are: mostly plays and skips.
KINDS = [EventType.PLAY] * 12 + [EventType.SKIP] * 4 + [EventType.LIKE] * 2 + [EventType.REPEAT, EventType.DISLIKE]
console = Console()


def events(n: int, n_members: int) -> Iterator[Event]:
    """Events of made-up members, each with an id of its own."""
    chance = random.Random(7)
    for number in range(n):
        kind = chance.choice(KINDS)
        yield Event(
            event_id=f"bench-{number:08d}-{chance.getrandbits(64):016x}",
            member_id=chance.randrange(n_members),
            item_id=chance.randrange(30_000),
            type=kind,
            value=round(chance.uniform(1, 300), 1) if kind is EventType.PLAY else None,
            completed=chance.random() < 0.7 if kind is EventType.PLAY else None,
            occurred_at_ns=1_767_225_600_000_000_000 + number * 1_000_000,
        )


async def publish(broker: AmqpBroker, n: int, n_members: int) -> float:
    """Publish so many, each confirmed; how many a second."""
    started_s, route, window = time.monotonic(), broker.topology.events, list[asyncio.Task[None]]()
    for event in events(n, n_members):
        key = f"event.{event.type.value}"
        message = OutgoingMessage(exchange=route.exchange, routing_key=key, body=encode_event(event))
        window.append(asyncio.create_task(broker.publish(message)))
        if len(window) == WINDOW:
            await asyncio.gather(*window)
            window.clear()
    await asyncio.gather(*window)
    return n / (time.monotonic() - started_s)


async def count(database: Database) -> int:
    """Rows of events, each of another id."""
    async with database.connect(n_round_trips=10) as connection:
        found = await connection.scalar(text("SELECT COUNT(*) FROM songs_ai_interaction"))
    return int(found)


async def reached(database: Database, n: int) -> float:
    """When there were so many rows, on the monotonic clock."""
    while await count(database) < n:  # noqa: ASYNC110 - what changes is in another program
        await asyncio.sleep(0.02)
    return time.monotonic()


async def measure(n: int, n_members: int, *, kill: bool) -> Table:
    """Publish, consume, count."""
    with given_servers() as (amqp_url, database_url, redis_url):
        create_all_tables(database_url)
        topology = build_topology(PREFIX)
        broker, database = AmqpBroker(amqp_url, topology), Database(database_url)
        await broker.start()
        try:
            rate_published = await publish(broker, n, n_members)
            environment = {
                "BROKER_URL": amqp_url,
                "DATABASE_URL": database_url,
                "REDIS_URL": redis_url,
                "NAME_PREFIX": PREFIX,
            }
            table = Table("what", "figure")
            table.add_row("published, confirmed", f"{rate_published:,.0f} events/s")
            if kill:
                await kill_one(environment, database, n, table)
            async with event_consumer(environment) as consumer:
                await finish(consumer, database, n, table)
            await tell_counts(broker, database, n, table)
        finally:
            await database.close()
            await broker.close()
            await delete_topology(amqp_url, topology)
        return table


async def kill_one(environment: dict[str, str], database: Database, n: int, table: Table) -> None:
    async with event_consumer(environment) as consumer:
        await reached(database, n // 3)
        await consumer.end(signal.SIGKILL)
    table.add_row("rows when the first worker was killed", f"{await count(database):,}")


async def finish(consumer: EventConsumer, database: Database, n: int, table: Table) -> None:
    n_before = await count(database)
    began_s, used_s = time.monotonic(), cpu_s(consumer.pid)
    ended_s = await reached(database, n)
    used_s = cpu_s(consumer.pid) - used_s
    table.add_row("kept", f"{(n - n_before) / (ended_s - began_s):,.0f} events/s")
    table.add_row("CPU time of the worker", f"{1e6 * used_s / (n - n_before):.0f} us an event")
    table.add_row("exit code after SIGTERM", str(await consumer.end(signal.SIGTERM)))


async def tell_counts(broker: AmqpBroker, database: Database, n: int, table: Table) -> None:
    route = broker.topology.events
    waiting = await broker.waiting([route.queue, route.dead_letter_queue])
    table.add_row("rows, of events published", f"{await count(database):,} of {n:,}")
    table.add_row("left in the queue; dead letters", f"{waiting[route.queue]}; {waiting[route.dead_letter_queue]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--members", type=int, default=2_000)
    parser.add_argument("--kill", action="store_true", help="SIGKILL in mid-stream")
    asked = parser.parse_args()
    console.print(asyncio.run(measure(asked.events, asked.members, kill=asked.kill)))
