"""Quorum queues on three nodes: the leader is killed under load, again and again, and nothing is lost."""

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import aio_pika
import orjson
import pytest

from core.errors import PublishRefused
from tests.support.backend import Document, faults_of, job_body
from tests.support.llm_server import LLMServer
from tests.support.private_servers import PrivateRabbitMQ
from tests.support.rabbitmq_cluster import Cluster, open_cluster
from tests.support.worker_process import worker
from tests.test_end_to_end import CATALOGUE, Site, open_site
from workers.amqp_broker import AmqpBroker
from workers.broker import OutgoingMessage
from workers.topology import build_topology

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PrivateRabbitMQ.installed(), reason="needs an installed rabbitmq-server and epmd"),
]

N_KILLS = 3
N_AT_LEAST = 1000
MAX_WAITING = 150
SEED = 6


class Publisher:
    """Publishes until every message is confirmed, whatever becomes of the connection; a repeat is a duplicate."""

    def __init__(self, broker: AmqpBroker, chance: Random) -> None:
        self._broker, self._chance = broker, chance
        self.jobs: dict[str, Document] = {}
        self.invalid_ids: list[str] = []
        self.n_refused = self.n_copies = 0

    async def publish_next(self) -> None:
        """A job; one in ten is published twice at once, one in fifty is none."""
        body = job_body(1000 + len(self.jobs), self._chance.sample(CATALOGUE, 6))
        if self._chance.random() < 1 / 50:
            self.invalid_ids.append(body["jobId"])
            await self._until_confirmed({**body, "topK": -1})
            return
        self.jobs[body["jobId"]] = body
        n = 2 if self._chance.random() < 1 / 10 else 1
        self.n_copies += n - 1
        await asyncio.gather(*(self._until_confirmed(body) for _ in range(n)))

    async def _until_confirmed(self, body: Document) -> None:
        main = self._broker.topology.main
        message = OutgoingMessage(exchange=main.exchange, routing_key=main.routing_key, body=orjson.dumps(body))
        while True:
            try:
                await self._broker.publish(message)
            except PublishRefused:
                self.n_refused += 1
                await asyncio.sleep(0.1)
            else:
                return


async def holds(condition: Callable[[], Awaitable[bool]], what: str, *, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.1)


async def kill_leaders(cluster: Cluster, queue: str, n_done: Callable[[], Awaitable[int]]) -> list[float]:
    """SIGKILL the leader, see another one elected and work go on, start it again; how long the work stood still."""
    pauses_s = []
    for _ in range(N_KILLS):
        before = await n_done()
        await holds(lambda: at_least(n_done, before + 40), "40 more jobs")  # noqa: B023 - awaited in this round
        leader = await asyncio.to_thread(cluster.leader_of, queue)
        done, killed_s = await n_done(), time.monotonic()
        await asyncio.to_thread(leader.kill)
        await holds(lambda: at_least(n_done, done + 40), "work goes on on two nodes")  # noqa: B023
        pauses_s.append(time.monotonic() - killed_s)
        assert await asyncio.to_thread(cluster.leader_of, queue) is not leader
        await asyncio.to_thread(leader.start)

        async def is_whole() -> bool:
            return len(await asyncio.to_thread(cluster.online_members_of, queue)) == len(cluster.nodes)

        await holds(is_whole, "its copy takes part again")
    return pauses_s


async def at_least(n_done: Callable[[], Awaitable[int]], n: int) -> bool:
    return await n_done() >= n


async def dead_ids(url: str, queue: str) -> list[str]:
    """The ids of all dead letters, which are taken off."""
    ids = []
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        dead = await channel.get_queue(queue)
        while (letter := await dead.get(fail=False)) is not None:
            ids.append(json.loads(letter.body)["jobId"])
            await letter.ack()
    return ids


async def test_the_leader_is_killed_under_load_and_nothing_is_lost(
    mysql_url: str, redis_url: str, llm_server: LLMServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        open_cluster() as (cluster, url),
        open_site(url, mysql_url, redis_url, llm_server, QUEUE_TYPE="quorum", DELIVERY_LIMIT="20") as site,
    ):
        topology = build_topology(site.prefix, (0.2, 0.5, 1), "quorum")
        async with worker(site.environment), worker(site.environment):
            broker = AmqpBroker(url, topology, connection_name=f"publisher-{uuid.uuid4().hex}")
            await broker.start()
            try:
                publisher, pauses_s = await load(cluster, site, broker)
            finally:
                await broker.close()
            statuses = await site.backend.wait(list(publisher.jobs), 180)
            refused = await site.backend.wait(publisher.invalid_ids, 60)
            await holds(lambda: is_empty(cluster, site), "no message is ready, retried or unsettled")
        assert Counter(fields["status"] for fields in statuses.values()) == {"succeeded": len(publisher.jobs)}
        assert {fields["status"] for fields in refused.values()} == {"failed"}
        for job_id, body in publisher.jobs.items():
            assert faults_of(await site.backend.result(job_id), body["favoriteSongIds"], CATALOGUE) == []
        dead = await dead_ids(url, topology.main.dead_letter_queue)
        assert set(dead) == set(publisher.invalid_ids)
        with capsys.disabled():
            print(  # noqa: T201 - the figures of docs/reliability.md
                f"\n{len(publisher.jobs)} jobs, {publisher.n_copies} copies, {len(publisher.invalid_ids)} invalid, "
                f"{N_KILLS} leaders killed, 40 jobs after each within {', '.join(f'{s:.1f}' for s in pauses_s)} s; "
                f"{publisher.n_refused} publishes repeated, {llm_server.n_calls} LLM calls, {len(dead)} dead letters; "
                f"seed {SEED}"
            )


async def load(cluster: Cluster, site: Site, broker: AmqpBroker) -> tuple[Publisher, list[float]]:
    """Publish while leaders are killed, and until there are enough jobs; never too many at once."""
    publisher = Publisher(broker, Random(SEED))

    done: set[str] = set()

    async def n_done() -> int:
        statuses = await site.backend.statuses([job_id for job_id in publisher.jobs if job_id not in done])
        done.update(job_id for job_id, fields in statuses.items() if fields.get("status") == "succeeded")
        return len(done)

    killing = asyncio.create_task(kill_leaders(cluster, broker.topology.main.queue, n_done))
    while not killing.done() or len(publisher.jobs) < N_AT_LEAST:
        if len(publisher.jobs) - await n_done() < MAX_WAITING:
            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(publisher.publish_next())
        else:
            await asyncio.sleep(0.05)
    return publisher, await killing


async def is_empty(cluster: Cluster, site: Site) -> bool:
    arguments = ("list_queues", "name", "messages", "--formatter", "json")
    rows = json.loads(await asyncio.to_thread(cluster.nodes[0].control, *arguments))
    waiting = {row["name"]: row["messages"] for row in rows if not row["name"].endswith(".dlq")}
    return site.prefix in str(waiting) and not any(waiting.values())
