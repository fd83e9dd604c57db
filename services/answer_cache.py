"""Finished answers by fingerprint, and the lease that lets one worker make each of them."""

import asyncio
import random
import secrets
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from weakref import WeakValueDictionary

import structlog
from redis.asyncio import Redis

from core.errors import DependencyUnavailable
from core.ports.results import ResultDocuments
from models.job import Job
from models.log_event import LogEvent
from services.redis_client import RedisScript, redis_errors
from services.result_cache import FORGOTTEN_PREFIX, INDEX_PREFIX, STATUS_PREFIX, instant, requested_at

ANSWER_PREFIX = "songs_ai:answer:"
FLIGHT_PREFIX = "songs_ai:flight:"

_FIELDS = ("result", "cached_view", "preference", "degraded", "shown")
# 56 kB become 8 in 0.15 ms, and 56 again in 0.07; higher levels take longer for little.
_PACKING_LEVEL = 1
_FIRST_POLL_S = 0.05
_LONGEST_POLL_S = 0.25
_RENEWALS_PER_LEASE = 3

_log = structlog.get_logger()


class RedisAnswerCache:
    """An ``AnswerCache`` in Redis: one hash for each fingerprint, which lives ``ttl_s``, or ``degraded_ttl_s``.

    ``flight_lease_s`` is the time after which a fingerprint whose holder died is free again; a living holder renews.
    """

    def __init__(self, client: Redis, *, ttl_s: int, degraded_ttl_s: int, flight_lease_s: float = 5.0) -> None:
        self._client = client
        self._ttl_s = ttl_s
        self._degraded_ttl_s = degraded_ttl_s
        self._flight_lease_s = flight_lease_s
        self._lease_ms = max(1, round(flight_lease_s * 1000))
        self._put = RedisScript(client, "job_order", "answer_put")
        self._take = RedisScript(client, "lease_take")
        self._renew = RedisScript(client, "lease_renew")
        self._release = RedisScript(client, "lease_release")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def get(self, fingerprint: str) -> ResultDocuments | None:
        """See ``AnswerCache.get``."""
        with redis_errors():
            found = await self._client.hmget(ANSWER_PREFIX + fingerprint, _FIELDS)
        result, cached_view, preference, degraded, shown = (part if isinstance(part, bytes) else None for part in found)
        if result is None or cached_view is None or preference is None:
            return None
        return ResultDocuments(
            result=zlib.decompress(result),
            cached_view=zlib.decompress(cached_view),
            preference=preference,
            degraded=degraded == b"1",
            shown_ids=tuple(map(int, shown.split(b","))) if shown else (),
        )

    async def put(self, fingerprint: str, documents: ResultDocuments, job: Job) -> None:
        """See ``AnswerCache.put``."""
        packed = [zlib.compress(part, _PACKING_LEVEL) for part in (documents.result, documents.cached_view)]
        parts: list[bytes | str | int] = [*packed, documents.preference, int(documents.degraded)]
        parts.append(",".join(map(str, documents.shown_ids)))
        ttl_s = self._degraded_ttl_s if documents.degraded else self._ttl_s
        keys = [ANSWER_PREFIX + fingerprint, STATUS_PREFIX + job.job_id]
        keys += [f"{prefix}{job.member_id}" for prefix in (FORGOTTEN_PREFIX, INDEX_PREFIX)]
        fields = [each for pair in zip(_FIELDS, parts, strict=True) for each in pair]
        await self._put(keys, [instant(datetime.now(UTC)), ttl_s, requested_at(job), *fields])

    @asynccontextmanager
    async def single_flight(self, fingerprint: str) -> AsyncIterator[None]:
        """See ``AnswerCache.single_flight``. Waiting has no limit of its own: the job's time limit ends it.

        A holder that cannot renew goes on: at worst the same answer is made twice.
        """
        # One task of this process at a time asks Redis, however many wait. The lock has no name here: a traceback that
        # somebody keeps would keep it too.
        async with self._locks.setdefault(fingerprint, asyncio.Lock()):
            key, token = FLIGHT_PREFIX + fingerprint, secrets.token_hex(8)
            await self._acquire(key, token)
            renewing = asyncio.create_task(self._keep(key, token))
            try:
                yield
            finally:
                renewing.cancel()
                await asyncio.wait([renewing])
                await self._let_go(key, token)

    async def _acquire(self, key: str, token: str) -> None:
        delay_s = _FIRST_POLL_S
        try:
            while not await self._take([key], [token, self._lease_ms]):
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(delay_s * 1.5, _LONGEST_POLL_S)
        except asyncio.CancelledError:
            # Redis may have granted it to us already, its answer still on the way.
            await self._let_go(key, token)
            raise

    async def _keep(self, key: str, token: str) -> None:
        while True:
            await asyncio.sleep(self._flight_lease_s / _RENEWALS_PER_LEASE)
            try:
                await self._renew([key], [self._lease_ms, token])
            except DependencyUnavailable as error:
                _log.warning(LogEvent.LEASE_RENEWAL_FAILED, lease=key, error=str(error))

    async def _let_go(self, key: str, token: str) -> None:
        # What was done under the lease is done; where Redis is down, the lease ends by itself.
        with suppress(DependencyUnavailable):
            await self._release([key], [token])
