"""Where a chaos round takes place: three servers, a server that plays the LLM, several workers, and what is between.

The broker is reached through a proxy that knows its frames, MySQL through one that can be slowed down, Redis directly.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import orjson
import pymysql
from redis.asyncio import Redis

from core.embedding import HashingEmbedder
from services.catalogue import SqlCatalogue
from services.database import Database
from services.embedding_store import SqlEmbeddingStore
from tests.chaos.frame_wire import FrameWire, open_frame_wire
from tests.chaos.status_trace import StatusTrace
from tests.support.catalogue import SONGS, create_all_tables, insert_songs, like
from tests.support.empty_stores import flush, recreate_database
from tests.support.handshakes import mysql_connection
from tests.support.llm_process import LLMProcess
from tests.support.messaging import Wire, delete_topology, open_wire
from tests.support.private_servers import PrivateMySQL, PrivateRabbitMQ, PrivateRedis
from tests.support.servers import Kind, Need, Servers
from tests.support.worker_process import WorkerProcess
from training.embed import embed_catalogue
from workers.topology import Topology, build_topology
from workers.topology import declare as declare_topology

RETRY_DELAYS_S = (0.2, 0.5, 1)
MAX_ATTEMPTS = 4
HEARTBEAT_S = 2
FROZEN_S = 3 * HEARTBEAT_S + 1  # RabbitMQ gives a silent client up after two to three intervals
LIKED_BY_MEMBERS: Mapping[int, Sequence[int]] = {member: (member, member + 1, member + 40) for member in range(1, 11)}

_N_SONGS = 300
_GENRES = ("ballad", "rock", "jazz", "hip hop", "city pop")
_PROGRAM = Path(__file__).with_name("jumping_worker.py")

SETTINGS = {
    "RETRY_DELAYS_S": ",".join(f"{delay_s:g}" for delay_s in RETRY_DELAYS_S),
    "MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "JOB_LEASE_S": "2",
    "JOB_TIMEOUT_S": "10",
    "LLM_TIMEOUT_S": "1.5",
    "LLM_MAX_RETRIES": "1",
    "LLM_BREAKER_COOL_DOWN_S": "1",
    "DEPENDENCY_TIMEOUT_S": "1.5",
    "SHUTDOWN_GRACE_S": "5",
    "CONCURRENCY": "16",
    "BATCH_CONCURRENCY": "1",
    "DATABASE_POOL": "4",
    "REDIS_POOL": "24",
    "INDEX_REFRESH_S": "5",
    "LOG_LEVEL": "WARNING",
}

# For a worker whose acks are kept back: a try that failed would keep its place in the prefetch.
PATIENT = {"DEPENDENCY_TIMEOUT_S": "30", "JOB_TIMEOUT_S": "100", "LLM_TIMEOUT_S": "20", "DATABASE_POOL": "10"}


@dataclass(frozen=True, slots=True)
class ChaosServers:
    """Servers of the suite's own, to be stopped, killed, frozen and looked into."""

    broker: PrivateRabbitMQ
    mysql: PrivateMySQL
    redis: PrivateRedis


@contextlib.contextmanager
def private_servers(tell: Callable[[str], None]) -> Iterator[ChaosServers]:
    """Three servers of this run's own."""
    servers = Servers(docker_answers=lambda: False)
    needs = [Need(kind, breakable=True) for kind in (Kind.RABBITMQ, Kind.MYSQL, Kind.REDIS)]
    try:
        servers.begin(needs, tell)
        broker, mysql, redis = (servers.wait(need) for need in needs)
        if not (
            isinstance(broker, PrivateRabbitMQ) and isinstance(mysql, PrivateMySQL) and isinstance(redis, PrivateRedis)
        ):
            raise TypeError("chaos needs its servers as processes")
        yield ChaosServers(broker, mysql, redis)
    finally:
        servers.close()


@dataclass(slots=True, kw_only=True)
class ChaosSite:
    """A running site. ``workers`` changes as workers die and are replaced; ``logs`` keeps what the dead ones wrote."""

    servers: ChaosServers
    environment: Mapping[str, str]
    topology: Topology
    broker_wire: FrameWire
    mysql_wire: Wire
    llm: LLMProcess
    redis: Redis
    trace: StatusTrace
    clock: Path
    songs: frozenset[int]
    workers: list[WorkerProcess] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)

    def new_worker(self) -> WorkerProcess:
        """One that is not started yet."""
        return WorkerProcess(self.environment, program=_PROGRAM)

    async def replace(self, place: int) -> None:
        """Start a new worker where another was."""
        self.logs.append(self.workers[place].log)
        self.workers[place] = self.new_worker()
        await self.workers[place].start(90)

    async def declare(self) -> None:
        """Make what is missing of exchanges and queues, as the backend does at its own start."""
        async with await aio_pika.connect(self.servers.broker.url) as connection, connection.channel() as channel:
            await declare_topology(channel, self.topology, timeout_s=10)

    async def control(self, *arguments: str) -> str:
        """What ``rabbitmqctl`` says."""
        return await asyncio.to_thread(self.servers.broker.control, *arguments)

    async def queue_depths(self) -> dict[str, tuple[int, int]]:
        """Messages ready and unacked of each queue of ours."""
        listed = await self.control("list_queues", "name", "messages_ready", "messages_unacknowledged", *_AS_JSON)
        ours = {queue.name for queue in self.topology.queues}
        return {
            row["name"]: (row["messages_ready"], row["messages_unacknowledged"])
            for row in orjson.loads(listed)
            if row["name"] in ours
        }

    def mysql_connection(self) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        """A blocking connection beside the workers'."""
        connection = mysql_connection(self.servers.mysql.url)
        connection.select_db(urlsplit(self.servers.mysql.url).path.strip("/"))
        return connection


_AS_JSON = ("--formatter", "json")


@contextlib.asynccontextmanager
async def open_site(
    servers: ChaosServers, directory: Path, *, n_workers: int, settings: Mapping[str, str] = SETTINGS
) -> AsyncIterator[ChaosSite]:
    """A site with ``n_workers`` ready workers on emptied servers."""
    prefix, clock = "chaos", directory / "clock"
    clock.write_text("0")
    songs = await fill(servers)
    topology = build_topology(prefix, RETRY_DELAYS_S)
    async with (
        LLMProcess(delay_s=0.02) as llm,
        open_frame_wire(servers.broker.url) as broker_wire,
        open_wire(servers.mysql.url) as mysql_wire,
        contextlib.aclosing(Redis.from_url(servers.redis.url, socket_timeout=5)) as redis,
    ):
        environment = {
            **settings,
            "BROKER_URL": f"{broker_wire.url}?heartbeat={HEARTBEAT_S}",
            "DATABASE_URL": mysql_wire.url,
            "REDIS_URL": servers.redis.url,
            "OPENAI_BASE_URL": llm.url,
            "NAME_PREFIX": prefix,
            "CHAOS_CLOCK": str(clock),
        }
        trace = StatusTrace(servers.redis.append_only_file)
        trace.skip()
        site = ChaosSite(
            servers=servers,
            environment=environment,
            topology=topology,
            broker_wire=broker_wire,
            mysql_wire=mysql_wire,
            llm=llm,
            redis=redis,
            trace=trace,
            clock=clock,
            songs=songs,
        )
        await delete_topology(servers.broker.url, topology)
        await site.declare()
        site.workers = [site.new_worker() for _ in range(n_workers)]
        try:
            await asyncio.gather(*(worker.start(90) for worker in site.workers))
            yield site
        finally:
            await asyncio.gather(*(worker.kill() for worker in site.workers if worker.was_launched))


async def fill(servers: ChaosServers) -> frozenset[int]:
    """Emptied stores, songs with their vectors, one in ten of them inactive, and likes; the ids of the active ones."""
    songs = await asyncio.to_thread(_fill, servers)
    await _embed(servers.mysql.url)
    return songs


def _fill(servers: ChaosServers) -> frozenset[int]:
    flush(servers.redis.url)
    url = servers.mysql.url
    recreate_database(url)
    create_all_tables(url)
    insert_songs(url, *(_song(song_id) for song_id in range(1, _N_SONGS + 1)))
    for member_id, song_ids in LIKED_BY_MEMBERS.items():
        like(url, member_id, *song_ids)
    return frozenset(song_id for song_id in range(1, _N_SONGS + 1) if song_id % 10)


def _song(song_id: int) -> Mapping[str, object]:
    return {
        "song_id": song_id,
        "title_en": f"Song number {song_id}",
        "title_kr": f"노래 {song_id}" if song_id % 3 == 0 else None,
        "artist": f"Artist {song_id % 40}",
        "genre": _GENRES[song_id % len(_GENRES)],
        "mood": "calm" if song_id % 2 else "happy",
        "tj_number": 10_000 + song_id,
        "is_active": bool(song_id % 10),
    }


async def _embed(url: str) -> None:
    database = Database(url)
    try:
        embedder, store = HashingEmbedder(text_columns=SONGS.item.text), SqlEmbeddingStore(database, SONGS)
        await embed_catalogue(SqlCatalogue(database, SONGS), embedder, store, text_columns=SONGS.item.text)
    finally:
        await database.close()
