"""More jobs than a worker can do: they wait in the broker, and the worker's memory stays what it was."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import aio_pika
import orjson
import pytest

from tests.support.backend import job_body
from tests.support.llm_faults import Fault
from tests.support.llm_server import LLMServer
from tests.support.waiting import until
from tests.support.worker_process import worker
from tests.test_end_to_end import Site, open_site

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

N_JOBS, JOB_BYTES, WINDOW = 20_000, 5_000, 500
CONCURRENCY = 64
MAX_GROWTH_MIB = 24  # 20,000 jobs of 5 kB are 95 MiB


def rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def publish(site: Site, members: range, padding: str) -> None:
    for start in range(members.start, members.stop, WINDOW):
        bodies = [job_body(n, [1, 2, 3], padding=padding) for n in range(start, min(start + WINDOW, members.stop))]
        await asyncio.gather(*(site.backend.publish_raw(orjson.dumps(body)) for body in bodies))


async def test_a_flood_of_jobs_takes_no_memory_of_the_worker(
    amqp_url: str,
    mysql_url: str,
    redis_url: str,
    llm_server: LLMServer,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    settings = {"CONCURRENCY": str(CONCURRENCY), "LLM_TIMEOUT_S": "25", "BATCH_CONCURRENCY": "0"}
    llm_server.fail(Fault.HANG)
    async with (
        open_site(amqp_url, mysql_url, redis_url, llm_server, **settings) as site,
        worker(site.environment) as process,
        await aio_pika.connect(amqp_url) as connection,
    ):
        await publish(site, range(1, 1 + CONCURRENCY), "x" * JOB_BYTES)
        await llm_server.called(CONCURRENCY, timeout_s=40)  # all that it takes at once are under way
        before_mib = rss_mib(process.pid)
        await publish(site, range(1000, 1000 + N_JOBS), "x" * JOB_BYTES)
        channel = await connection.channel()

        async def is_flooded() -> bool:
            queue = await channel.declare_queue(f"{site.prefix}.recommendation.q", passive=True)
            return (queue.declaration_result.message_count or 0) > N_JOBS - 10 * CONCURRENCY

        await until(is_flooded, within_s=30)
        after_mib = rss_mib(process.pid)
        grown = f"{before_mib:.0f} MiB without the flood, {after_mib:.0f} MiB with it"
        record_testsuite_property("flood", grown)
        assert after_mib - before_mib < MAX_GROWTH_MIB, grown
        await (await channel.get_queue(f"{site.prefix}.recommendation.q")).purge()
