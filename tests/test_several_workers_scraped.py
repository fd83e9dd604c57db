"""Two workers on one host: each is a process with a registry and a port of its own, and Prometheus adds them up."""

import asyncio
from contextlib import AsyncExitStack

import aio_pika
import pytest

from tests.support.llm_server import LLMServer
from tests.support.prometheus import PrivatePrometheus, Scraping, StartPrometheus
from tests.support.worker_process import WorkerProcess
from tests.test_end_to_end import Site, jobs_of, open_site

N_JOBS = 24
SUCCEEDED = 'songs_ai_recommendations_total{outcome="succeeded"}'


async def dead_letter(site: Site) -> None:
    """One message in the dead-letter queue, which is one and the same whoever looks."""
    async with await aio_pika.connect(site.amqp_url) as connection, connection.channel() as channel:
        queue = f"{site.prefix}.recommendation.dlq"
        await channel.default_exchange.publish(aio_pika.Message(b"{}"), routing_key=queue)


def value_of(prometheus: PrivatePrometheus, expression: str) -> float:
    (sample,) = prometheus.query(expression)
    return sample.value


@pytest.mark.timeout(120)
async def test_what_two_worker_processes_count_adds_up_and_what_both_see_is_counted_once(
    amqp_url: str, mysql_url: str, redis_url: str, llm_server: LLMServer, prometheus_server: StartPrometheus
) -> None:
    # few at a time, so that neither takes all; each call waits until both are at work
    settings = {"CONCURRENCY": "4", "LEADER_LEASE_S": "3"}
    llm_server.gate = 5
    async with (
        open_site(amqp_url, mysql_url, redis_url, llm_server, **settings) as site,
        AsyncExitStack() as running,
    ):
        await dead_letter(site)
        workers = [WorkerProcess(site.environment, forked=True) for _ in range(2)]
        for worker in workers:
            running.push_async_callback(worker.kill)
        await asyncio.gather(*(worker.start() for worker in workers))
        assert workers[0].pid != workers[1].pid
        targets = [f"127.0.0.1:{worker.http_port}" for worker in workers]
        prometheus = await asyncio.to_thread(prometheus_server, Scraping(targets={"songs-ai": targets}))
        job_ids = await site.backend.publish(jobs_of(range(N_JOBS)))
        await site.backend.wait(job_ids, 60, until={"succeeded"})

        def told() -> None:
            prometheus.wait_for(f"sum({SUCCEEDED})", lambda found: found and found[0].value == N_JOBS)
            by_worker = prometheus.query(f"sum by (instance) ({SUCCEEDED})")
            each = {sample.labels["instance"]: sample.value for sample in by_worker}
            assert set(each) == set(targets)
            assert all(each.values()), f"one worker took none: {each}"
            assert value_of(prometheus, "sum(songs_ai_llm_calls_total)") == llm_server.n_calls
            prometheus.wait_for("sum(songs_ai_leader)", lambda found: found and found[0].value == 1)
            assert value_of(prometheus, 'count(songs_ai_dead_letters{kind="jobs"} == 1)') == 2
            assert value_of(prometheus, 'max(songs_ai_dead_letters{kind="jobs"})') == 1

        await asyncio.to_thread(told)
        # one that is gone takes what it counted along, and Prometheus remembers what it had been told
        await workers[0].terminate()
        await asyncio.to_thread(prometheus.wait_for, "sum(up) == 1")
        (sample,) = await asyncio.to_thread(prometheus.query, f"sum(max_over_time({SUCCEEDED}[5m]))")
        assert sample.value == N_JOBS
