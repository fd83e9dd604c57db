"""The Redis keys that the backend reads, and ours beside them: leases, idempotency keys, the order of jobs.

Every write is one Lua script, so a poller sees all of it or nothing, and a command that is sent twice, because its
first answer was lost, changes nothing the second time.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast
from zoneinfo import ZoneInfo

from redis.asyncio import Redis

from core.errors import MemberForgotten
from core.ports.clock import Clock
from core.ports.results import Claim, JobView, ProvisionalDocuments, ResultDocuments
from models.job import Job, JobStatus
from services.redis_client import RedisScript, redis_errors
from services.stored_names import in_a_name

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
REFUSED_PREFIX = "songs_ai:refused:"
SHOWN_PREFIX = "songs_ai:shown:"
FORGOTTEN_PREFIX = "songs_ai:forgotten:"
FORGOTTEN_JOB_PREFIX = "songs_ai:forgotten_job:"
INDEX_PREFIX = "songs_ai:of_member:"

MAX_SHOWN = 128
"""Items of a member whose showings are counted: beyond that a hash of Redis takes five times the memory each."""

Clean = Callable[[bytes, frozenset[int]], bytes | None]
"""A document without these items; None where it holds none of them."""
OnShown = Callable[[int, int], None]
"""Told of a member, and of how many items they were shown that they had not been shown that day."""

_FAILED_BEFORE = -1
_FORGOTTEN = -2
_REFRESH = "refresh"
_SHOWN_TTL_S = 30 * 86_400
_NS_PER_S = 1_000_000_000
_N_OF_A_SECOND = len("2026-01-31T00:00:00")
_MEMBER_KEYS = (
    LATEST_PREFIX, VIEW_PREFIX, PREFERENCE_PREFIX, ORDER_PREFIX, PROVISIONAL_PREFIX, REFUSED_PREFIX, SHOWN_PREFIX,
    FORGOTTEN_PREFIX,
)  # fmt: skip
_PROVISIONAL_KEYS = (
    LATEST_PREFIX, VIEW_PREFIX, ORDER_PREFIX, PROVISIONAL_PREFIX, REFUSED_PREFIX, FORGOTTEN_PREFIX,
)  # fmt: skip
_LAST_SECOND = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


def instant(at: datetime) -> str:
    """As the backend reads it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def sortable(at_ns: int) -> str:
    """Nanoseconds since the epoch as text that sorts as they do; what is beyond the calendar goes to its ends."""
    at_s, fraction_ns = divmod(at_ns, _NS_PER_S)
    within = datetime.fromtimestamp(min(max(at_s, 0), _LAST_SECOND), UTC)
    return f"{within:%Y-%m-%dT%H:%M:%S}.{fraction_ns:09d}"


def sortable_at(at: datetime) -> str:
    """The same of an aware instant from 1970 on, to the microsecond."""
    return sortable(int(at.timestamp()) * _NS_PER_S + at.microsecond * 1000)


def requested_at(job: Job) -> str:
    """The instant of the request as the scripts compare it, or an empty text."""
    return "" if job.requested_at_ns is None else sortable(job.requested_at_ns)


def _listed(item_ids: frozenset[int]) -> str:
    return ",".join(sorted(map(str, item_ids)))


class RedisResultCache:
    """A ``ResultCache``, and the ``ProvisionalResults``, in Redis.

    ``job_ttl_s`` is the lifetime of a job's status and result and of an idempotency key, ``cache_ttl_s`` that of
    ``recommend:`` and ``preference:``, ``degraded_ttl_s`` theirs where the documents are degraded, and ``lease_s`` the
    time after which a job whose worker fell silent may be claimed by another. Provisional documents live
    ``provisional_ttl_s``, never longer than degraded ones.

    A job that ``max_returns`` workers (0: any number) have left without a word, beside its retries, is granted for the
    last time, to be given up.

    What a member refused while a job was under way is taken out of its documents by ``clean``. What they are shown is
    counted by days of ``time_zone``, but for refreshes, which nobody has asked to see, and ``on_shown`` is told of it.
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
        time_zone: str = "UTC",
        max_returns: int = 0,
        clean: Clean | None = None,
        on_shown: OnShown | None = None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._job_ttl_s = job_ttl_s
        self._cache_ttl_s = cache_ttl_s
        self._degraded_ttl_s = degraded_ttl_s
        self._provisional_ttl_s = min(provisional_ttl_s, degraded_ttl_s)
        self._lease_ms = max(1, round(lease_s * 1000))
        self._time_zone = ZoneInfo(time_zone)
        self._max_returns = max_returns
        self._clean = clean
        self._on_shown = on_shown
        self._queue = RedisScript(client, "job_order", "queue")
        self._claim = RedisScript(client, "job_order", "claim")
        self._renew = RedisScript(client, "lease_renew")
        self._release = RedisScript(client, "lease_release")
        self._progress = RedisScript(client, "progress")
        self._provisional = RedisScript(client, "job_order", "provisional")
        self._succeed = RedisScript(client, "job_order", "succeed")
        self._fail = RedisScript(client, "fail")
        self._dead_lettered = RedisScript(client, "dead_lettered")

    def _now(self) -> str:
        return instant(self._clock.now())

    async def mark_queued(self, job: Job) -> None:
        """See ``ResultCache.mark_queued``."""
        keys = [STATUS_PREFIX + job.job_id, f"{INDEX_PREFIX}{job.member_id}"]
        await self._queue(keys, [self._now(), self._job_ttl_s, job.job_id])

    async def claim(self, job: Job, *, token: str, replay: int = 0) -> Claim:
        """See ``ResultCache.claim``. A holder of the idempotency key counts as running while its lease lives.

        A job that repeats a finished one succeeds with that one's documents as if it had found them itself.
        """
        keys = [prefix + job.job_id for prefix in (STATUS_PREFIX, LEASE_PREFIX, DEAD_LETTER_DUE_PREFIX)]
        keys += [f"{prefix}{job.member_id}" for prefix in (FORGOTTEN_PREFIX, INDEX_PREFIX)]
        keys.append(FORGOTTEN_JOB_PREFIX + job.job_id)
        if job.idempotency_key:
            keys.append(f"{IDEMPOTENCY_PREFIX}{job.member_id}:{in_a_name(job.idempotency_key)}")
        prefixes = [STATUS_PREFIX, RESULT_PREFIX, LEASE_PREFIX, VIEWS_PREFIX]
        # Each retry finds the job running and without a lease, too.
        max_returns = self._max_returns and self._max_returns + job.attempt
        values: list[bytes | str | int] = [
            job.job_id,
            token,
            replay,
            self._now(),
            self._lease_ms,
            self._job_ttl_s,
            *prefixes,
        ]
        outcome = await self._claim(keys, [*values, requested_at(job), max_returns])
        if isinstance(outcome, list):
            result, view, preference, degraded = cast("list[bytes]", outcome)
            documents = ResultDocuments(
                result=result, cached_view=view, preference=preference, degraded=degraded == b"1"
            )
            await self.succeed(job, documents, token=token)
            return Claim.SUCCEEDED_BEFORE
        if outcome == b"forgotten":
            raise MemberForgotten("the member was forgotten since the job was asked for")
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
        return await self._ask_provisional(job, token, frozenset()) == 1

    async def show_provisional(self, job: Job, documents: ProvisionalDocuments, *, token: str) -> bool:
        """See ``ProvisionalResults.show_provisional``."""
        refused: frozenset[int] = frozenset()
        while True:
            parts = [self._without(refused, document) for document in (documents.result, documents.cached_view)]
            outcome = await self._ask_provisional(job, token, refused, *parts)
            if not isinstance(outcome, list):
                return outcome == 1
            refused = frozenset(map(int, outcome))

    async def _ask_provisional(self, job: Job, token: str, refused: frozenset[int], *documents: bytes) -> object:
        keys = [STATUS_PREFIX + job.job_id, LEASE_PREFIX + job.job_id]
        keys += [f"{prefix}{job.member_id}" for prefix in _PROVISIONAL_KEYS]
        times = (self._now(), self._provisional_ttl_s, requested_at(job))
        return await self._provisional(keys, [token, *times, _listed(refused), *documents])

    def _without(self, refused: frozenset[int], document: bytes) -> bytes:
        """``document`` as far as the member has not refused it."""
        return (self._clean(document, refused) if self._clean and refused else None) or document

    async def succeed(self, job: Job, documents: ResultDocuments, *, token: str) -> bool:
        """See ``ResultCache.succeed``. A worker that lost its lease may still bring the result: it ends any lease.

        A job without ``requested_at_ns`` ranks by the ``submittedAt`` of its status, else by its first start.
        """
        refused: frozenset[int] = frozenset()
        while True:
            outcome = await self._succeed_without(refused, job, self._cleaned(documents, refused))
            if not isinstance(outcome, list):
                break
            refused = frozenset(map(int, outcome))
        if outcome == _FORGOTTEN:
            raise MemberForgotten("the member was forgotten while the job was under way")
        n_shown = cast("int", outcome) - 1
        if self._on_shown and n_shown > 0:
            self._on_shown(job.member_id, n_shown)
        return outcome != _FAILED_BEFORE

    def _cleaned(self, documents: ResultDocuments, refused: frozenset[int]) -> ResultDocuments:
        return replace(
            documents,
            result=self._without(refused, documents.result),
            cached_view=self._without(refused, documents.cached_view),
            shown_ids=tuple(item_id for item_id in documents.shown_ids if item_id not in refused),
        )

    async def _succeed_without(self, refused: frozenset[int], job: Job, documents: ResultDocuments) -> object:
        """What the script says: the items, where the member refused others than these."""
        member_ttl_s = self._degraded_ttl_s if documents.degraded else self._cache_ttl_s
        keys = [prefix + job.job_id for prefix in (STATUS_PREFIX, RESULT_PREFIX, LEASE_PREFIX)]
        keys += [f"{prefix}{job.member_id}" for prefix in _MEMBER_KEYS]
        if job.idempotency_key:
            keys.append(VIEWS_PREFIX + job.job_id)
        arguments: list[str | bytes | int] = [self._now(), self._job_ttl_s, member_ttl_s, requested_at(job)]
        arguments += [documents.result, documents.cached_view, documents.preference, int(documents.degraded)]
        shown = () if job.source == _REFRESH else documents.shown_ids[:MAX_SHOWN]
        arguments += [_listed(refused), self._today(), _SHOWN_TTL_S, MAX_SHOWN, *shown]
        return await self._succeed(keys, arguments)

    def _today(self) -> int:
        return self._clock.now().astimezone(self._time_zone).date().toordinal()

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

    async def made_at(self, member_id: int) -> datetime | None:
        """See ``LastResults.made_at``; to the second."""
        with redis_errors():
            order = cast("bytes | None", await self._client.get(f"{ORDER_PREFIX}{member_id}"))
        if order is None:
            return None
        return datetime.strptime(order[:_N_OF_A_SECOND].decode(), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
