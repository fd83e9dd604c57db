"""The backend that exists, played by the letter of its contract: it publishes jobs and reads what Redis holds."""

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import aio_pika
import orjson
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

Document = dict[str, Any]


def job_body(member_id: int, favorites: Sequence[int] | None = None, **fields: object) -> Document:
    """A job as Jackson writes it, nulls and all."""
    return {
        "jobId": str(uuid.uuid4()),
        "memberId": member_id,
        "favoriteSongIds": None if favorites is None else list(favorites),
        "strategy": "default",
        "topK": 50,
        "locale": "en",
        "source": "login",
        "requestedAt": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "idempotencyKey": None,
        "traceId": None,
        "modelVersion": None,
        "attempt": 0,
        **fields,
    }


class Backend:
    """Publishes with confirms; polls statuses and results."""

    def __init__(self, exchange: aio_pika.abc.AbstractExchange, redis: Redis, routing_key: str) -> None:
        self._exchange, self._redis, self._routing_key = exchange, redis, routing_key

    async def publish(self, bodies: Iterable[Document]) -> list[str]:
        """Write ``queued`` and publish each job; their ids."""
        bodies = list(bodies)
        async with self._redis.pipeline(transaction=False) as pipe:
            for body in bodies:
                submitted_at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
                key = f"job:status:{body['jobId']}"
                pipe.hsetnx(key, "status", "queued")
                pipe.hsetnx(key, "submittedAt", submitted_at)
                pipe.expire(key, 86_400)
            await pipe.execute()
        await asyncio.gather(*(self.publish_raw(orjson.dumps(body)) for body in bodies))
        return [body["jobId"] for body in bodies]

    async def publish_raw(self, body: bytes) -> None:
        message = aio_pika.Message(
            body,
            content_type="application/json",
            content_encoding="UTF-8",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            headers={"__TypeId__": "com.example.recommend.RecommendationJob"},
        )
        await self._exchange.publish(message, routing_key=self._routing_key, mandatory=True)

    async def statuses(self, job_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(f"job:status:{job_id}")
            found = await pipe.execute()
        return {
            job_id: {key.decode(): value.decode() for key, value in fields.items()}
            for job_id, fields in zip(job_ids, found, strict=True)
        }

    async def wait(
        self, job_ids: Sequence[str], timeout_s: float, *, until: Collection[str] = ("succeeded", "failed")
    ) -> dict[str, dict[str, str]]:
        """The statuses once every job has one of ``until``; polls as the real backend does."""
        deadline = time.monotonic() + timeout_s
        while True:
            statuses = {}
            with contextlib.suppress(RedisConnectionError):  # a Redis that restarts is asked again
                statuses = await self.statuses(job_ids)
            if statuses and all(fields.get("status") in until for fields in statuses.values()):
                return statuses
            if time.monotonic() > deadline:
                counts = Counter(fields.get("status") for fields in statuses.values())
                raise TimeoutError(f"after {timeout_s} s the jobs are {dict(counts)}")
            await asyncio.sleep(0.02)

    async def result(self, job_id: str) -> Document:
        raw = await self._redis.get(f"job:result:{job_id}")
        assert raw is not None, f"job {job_id} has no result"
        return dict(orjson.loads(raw))

    async def exists(self, key: str) -> bool:
        return bool(await self._redis.exists(key))

    async def json(self, key: str) -> Document:
        raw = await self._redis.get(key)
        assert raw is not None, f"{key} is not there"
        return dict(orjson.loads(raw))


@contextlib.asynccontextmanager
async def open_backend(
    amqp_url: str, redis_url: str, prefix: str = "rec", *, routing_key: str = "recommendation.generate"
) -> AsyncIterator[Backend]:
    """A backend that publishes to what the worker has declared."""
    async with (
        await aio_pika.connect_robust(amqp_url) as connection,
        contextlib.aclosing(Redis.from_url(redis_url)) as redis,
    ):
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(f"{prefix}.exchange", ensure=True)
        yield Backend(exchange, redis, routing_key)


def faults_of(result: Mapping[str, Any], member_has: Collection[int], catalogue: Collection[int]) -> list[str]:
    """What is wrong with a result: songs that the member has, repeats, strangers. Empty: nothing."""
    groups = [song["song_id"] for group in result["groups"] for song in group["songs"]]
    candidates = [song["song_id"] for song in result["candidates"]]
    shown = {*groups, *candidates}
    faults = {
        "has already": shown & set(member_has),
        "not in the catalogue": shown - set(catalogue),
        "in groups but no candidate": set(groups) - set(candidates),
        "twice in groups": [song for song, count in Counter(groups).items() if count > 1],
        "twice in candidates": [song for song, count in Counter(candidates).items() if count > 1],
    }
    return [f"{what}: {sorted(songs)}" for what, songs in faults.items() if songs] + ([] if groups else ["no groups"])
