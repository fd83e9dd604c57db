"""The dead-letter queue of jobs: read, looked through, sent back to work, or emptied, and nothing lost half-way.

A letter is taken off its queue only once what becomes of it is safe: its replay confirmed by the broker, its copy on
the disk. Whoever dies in between leaves it where it was; a copy that then exists twice is run once, by its number.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from core.errors import DependencyUnavailable, InvalidMessage
from core.job_codec import decode_job, with_attempt
from core.ports.clock import Clock
from core.ports.results import ResultCache
from models.job import Job, JobStatus
from workers.broker import Broker, Delivery, OutgoingMessage, Unroutable
from workers.delivery_count import DELIVERY_COUNT_HEADER, RETURNED_HEADER
from workers.settlement import (
    DEAD_LETTER_REASON_HEADER,
    DEAD_LETTER_ROUTE_HEADER,
    ERROR_CODE_HEADER,
    ERROR_DIGEST_HEADER,
    ERROR_HEADER,
    REPLAYED_HEADER,
    RETRY_REASON_HEADER,
    n_replays,
)
from workers.topology import Route, Topology

_NS_PER_S = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Notes of the journey that ended here: a replay begins another one.
_NOT_REPLAYED = frozenset({
    DEAD_LETTER_REASON_HEADER, DEAD_LETTER_ROUTE_HEADER, ERROR_CODE_HEADER, ERROR_DIGEST_HEADER, ERROR_HEADER,
    RETRY_REASON_HEADER, DELIVERY_COUNT_HEADER, RETURNED_HEADER, "CC", "BCC", "x-death", "x-first-death-exchange",
    "x-first-death-queue", "x-first-death-reason", "x-last-death-exchange", "x-last-death-queue", "x-last-death-reason",
})  # fmt: skip


class Fate(StrEnum):
    """What became of a letter that was to be replayed or purged."""

    REPLAYED = "replayed"
    REPLAYED_BEFORE = "replayed_before"
    SUCCEEDED_SINCE = "succeeded_since"
    NO_JOB = "no_job"
    PURGED = "purged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter as people look at it; ``job`` is None, and ``problem`` says why, where it is no job message.

    ``letter_id`` is the job's id, or for what has none a digest of the body, which begins with ``body-``.
    """

    delivery: Delivery
    letter_id: str
    job: Job | None
    problem: str

    @property
    def code(self) -> str:
        """The code of its last error; empty where nobody noted one."""
        return _text(self.delivery.headers.get(ERROR_CODE_HEADER))

    @property
    def error(self) -> str:
        """The sentence of its last error."""
        return _text(self.delivery.headers.get(ERROR_HEADER))

    @property
    def reason(self) -> str:
        """Why it was given up, or why the broker itself dead-lettered it."""
        noted = self.delivery.headers.get(DEAD_LETTER_REASON_HEADER)
        return _text(noted or self.delivery.headers.get("x-first-death-reason"))

    @property
    def asked_at_s(self) -> float | None:
        """When its job was asked for, or else its message sent, in seconds since the epoch."""
        if self.job is not None and self.job.requested_at_ns is not None:
            return self.job.requested_at_ns / _NS_PER_S
        sent_at = self.delivery.properties.timestamp
        return None if sent_at is None else (sent_at - _EPOCH) / timedelta(seconds=1)

    def age_s(self, now: datetime) -> float | None:
        """Seconds since it was asked for; None where nothing tells."""
        asked_at_s = self.asked_at_s
        return None if asked_at_s is None else (now - _EPOCH) / timedelta(seconds=1) - asked_at_s


def read_letter(delivery: Delivery) -> Letter:
    """The dead letter that ``delivery`` is; whatever it holds, it can be read."""
    try:
        job = decode_job(with_attempt(delivery.body, 0))
    except InvalidMessage as error:
        digest = f"body-{hashlib.sha256(delivery.body).hexdigest()[:12]}"
        return Letter(delivery=delivery, letter_id=error.job_id or digest, job=None, problem=str(error))
    return Letter(delivery=delivery, letter_id=job.job_id, job=job, problem="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which letters are meant: those that fit all that is given; nothing given means all of them."""

    ids: frozenset[str] = frozenset()
    code: str | None = None
    reason: str | None = None
    member_id: int | None = None
    older_than_s: float | None = None
    newer_than_s: float | None = None

    def takes(self, letter: Letter, now: datetime) -> bool:
        """Whether ``letter`` is meant; one of unknown age is neither older nor newer than anything."""
        if self.older_than_s is not None or self.newer_than_s is not None:
            age_s = letter.age_s(now)
            if age_s is None or not (self.older_than_s or 0) <= max(0.0, age_s) <= (self.newer_than_s or float("inf")):
                return False
        return (
            (not self.ids or letter.letter_id in self.ids)
            and self.code in {None, letter.code}
            and self.reason in {None, letter.reason}
            and (self.member_id is None or (letter.job is not None and letter.job.member_id == self.member_id))
        )


Tell = Callable[[Letter, Fate], None]
"""Is told of each letter that something became of."""


class DeadLetters:
    """The dead-letter queue of jobs at one broker, or with ``of_events`` that of events, of which none is replayed."""

    def __init__(self, broker: Broker, results: ResultCache, clock: Clock, *, of_events: bool = False) -> None:
        self._broker = broker
        self._results = results
        self._clock = clock
        topology = broker.topology
        self._queue = (topology.events if of_events else topology.main).dead_letter_queue

    async def n_waiting(self) -> int:
        """How many letters there are by now."""
        return (await self._broker.waiting([self._queue])).get(self._queue, 0)

    @asynccontextmanager
    async def those(self, wanted: Wanted) -> AsyncIterator[AsyncIterator[Letter]]:
        """The letters that are ``wanted``, oldest first; they are back in their places at the end of the block."""
        async with self._broker.browse(self._queue) as deliveries:
            yield self._those(deliveries, wanted)

    async def _those(self, deliveries: AsyncIterator[Delivery], wanted: Wanted) -> AsyncIterator[Letter]:
        async for delivery in deliveries:
            letter = read_letter(delivery)
            if wanted.takes(letter, self._clock.now()):
                yield letter

    async def replay(self, wanted: Wanted, tell: Tell, *, dry_run: bool = False, rate: float = 0.0) -> Counter[Fate]:
        """Send the ``wanted`` letters back to work, at most ``rate`` a second (0: as fast as they are confirmed).

        What is no job message stays. What has been replayed before, or has succeeded since, is only taken off. Raises
        ``DependencyUnavailable`` where broker or Redis is away; a cancellation waits for the letter in hand.
        """
        return await self._for_each(wanted, lambda letter: self._replay(letter, dry_run=dry_run), tell, rate)

    async def purge(self, wanted: Wanted, tell: Tell, keep: Callable[[Letter], None]) -> Counter[Fate]:
        """Take the ``wanted`` letters off for good, each once ``keep`` has returned."""

        async def purged(letter: Letter) -> Fate:
            await asyncio.to_thread(keep, letter)
            await self._broker.ack(letter.delivery)
            return Fate.PURGED

        return await self._for_each(wanted, purged, tell, rate=0.0)

    async def _for_each(
        self, wanted: Wanted, step: Callable[[Letter], Awaitable[Fate]], tell: Tell, rate: float
    ) -> Counter[Fate]:
        fates: Counter[Fate] = Counter()

        async def told(letter: Letter) -> Fate:
            fate = await step(letter)
            fates[fate] += 1
            tell(letter, fate)
            return fate

        async with self.those(wanted) as letters:
            async for letter in letters:
                fate = await _to_its_end(told(letter))
                if rate and fate is Fate.REPLAYED:
                    await asyncio.sleep(1 / rate)
        return fates

    async def _replay(self, letter: Letter, *, dry_run: bool) -> Fate:
        if letter.job is None:
            return Fate.NO_JOB
        number = n_replays(letter.delivery.headers) + 1
        view = await self._results.job(letter.job.job_id)
        fate = Fate.REPLAYED
        if view is not None and view.status is JobStatus.SUCCEEDED:
            fate = Fate.SUCCEEDED_SINCE
        elif view is not None and int(view.fields.get("replays", "0")) >= number:
            fate = Fate.REPLAYED_BEFORE
        if dry_run:
            return fate
        if fate is Fate.REPLAYED:
            await self._send_back(letter, letter.job, number)
        await self._broker.ack(letter.delivery)
        return fate

    async def _send_back(self, letter: Letter, job: Job, number: int) -> None:
        # A job without any status is queued from now on; a failed one stays so until a worker makes it running.
        await self._results.mark_queued(job)
        route = _route_of(letter.delivery, self._broker.topology)
        sent_at = self._clock.now()
        try:
            await self._publish(replay_message(letter.delivery, route, number, sent_at))
        except DependencyUnavailable:
            await self._results.fail(job.job_id, code=letter.code or "UNKNOWN", message=letter.error)
            raise

    async def _publish(self, message: OutgoingMessage) -> None:
        main = self._broker.topology.main
        try:
            await self._broker.publish(message)
        except Unroutable:
            # The batch queue is ours alone, and may not be there.
            if message.routing_key == main.routing_key:
                raise
            await self._broker.publish(replace(message, exchange=main.exchange, routing_key=main.routing_key))


def replay_message(delivery: Delivery, route: Route, number: int, sent_at: datetime) -> OutgoingMessage:
    """The dead letter on its way back to work: ``attempt`` is 0 again, and its age counts from ``sent_at``."""
    kept = {name: value for name, value in delivery.headers.items() if name not in _NOT_REPLAYED}
    return OutgoingMessage(
        exchange=route.exchange,
        routing_key=route.routing_key,
        body=with_attempt(delivery.body, 0),
        headers={**kept, REPLAYED_HEADER: number},
        properties=replace(delivery.properties, timestamp=sent_at, expiration=None),
    )


def _route_of(delivery: Delivery, topology: Topology) -> Route:
    """Where it came from, so that the jobs of a refresh do not return among those that somebody waits for."""
    noted = delivery.headers.get(DEAD_LETTER_ROUTE_HEADER)
    first_queue = delivery.headers.get("x-first-death-queue")
    is_batch = noted == topology.batch.name or (noted is None and first_queue == topology.batch.queue)
    return topology.batch if is_batch else topology.main


async def _to_its_end(step: Awaitable[Fate]) -> Fate:
    """What ``step`` returns; cancelled meanwhile, it is let end first, for it may stand between confirm and ack."""
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
