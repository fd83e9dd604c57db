"""200 jobs over real songs while something breaks: how long until all have succeeded, and whether any is missing.

    .venv/bin/python -m benchmarks.faults --tracks songs.csv [--members 200] [--llm-delay-s 2]

Servers are found or started as for the tests, the broker one that may be broken.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aio_pika
from rich.console import Console
from rich.table import Table

from benchmarks.main_job import Row, fill, likes_of, song_ids
from tests.support.backend import Document, faults_of, job_body, open_backend
from tests.support.empty_stores import empty_database, empty_logical_database
from tests.support.llm_process import LLMProcess
from tests.support.servers import BreakableServer, GivenServer, Kind, Need, Servers
from tests.support.worker_process import WorkerProcess
from workers.topology import build_topology
from workers.topology import declare as declare_topology

PREFIX = "faults"
console = Console()


@dataclass(frozen=True, slots=True)
class Site:
    """What a fault may touch."""

    environment: dict[str, str]
    broker: BreakableServer
    model: LLMProcess
    worker: WorkerProcess


Fault = Callable[[Site], Awaitable[str]]


async def killed(site: Site) -> str:
    """SIGKILL, and another worker at once."""
    await site.worker.kill()
    await site.worker.start()
    return "worker killed and started again"


async def terminated(site: Site) -> str:
    """SIGTERM, and another worker once it is gone."""
    started_s = time.monotonic()
    code = await site.worker.terminate()
    took_s = time.monotonic() - started_s
    await site.worker.start()
    return f"SIGTERM: exit code {code} after {took_s:.1f} s; started again"


async def broker_restarted(site: Site) -> str:
    """The broker stopped and started; the time counts from when it is back."""
    await asyncio.to_thread(site.broker.restart)
    started_s = time.monotonic()
    await site.worker.wait_ready(60)
    return f"broker restarted; consuming again {time.monotonic() - started_s:.1f} s later"


async def queue_deleted(site: Site) -> str:
    """The job queue deleted once it is empty of ready jobs, and made again."""
    async with await aio_pika.connect(site.broker.url) as connection, connection.channel() as channel:
        queue = await channel.get_queue(f"{PREFIX}.recommendation.q")
        while (await queue.declare()).message_count:  # noqa: ASYNC110 - the broker has no event for it
            await asyncio.sleep(0.1)
        await channel.queue_delete(queue.name)
        started_s = time.monotonic()
        await declare_topology(channel, build_topology(PREFIX), timeout_s=10)
    await site.worker.wait_ready(60)
    return f"queue deleted and made again; consuming again {time.monotonic() - started_s:.1f} s later"


async def round_with(fault: Fault, site: Site, songs: list[int], first_member: int, n: int) -> list[Row]:
    """Publish ``n`` jobs, break something after a quarter of the LLM calls, publish ten more, wait for all."""
    likes = likes_of(range(first_member, first_member + n + 10), songs, seed=first_member)
    bodies = [job_body(*pair) for pair in likes.items()]
    calls_before = await site.model.n_calls()
    started_s = time.monotonic()
    await publish(site, bodies[:n])
    while await site.model.n_calls() - calls_before < n // 4:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.05)
    what = await fault(site)
    await publish(site, bodies[n:])
    async with open_backend(site.broker.url, site.environment["REDIS_URL"], PREFIX) as backend:
        statuses = await backend.wait([body["jobId"] for body in bodies], timeout_s=180)
        took_s = time.monotonic() - started_s
        n_succeeded = sum(fields["status"] == "succeeded" for fields in statuses.values())
        faults = [
            fault
            for body in bodies
            for fault in faults_of(await backend.result(body["jobId"]), body["favoriteSongIds"], songs)
        ]
    n_calls = await site.model.n_calls() - calls_before
    figure = (
        f"{n_succeeded} of {len(bodies)} succeeded in {took_s:.1f} s, {n_calls} LLM calls, {len(faults)} wrong songs"
    )
    return [Row(what, figure)]


async def publish(site: Site, bodies: list[Document]) -> None:
    async with open_backend(site.broker.url, site.environment["REDIS_URL"], PREFIX) as backend:
        await backend.publish(bodies)


async def measure(arguments: argparse.Namespace, environment: dict[str, str], broker: BreakableServer) -> list[Row]:
    async with LLMProcess(delay_s=arguments.llm_delay_s) as model:
        environment = {**environment, "OPENAI_BASE_URL": model.url, "NAME_PREFIX": PREFIX, "LOG_LEVEL": "ERROR"}
        fill(environment, arguments.tracks)
        songs = song_ids(environment["DATABASE_URL"])
        site = Site(environment, broker, model, WorkerProcess(environment))
        await site.worker.start()
        rows = []
        try:
            for number, fault in enumerate((killed, broker_restarted, queue_deleted, terminated)):
                rows += await round_with(fault, site, songs, 1000 * (number + 1), arguments.members)
        finally:
            await site.worker.kill()
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--members", type=int, default=200)
    parser.add_argument("--llm-delay-s", type=float, default=2.0)
    arguments = parser.parse_args()
    servers = Servers()
    try:
        needs = [Need(Kind.RABBITMQ, breakable=True), Need(Kind.MYSQL), Need(Kind.REDIS)]
        servers.begin(needs, console.print)
        broker, mysql, redis = (servers.wait(need) for need in needs)
        if isinstance(broker, GivenServer):
            raise TypeError("a broker that may be broken is never a given one")
        with empty_database(mysql.url) as database_url, empty_logical_database(redis.url) as redis_url:
            environment = {"BROKER_URL": broker.url, "DATABASE_URL": database_url, "REDIS_URL": redis_url}
            rows = asyncio.run(measure(arguments, environment, broker))
    finally:
        servers.close()
    table = Table("what broke", "what came of it")
    for row in rows:
        table.add_row(row.what, row.figure)
    console.print(table)


if __name__ == "__main__":
    main()
