"""Where a soak takes place: three servers of its own, one that plays the LLM, and workers as operations run them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import orjson
from redis.asyncio import Redis

from tests.chaos.site import SETTINGS, ChaosServers, fill
from tests.support.backend import Backend, open_backend
from tests.support.handshakes import mysql_connection
from tests.support.llm_process import LLMProcess
from tests.support.messaging import delete_topology
from tests.support.worker_process import WorkerProcess
from workers.topology import build_topology

PREFIX = "soak"
# Results are kept for minutes rather than a day: within a soak, what is written also goes. A pool never shrinks; these
# are full after the burst of the warm-up, so that whatever is more later is a leak.
_SETTINGS = {
    **SETTINGS,
    "BATCH_CONCURRENCY": "2",
    "JOB_TTL_S": "300",
    "CACHE_TTL_S": "300",
    "RETRY_DELAYS_S": "1,5,30",
    "REDIS_POOL": "16",
}
_DELAYS_S = (1, 5, 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakSite:
    """A running site."""

    servers: ChaosServers
    llm: LLMProcess
    redis: Redis
    interactive: Backend
    batch: Backend
    songs: frozenset[int]
    workers: Sequence[WorkerProcess]

    async def n_redis_connections(self) -> int:
        """All that Redis holds, ours among them."""
        return int((await self.redis.info("clients"))["connected_clients"])

    async def n_mysql_connections(self) -> int:
        """All that MySQL holds."""
        return await asyncio.to_thread(_threads_connected, self.servers.mysql.url)

    async def n_broker_channels(self) -> int:
        """All that RabbitMQ holds."""
        listed = await asyncio.to_thread(self.servers.broker.control, "list_channels", "pid", "--formatter", "json")
        return len(orjson.loads(listed))

    async def n_waiting(self) -> int:
        """Messages in any queue but those of dead letters."""
        listed = await asyncio.to_thread(
            self.servers.broker.control, "list_queues", "name", "messages", "--formatter", "json"
        )
        return sum(row["messages"] for row in orjson.loads(listed) if not row["name"].endswith(".dlq"))


def _threads_connected(url: str) -> int:
    with contextlib.closing(mysql_connection(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Threads_connected'")
        row = cursor.fetchone()
        assert row is not None
        return int(row[1]) - 1  # this one


@contextlib.asynccontextmanager
async def open_site(servers: ChaosServers, *, n_workers: int) -> AsyncIterator[SoakSite]:
    """A site with ``n_workers`` ready workers on emptied servers."""
    songs = await fill(servers)
    await delete_topology(servers.broker.url, build_topology(PREFIX, _DELAYS_S))
    async with (
        LLMProcess(delay_s=0.3) as llm,
        contextlib.aclosing(Redis.from_url(servers.redis.url)) as redis,
        _workers(n_workers, _environment(servers, llm)) as workers,
        open_backend(servers.broker.url, servers.redis.url, PREFIX) as interactive,
        open_backend(servers.broker.url, servers.redis.url, PREFIX, routing_key="recommendation.batch") as batch,
    ):
        yield SoakSite(
            servers=servers,
            llm=llm,
            redis=redis,
            interactive=interactive,
            batch=batch,
            songs=songs,
            workers=workers,
        )


def _environment(servers: ChaosServers, llm: LLMProcess) -> Mapping[str, str]:
    return {
        **_SETTINGS,
        "BROKER_URL": servers.broker.url,
        "DATABASE_URL": servers.mysql.url,
        "REDIS_URL": servers.redis.url,
        "OPENAI_BASE_URL": llm.url,
        "NAME_PREFIX": PREFIX,
    }


@contextlib.asynccontextmanager
async def _workers(n: int, environment: Mapping[str, str]) -> AsyncIterator[Sequence[WorkerProcess]]:
    workers = [WorkerProcess(environment) for _ in range(n)]
    try:
        await asyncio.gather(*(worker.start(90) for worker in workers))
        yield workers
    finally:
        await asyncio.gather(*(worker.kill() for worker in workers if worker.was_launched))
