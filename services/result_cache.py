"""The Redis keys that the backend reads, and ours beside them: leases, idempotency keys, the order of jobs.

Every write is one Lua script, so a poller sees all of it or nothing, and a command that is sent twice, because its
first answer was lost, changes nothing the second time.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import cast

from redis.asyncio import Redis

from core.ports import Claim, Clock, JobView, ProvisionalDocuments, ResultDocuments
from models.job import Job, JobStatus
from services.redis_client import RedisScript, redis_errors

_PLAIN = re.compile(r"[!-~]{1,200}")

STATUS_PREFIX = "job:status:"
RESULT_PREFIX = "job:result:"
LATEST_PREFIX = "latest:recommendation:"
VIEW_PREFIX = "recommend:"
PREFERENCE_PREFIX = "preference:"
LEASE_PREFIX = "songs_ai:lease:"
IDEMPOTENCY_PREFIX = "songs_ai:idempotency:"
ORDER_PREFIX = "songs_ai:order:"
VIEWS_PREFIX = "songs_ai:views:"
PROVISIONAL_PREFIX = "songs_ai:provisional:"
DEAD_LETTER_DUE_PREFIX = "songs_ai:dead_letter_due:"

_FAILED_BEFORE = -1
_NS_PER_S = 1_000_000_000
_LAST_SECOND = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def _sortable(at_ns: int) -> str:
    """Nanoseconds since the epoch as text that sorts as they do; what is beyond the calendar goes to its ends."""
    at_s, fraction_ns = divmod(at_ns, _NS_PER_S)
    within = datetime.fromtimestamp(min(max(at_s, 0), _LAST_SECOND), UTC)
    return f"{within:%Y-%m-%dT%H:%M:%S}.{fraction_ns:09d}"


def _requested_at(job: Job) -> str:
    return "" if job.requested_at_ns is None else _sortable(job.requested_at_ns)


def _in_a_name(text: str) -> str:
    """``text`` as it is where it is short and plain, else its digest: a publisher may write whatever it likes there."""
    return text if _PLAIN.fullmatch(text) else blake2b(text.encode(), digest_size=16).hexdigest()


class RedisResultCache:
    """A ``ResultCache``, and the ``ProvisionalResults``, in Redis.

    ``job_ttl_s`` is the lifetime of a job's status and result and of an idempotency key, ``cache_ttl_s`` that of
    ``recommend:`` and ``preference:``, ``degraded_ttl_s`` theirs where the documents are degraded, and ``lease_s`` the
    time after which a job whose worker fell silent may be claimed by another. Provisional documents live
    ``provisional_ttl_s``, never longer than degraded ones.
    """

    def __init__(
        self,
        client: Redis,
        clock: Clock,
        *,
        job_ttl_s: int,
        cache_ttl_s: int,
        lease_s: float,
        degraded_ttl_s: int = 600,
        provisional_ttl_s: int = 300,
    ) -> None:
        self._client = client
        self._clock = clock
        self._job_ttl_s = job_ttl_s
        self._cache_ttl_s = cache_ttl_s
        self._degraded_ttl_s = degraded_ttl_s
        self._provisional_ttl_s = min(provisional_ttl_s, degraded_ttl_s)
        self._lease_ms = max(1, round(lease_s * 1000))
        self._queue = RedisScript(client, "queue")
        self._claim = RedisScript(client, "claim")
        self._renew = RedisScript(client, "lease_renew")
        self._release = RedisScript(client, "lease_release")
        self._progress = RedisScript(client, "progress")
        self._provisional = RedisScript(client, "job_order", "provisional")
        self._succeed = RedisScript(client, "job_order", "succeed")
        self._fail = RedisScript(client, "fail")
        self._dead_lettered = RedisScript(client, "dead_lettered")

    def _now(self) -> str:
        return _instant(self._clock.now())

    async def mark_queued(self, job: Job) -> None:
        """See ``ResultCache.mark_queued``."""
        await self._queue([STATUS_PREFIX + job.job_id], [self._now(), self._job_ttl_s])

    async def claim(self, job: Job, *, token: str, replay: int = 0) -> Claim:
        """See ``ResultCache.claim``. A holder of the idempotency key counts as running while its lease lives.

        A job that repeats a finished one succeeds with that one's documents as if it had found them itself.
        """
        keys = [prefix + job.job_id for prefix in (STATUS_PREFIX, LEASE_PREFIX, DEAD_LETTER_DUE_PREFIX)]
        if job.idempotency_key:
            keys.append(f"{IDEMPOTENCY_PREFIX}{job.member_id}:{_in_a_name(job.idempotency_key)}")
        prefixes = [STATUS_PREFIX, RESULT_PREFIX, LEASE_PREFIX, VIEWS_PREFIX]
        outcome = await self._claim(
            keys, [job.job_id, token, replay, self._now(), self._lease_ms, self._job_ttl_s, *prefixes]
        )
        if isinstance(outcome, list):
            result, view, preference, degraded = cast("list[bytes]", outcome)
            documents = ResultDocuments(
                result=result, cached_view=view, preference=preference, degraded=degraded == b"1"
            )
            await self.succeed(job, documents, token=token)
            return Claim.SUCCEEDED_BEFORE
        return Claim(cast("bytes", outcome).decode())

    async def renew(self, tokens: Mapping[str, str]) -> None:
        """See ``ResultCache.renew``."""
        if tokens:
            await self._renew([LEASE_PREFIX + job_id for job_id in tokens], [self._lease_ms, *tokens.values()])

    async def release(self, job: Job, *, token: str) -> None:
        """See ``ResultCache.release``."""
        await self._release([LEASE_PREFIX + job.job_id], [token])

    async def report_progress(self, job: Job, progress: int) -> None:
        """See ``ResultCache.report_progress``."""
        await self._progress([STATUS_PREFIX + job.job_id], [min(max(progress, 0), 100)])

    async def wants_provisional(self, job: Job, *, token: str) -> bool:
        """See ``ProvisionalResults.wants_provisional``."""
        return await self._ask_provisional(job, token)

    async def show_provisional(self, job: Job, documents: ProvisionalDocuments, *, token: str) -> bool:
        """See ``ProvisionalResults.show_provisional``."""
        return await self._ask_provisional(job, token, documents.result, documents.cached_view)

    async def _ask_provisional(self, job: Job, token: str, *documents: bytes) -> bool:
        keys = [STATUS_PREFIX + job.job_id, LEASE_PREFIX + job.job_id]
        keys += [f"{p}{job.member_id}" for p in (LATEST_PREFIX, VIEW_PREFIX, ORDER_PREFIX, PROVISIONAL_PREFIX)]
        times = (self._now(), self._provisional_ttl_s, _requested_at(job))
        return await self._provisional(keys, [token, *times, *documents]) == 1

    async def succeed(self, job: Job, documents: ResultDocuments, *, token: str) -> bool:
        """See ``ResultCache.succeed``. A worker that lost its lease may still bring the result: it ends any lease.

        A job without ``requested_at_ns`` ranks by the ``submittedAt`` of its status, else by its first start.
        """
        member_ttl_s = self._degraded_ttl_s if documents.degraded else self._cache_ttl_s
        keys = [prefix + job.job_id for prefix in (STATUS_PREFIX, RESULT_PREFIX, LEASE_PREFIX)]
        prefixes = (LATEST_PREFIX, VIEW_PREFIX, PREFERENCE_PREFIX, ORDER_PREFIX, PROVISIONAL_PREFIX)
        keys += [f"{prefix}{job.member_id}" for prefix in prefixes]
        if job.idempotency_key:
            keys.append(VIEWS_PREFIX + job.job_id)
        parts = [documents.result, documents.cached_view, documents.preference]
        outcome = await self._succeed(
            keys, [self._now(), self._job_ttl_s, member_ttl_s, _requested_at(job), *parts, int(documents.degraded)]
        )
        return outcome != _FAILED_BEFORE

    async def fail(
        self, job_id: str, *, code: str, message: str, token: str | None = None, dead_letter: bool = False
    ) -> bool:
        """See ``ResultCache.fail``. With a ``token``, nothing happens while another worker holds the job.

        Without one, the message that failed may not be the job's own: a job that was begun is left as it is.
        """
        keys = [prefix + job_id for prefix in (STATUS_PREFIX, LEASE_PREFIX, DEAD_LETTER_DUE_PREFIX)]
        outcome = await self._fail(
            keys, [self._now(), self._job_ttl_s, code, message, token or "", int(dead_letter), self._lease_ms]
        )
        return outcome == 1

    async def dead_lettered(self, job_id: str, *, token: str) -> None:
        """See ``ResultCache.dead_lettered``."""
        keys = [prefix + job_id for prefix in (STATUS_PREFIX, LEASE_PREFIX, DEAD_LETTER_DUE_PREFIX)]
        await self._dead_lettered(keys, [token])

    async def job(self, job_id: str) -> JobView | None:
        """See ``ResultCache.job``. ``fields`` is the whole status hash."""
        with redis_errors():
            async with self._client.pipeline(transaction=True) as transaction:
                transaction.hgetall(STATUS_PREFIX + job_id)
                transaction.get(RESULT_PREFIX + job_id)
                stored, result = await transaction.execute()
        fields = {name.decode(): value.decode() for name, value in stored.items()}
        if "status" not in fields:
            return None
        status = JobStatus(fields["status"])
        shown = result if status is JobStatus.SUCCEEDED else None
        return JobView(status=status, progress=int(fields.get("progress", "0")), fields=fields, result=shown)

    async def cached_view(self, member_id: int) -> bytes | None:
        """See ``ResultCache.cached_view``."""
        with redis_errors():
            return cast("bytes | None", await self._client.get(f"{VIEW_PREFIX}{member_id}"))

    async def latest(self, member_id: int) -> bytes | None:
        """``latest:recommendation:{memberId}``, JSON, or None."""
        with redis_errors():
            return cast("bytes | None", await self._client.get(f"{LATEST_PREFIX}{member_id}"))
