"""Workers side by side in one process: each with its own connections, handler and leases, over real servers."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import orjson

from core.ports.recommending import ProgressReporter, RankedReporter
from core.ports.results import ResultDocuments
from models.job import Job
from services.clock import SystemClock
from services.redis_client import open_redis
from services.result_cache import RedisResultCache
from tests.support.backend import Document
from workers.amqp_broker import AmqpBroker
from workers.amqp_connection import AmqpTimings
from workers.broker import OutgoingMessage
from workers.consumer import Consumer
from workers.handler import JobHandler
from workers.lease_keeper import LeaseKeeper
from workers.observer import SilentObserver
from workers.topology import Topology

FAST = AmqpTimings(call_timeout_s=5.0, confirm_timeout_s=5.0, retry_interval_s=0.05, watchdog_interval_s=5.0)
LEASE_S = 1.0


class Kitchen:
    """The recommender of a whole crew: what it makes names its job, and it remembers what it was asked for."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.n_calls = 0
        self.before: Callable[[Job], Awaitable[None]] = _nothing

    async def recommend(
        self, job: Job, report: ProgressReporter, on_ranked: RankedReporter | None = None
    ) -> ResultDocuments:
        self.runs[job.job_id] += 1
        self.n_calls += 1
        await report(50)
        await self.before(job)
        return documents_of(job)


async def _nothing(job: Job) -> None:
    pass


def documents_of(job: Job) -> ResultDocuments:
    made = orjson.dumps({"status": "completed", "job": job.job_id})
    return ResultDocuments(result=made, cached_view=made, preference=made)


@dataclass(frozen=True, slots=True)
class Worker:
    """One of the crew."""

    broker: AmqpBroker
    results: RedisResultCache
    consumer: Consumer


@contextlib.asynccontextmanager
async def crew(
    amqp_url: str,
    redis_url: str,
    topology: Topology,
    kitchen: Kitchen,
    *,
    n: int,
    max_attempts: int = 4,
    concurrency: int = 16,
    lease_s: float = LEASE_S,
) -> AsyncIterator[list[Worker]]:
    """``n`` workers that consume the jobs of ``topology``."""
    async with contextlib.AsyncExitStack() as stack:
        workers = []
        for _ in range(n):
            redis = await stack.enter_async_context(open_redis(redis_url, max_connections=50, timeout_s=5))
            results = RedisResultCache(redis, SystemClock(), job_ttl_s=86_400, cache_ttl_s=604_800, lease_s=lease_s)
            broker = AmqpBroker(amqp_url, topology, timings=FAST)
            await broker.start()
            stack.push_async_callback(broker.close)
            leases = LeaseKeeper(results, lease_s=lease_s)
            handler = JobHandler(
                kitchen,
                results,
                leases,
                max_attempts=max_attempts,
                delays_s=[step.delay_s for step in topology.main.retries],
                job_timeout_s=30,
                clock=SystemClock(),
                observer=SilentObserver(),
            )
            consumer = Consumer(
                broker,
                topology.main,
                handler,
                concurrency=concurrency,
                observer=SilentObserver(),
                on_dead_lettered=handler.dead_lettered,
            )
            renewing = asyncio.create_task(leases.run())
            stack.callback(renewing.cancel)
            await consumer.start()
            stack.push_async_callback(consumer.stop, 0)
            workers.append(Worker(broker, results, consumer))
        yield workers


async def publish(broker: AmqpBroker, bodies: Sequence[Document]) -> None:
    """Publish ``bodies``, all at once."""
    main = broker.topology.main
    await asyncio.gather(
        *(
            broker.publish(
                OutgoingMessage(exchange=main.exchange, routing_key=main.routing_key, body=orjson.dumps(body))
            )
            for body in bodies
        )
    )
