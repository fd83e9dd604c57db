"""The backend under chaos: it publishes jobs, some of them twice and some of them wrong, until each is confirmed."""

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import aio_pika
import orjson
from aio_pika.exceptions import AMQPError
from redis.exceptions import RedisError

from tests.chaos.site import LIKED_BY_MEMBERS, ChaosSite
from tests.support.backend import job_body

LETTER_HEADER = "x-chaos-id"
POISON_SHARE = 0.03
N_MEMBERS = 400
_PAUSE_S = 0.1
_BATCH = 20
_CONFIRM_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Letter:
    """One message. ``job_id`` is None where nobody can read one from ``body``, ``key`` tells it from all others.

    ``has`` are the songs that its member must not be shown. The later ``requested_at`` is the newer job of a member.
    """

    key: str
    body: bytes
    job_id: str | None
    is_poison: bool = False
    has: frozenset[int] = frozenset()
    member_id: int = 0
    requested_at: str = ""


@dataclass(slots=True)
class Ledger:
    """All that was ever sent, and what the broker has confirmed of it."""

    sent: dict[str, Letter] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    n_publishes: int = 0

    @property
    def jobs(self) -> list[Letter]:
        """The letters whose status a poller can look up."""
        return [letter for letter in self.sent.values() if letter.job_id is not None]

    @property
    def n_valid(self) -> int:
        """Jobs that are no poison."""
        return len(self.sent) - len(self.poison)

    @property
    def poison(self) -> list[Letter]:
        """The letters that are no valid job."""
        return [letter for letter in self.sent.values() if letter.is_poison]


class LetterWriter:
    """Makes jobs and poison, always the same ones by the same ``chance``."""

    def __init__(self, chance: Random, songs: Collection[int]) -> None:
        self._chance = chance
        self._songs = sorted(songs)

    def write(self) -> Letter:
        """The next letter."""
        return self._poison() if self._chance.random() < POISON_SHARE else self._job()

    def _job(self) -> Letter:
        member_id = self._chance.randint(1, N_MEMBERS)
        favorites = self._chance.sample(self._songs, self._chance.randint(0, 8)) or None
        key = self._id()
        body = self._body(member_id, favorites) | {"jobId": key}
        has = frozenset(favorites or ()) | frozenset(LIKED_BY_MEMBERS.get(member_id, ()))
        return Letter(key, orjson.dumps(body), key, has=has, member_id=member_id, requested_at=str(body["requestedAt"]))

    def _body(self, member_id: int, favorites: Sequence[int] | None) -> dict[str, object]:
        requested_at = datetime.now(UTC) - timedelta(seconds=self._chance.uniform(0, 5))
        return job_body(
            member_id,
            favorites,
            strategy=self._chance.choice(["default", "default", "fast", "deep", None]),
            topK=self._chance.randint(5, 15),
            locale=self._chance.choice(["ko", "en", "ja", None]),
            requestedAt=requested_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        )

    def _poison(self) -> Letter:
        key = self._id()
        body = self._body(1, [1]) | {"jobId": key}
        readable = [body | {"topK": 0}, body | {"memberId": None}, body | {"favoriteSongIds": [1.5]}]
        unreadable = [b"", b"{", b"\xff\xfe", b"[]", b"null", orjson.dumps(body | {"jobId": 7})]
        if self._chance.random() < 0.5:
            return Letter(key, orjson.dumps(self._chance.choice(readable)), key, is_poison=True)
        return Letter(key, self._chance.choice(unreadable), None, is_poison=True)

    def _id(self) -> str:
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))


class Publisher:
    """Publishes with confirms, mandatory, and again until each is confirmed, whatever becomes of its connection."""

    def __init__(self, site: ChaosSite, ledger: Ledger) -> None:
        self._site, self._ledger = site, ledger
        self._connection: aio_pika.abc.AbstractConnection | None = None
        self._exchange: aio_pika.abc.AbstractExchange | None = None

    async def publish(self, letters: Iterable[Letter]) -> None:
        """Return once all are confirmed. The poller's key is written first, as the backend does."""
        letters = list(letters)
        self._ledger.sent.update((letter.key, letter) for letter in letters)
        await _until_done(lambda: self._mark_queued(letters), RedisError, OSError)
        await self.publish_again(letters)

    async def publish_again(self, letters: Iterable[Letter]) -> None:
        """Publish once more what was published before; return once all are confirmed again."""
        waiting = list(letters)
        while waiting:
            waiting = await self._try(waiting)

    async def close(self) -> None:
        """End the connection."""
        connection, self._connection, self._exchange = self._connection, None, None
        if connection is not None:
            await _works(connection.close())

    async def _mark_queued(self, letters: Sequence[Letter]) -> None:
        submitted_at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        async with self._site.redis.pipeline(transaction=False) as pipe:
            for letter in letters:
                if letter.job_id is not None:
                    pipe.hsetnx(f"job:status:{letter.job_id}", "status", "queued")
                    pipe.hsetnx(f"job:status:{letter.job_id}", "submittedAt", submitted_at)
                    pipe.expire(f"job:status:{letter.job_id}", 86_400)
            await pipe.execute()

    async def _try(self, letters: Sequence[Letter]) -> list[Letter]:
        """Publish; those that were not confirmed."""
        opened = await _works(self._open())
        confirmed = await asyncio.gather(*(_works(self._send(letter)) for letter in letters if opened))
        failed = [letter for letter, works in itertools.zip_longest(letters, confirmed) if not works]
        if failed:
            await self.close()
            await asyncio.sleep(_PAUSE_S)
        return failed

    async def _open(self) -> None:
        if self._exchange is None:
            self._connection = await aio_pika.connect(self._site.servers.broker.url, timeout=5)
            channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            self._exchange = await channel.get_exchange(self._site.topology.main.exchange, ensure=False)

    async def _send(self, letter: Letter) -> None:
        assert self._exchange is not None
        message = aio_pika.Message(
            letter.body,
            content_type="application/json",
            content_encoding="UTF-8",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=str(uuid.uuid4()),
            headers={LETTER_HEADER: letter.key, "__TypeId__": "com.example.recommend.RecommendationJob"},
        )
        await self._exchange.publish(message, self._site.topology.main.routing_key, mandatory=True)
        self._ledger.confirmed.add(letter.key)
        self._ledger.n_publishes += 1


async def _works(step: Coroutine[None, None, None]) -> bool:
    """Whether ``step`` ends in time and well; in a task of its own, for aiormq cancels who waits on what it closes."""
    task = asyncio.create_task(step)
    await asyncio.wait({task}, timeout=_CONFIRM_TIMEOUT_S)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if task.cancelled():
        return False
    error = task.exception()
    if error is not None and not isinstance(error, (AMQPError, OSError, RuntimeError)):
        raise error
    return error is None


async def _until_done(step: Callable[[], Awaitable[None]], *errors: type[Exception]) -> None:
    while True:
        try:
            return await step()
        except errors:
            await asyncio.sleep(_PAUSE_S)


class Load:
    """Keeps ``n_outstanding`` jobs under way until it is told to stop."""

    def __init__(self, site: ChaosSite, chance: Random, *, n_outstanding: int) -> None:
        self.ledger = Ledger()
        self.publisher = Publisher(site, self.ledger)
        self.publisher_of_operator = Publisher(site, self.ledger)
        self._site = site
        self._writer = LetterWriter(chance, site.songs)
        self._n_outstanding = n_outstanding
        self.stopping = asyncio.Event()

    @property
    def unfinished(self) -> list[Letter]:
        """Jobs whose end nobody has seen yet."""
        return [letter for letter in self.ledger.jobs if not self._site.trace.is_over(letter.key)]

    @property
    def n_over(self) -> int:
        """Jobs that have ended."""
        return self._site.trace.n_terminal

    def read(self) -> None:
        """Look at what has happened since."""
        self._site.trace.read()

    def history(self, letter: Letter) -> Sequence[str]:
        """The statuses that it has had."""
        return self._site.trace.statuses.get(letter.key, ())

    async def run(self) -> None:
        """Publish until ``stopping`` is set."""
        try:
            await self._run()
        finally:
            await self.publisher.close()
            await self.publisher_of_operator.close()

    async def _run(self) -> None:
        while not self.stopping.is_set():
            self.read()
            room = self._n_outstanding - len(self.unfinished)
            if room > 0:
                await self.publisher.publish(self._writer.write() for _ in range(min(room, _BATCH)))
            else:
                await asyncio.sleep(0.05)
