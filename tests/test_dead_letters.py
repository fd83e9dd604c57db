"""Dead letters over both brokers: found, replayed once, purged, and none lost half-way; and how they are shown."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigurationError, DependencyUnavailable, PublishRefused
from core.job_codec import decode_job
from core.ports.results import Claim, ResultDocuments
from models.job import Job, JobStatus
from services.redis_client import open_redis
from services.result_cache import RedisResultCache
from tests.support.hand_clock import HandClock
from tests.support.messaging import delete_topology, private_topology
from workers import dead_letter_text
from workers.amqp_broker import AmqpBroker
from workers.broker import JSON_MESSAGE, Broker, Delivery, OutgoingMessage
from workers.dead_letters import DeadLetters, Fate, Letter, Wanted, read_letter
from workers.memory_broker import MemoryBroker

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
EVERYTHING = Wanted()
AWAY = {
    "x-dead-letter-reason": "attempts_used_up",
    "x-last-error-code": "DEPENDENCY_UNAVAILABLE",
    "x-last-error": "database: mysql://root:hunter2@db/songs does not answer",
}
BUG = {
    "x-dead-letter-reason": "unexpected",
    "x-last-error-code": "INTERNAL_ERROR",
    "x-last-error-digest": "0123456789ab",
}
DOCUMENTS = ResultDocuments(result=b"{}", cached_view=b"{}", preference=b"{}")
POISON = b"\xff not a job"
POISON_ID = "body-45663c60be8c"


def body(job_id: str, member_id: int = 7, *, hours_ago: float = 1.0, attempt: int = 3) -> bytes:
    asked_at = (NOW - timedelta(hours=hours_ago)).timestamp()
    return orjson.dumps({
        "jobId": job_id, "memberId": member_id, "requestedAt": asked_at, "attempt": attempt, "theirs": "to the letter",
    })  # fmt: skip


def delivery_of(raw: bytes, headers: dict[str, object] | None = None, sent_at: datetime | None = None) -> Delivery:
    properties = replace(JSON_MESSAGE, timestamp=sent_at)
    return Delivery(
        body=raw, headers=headers or {}, properties=properties, routing_key="k", redelivered=False, handle=None
    )


class Office:
    """A dead-letter queue with statuses beside it, and the letters told of."""

    def __init__(self, broker: Broker, results: RedisResultCache) -> None:
        self.broker, self.results = broker, results
        self.letters = DeadLetters(broker, results, HandClock(NOW))
        self.told: list[tuple[str, Fate]] = []

    async def put(self, raw: bytes, **headers: object) -> None:
        main = self.broker.topology.main
        await self.broker.publish(
            OutgoingMessage(
                exchange=main.dead_letter_exchange, routing_key=main.dead_letter_key, body=raw, headers=headers
            )
        )

    async def put_failed(self, *job_ids: str) -> None:
        for job_id in job_ids:
            await self.put(body(job_id), **AWAY)
            await self.fail(job_id)

    async def fail(self, job_id: str, *, replay: int = 0) -> None:
        """As a worker does it."""
        await self.results.claim(Job(job_id=job_id, member_id=7), token="w", replay=replay)
        await self.results.fail(job_id, code="DEPENDENCY_UNAVAILABLE", message="no", token="w")

    async def status(self, job_id: str) -> JobStatus | None:
        view = await self.results.job(job_id)
        return view.status if view else None

    async def replay(self, wanted: Wanted = EVERYTHING, *, dry_run: bool = False, rate: float = 0.0) -> Counter[Fate]:
        return await self.letters.replay(wanted, self.tell, dry_run=dry_run, rate=rate)

    def tell(self, letter: Letter, fate: Fate) -> None:
        self.told.append((letter.letter_id, fate))

    async def waiting(self, queue: str | None = None) -> list[Delivery]:
        """What waits in ``queue`` (the jobs' own unless said), as it was before and is after."""
        async with self.broker.browse(queue or self.broker.topology.main.queue) as deliveries:
            return [delivery async for delivery in deliveries]

    async def dead(self) -> list[str]:
        return [read_letter(each).letter_id for each in await self.waiting(self.broker.topology.main.dead_letter_queue)]


class RefusingBroker(MemoryBroker):
    """Refuses what goes back to work."""

    is_refusing = True

    async def publish(self, message: OutgoingMessage) -> None:
        if self.is_refusing and message.exchange == self.topology.main.exchange:
            raise PublishRefused("not confirmed")
        await super().publish(message)


class DeadLettersContract:
    """Run by the subclasses, each over a broker of its own."""

    @pytest.fixture
    async def office(self, broker: Broker, url: str) -> AsyncIterator[Office]:
        async with open_redis(url, max_connections=5, timeout_s=5) as redis:
            yield Office(
                broker, RedisResultCache(redis, HandClock(NOW), job_ttl_s=86_400, cache_ttl_s=604_800, lease_s=15)
            )

    # --- looking ---

    async def test_those_that_are_wanted_are_found_in_their_order_and_stay_in_it(self, office: Office) -> None:
        for name in ("a", "b", "c"):
            await office.put(body(name), **(BUG if name == "b" else AWAY))
        await office.put(POISON, **{"x-dead-letter-reason": "invalid"})
        for _ in range(2):
            async with office.letters.those(Wanted(code="DEPENDENCY_UNAVAILABLE")) as letters:
                assert [letter.letter_id async for letter in letters] == ["a", "c"]
            assert await office.dead() == ["a", "b", "c", POISON_ID]
        assert await office.letters.n_waiting() == 4

    # --- replaying ---

    async def test_a_replayed_job_goes_back_with_its_tries_and_its_age_counted_from_nothing(
        self, office: Office
    ) -> None:
        await office.put_failed("a")
        assert await office.replay() == {Fate.REPLAYED: 1}
        (back,) = await office.waiting()
        assert back.body == body("a", attempt=0)
        assert back.headers == {"x-replayed": 1}
        assert replace(back.properties, message_id=None) == replace(JSON_MESSAGE, timestamp=NOW)
        assert await office.dead() == []
        assert await office.status("a") is JobStatus.FAILED

    async def test_replays_keep_their_order_and_leave_the_others_in_theirs(self, office: Office) -> None:
        await office.put_failed("a", "b", "c", "d", "e")
        await office.replay(Wanted(ids=frozenset({"b", "d", "e"})))
        assert [decode_job(each.body).job_id for each in await office.waiting()] == ["b", "d", "e"]
        assert await office.dead() == ["a", "c"]

    async def test_a_job_that_nobody_remembers_is_queued_by_its_replay(self, office: Office) -> None:
        await office.put(body("old"), **AWAY)
        await office.replay()
        assert await office.status("old") is JobStatus.QUEUED

    async def test_headers_of_the_publisher_go_back_and_a_replays_number_rises(self, office: Office) -> None:
        await office.put(body("a"), **AWAY, **{"__TypeId__": "com.example.Job", "x-replayed": 4, "x-returned": 9})
        await office.replay()
        (back,) = await office.waiting()
        assert back.headers == {"__TypeId__": "com.example.Job", "x-replayed": 5}

    async def test_a_job_of_a_refresh_goes_back_among_those_that_can_wait(self, office: Office) -> None:
        await office.put(body("a"), **AWAY, **{"x-dead-letter-route": "batch"})
        await office.put(body("b"), **AWAY, **{"x-dead-letter-route": "main"})
        await office.replay()
        batch = await office.waiting(office.broker.topology.batch.queue)
        assert [decode_job(each.body).job_id for each in batch] == ["a"]
        assert [decode_job(each.body).job_id for each in await office.waiting()] == ["b"]

    async def test_what_is_no_job_stays_and_is_told_of(self, office: Office) -> None:
        await office.put(POISON)
        await office.put(b'{"jobId":"wrong","memberId":"me"}')
        await office.put_failed("a")
        assert await office.replay() == {Fate.NO_JOB: 2, Fate.REPLAYED: 1}
        assert office.told == [(POISON_ID, Fate.NO_JOB), ("wrong", Fate.NO_JOB), ("a", Fate.REPLAYED)]
        assert await office.dead() == [POISON_ID, "wrong"]

    async def test_a_dry_run_changes_nothing(self, office: Office) -> None:
        await office.put_failed("a", "b")
        assert await office.replay(dry_run=True) == {Fate.REPLAYED: 2}
        assert await office.waiting() == []
        assert await office.dead() == ["a", "b"]
        assert await office.status("a") is JobStatus.FAILED

    async def test_what_has_succeeded_since_is_only_taken_off(self, office: Office) -> None:
        await office.put_failed("a")
        job = Job(job_id="a", member_id=7)
        assert await office.results.claim(job, token="w", replay=1) is Claim.GRANTED
        await office.results.succeed(job, DOCUMENTS, token="w")
        assert await office.replay() == {Fate.SUCCEEDED_SINCE: 1}
        assert (await office.waiting(), await office.dead()) == ([], [])

    async def test_what_was_replayed_before_is_only_taken_off_and_its_own_dead_letter_is_not(
        self, office: Office
    ) -> None:
        await office.put_failed("a")
        await office.fail("a", replay=1)
        await office.put(body("a"), **AWAY, **{"x-replayed": 1})
        assert await office.replay() == {Fate.REPLAYED_BEFORE: 1, Fate.REPLAYED: 1}
        (back,) = await office.waiting()
        assert back.headers["x-replayed"] == 2

    async def test_a_rate_is_kept(self, office: Office) -> None:
        await office.put_failed("a", "b", "c")
        began_s = asyncio.get_running_loop().time()
        await office.replay(rate=20)
        assert asyncio.get_running_loop().time() - began_s >= 0.14

    async def test_cancelled_in_the_middle_the_letter_in_hand_is_brought_to_its_end(self, office: Office) -> None:
        await office.put_failed("a", "b", "c")
        task = asyncio.create_task(office.replay(rate=0.01))
        async with asyncio.timeout(10):
            while not office.told:  # noqa: ASYNC110 - what is waited for has no event of its own
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [decode_job(each.body).job_id for each in await office.waiting()] == ["a"]
        assert await office.dead() == ["b", "c"]

    # --- purging ---

    async def test_a_letter_is_purged_once_it_is_kept_elsewhere(self, office: Office) -> None:
        await office.put_failed("a", "b")
        await office.put(POISON)
        kept: list[str] = []
        wanted = Wanted(ids=frozenset({"a", POISON_ID}))
        fates = await office.letters.purge(wanted, office.tell, lambda each: kept.append(each.letter_id))
        assert (fates, kept) == ({Fate.PURGED: 2}, ["a", POISON_ID])
        assert await office.dead() == ["b"]

    async def test_what_cannot_be_kept_is_not_purged(self, office: Office) -> None:
        await office.put_failed("a", "b")

        def full(letter: Letter) -> None:
            if letter.letter_id == "b":
                raise OSError("no space left on device")

        with pytest.raises(OSError, match="no space"):
            await office.letters.purge(EVERYTHING, office.tell, full)
        assert await office.dead() == ["b"]


class TestOnMemoryBroker(DeadLettersContract):
    @pytest.fixture
    async def broker(self) -> AsyncIterator[Broker]:
        broker = MemoryBroker(private_topology())
        await broker.start()
        yield broker
        await broker.close()

    @pytest.fixture
    def url(self) -> str:
        return "memory://"


class TestOnRabbitMQ(DeadLettersContract):
    @pytest.fixture
    async def broker(self, amqp_url: str) -> AsyncIterator[Broker]:
        broker = AmqpBroker(amqp_url, private_topology())
        await broker.start()
        yield broker
        await broker.close()
        await delete_topology(amqp_url, broker.topology)

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url


# --- what goes wrong ---


@asynccontextmanager
async def office_that_refuses() -> AsyncIterator[tuple[Office, RefusingBroker]]:
    broker = RefusingBroker(private_topology())
    await broker.start()
    async with open_redis("memory://", max_connections=5, timeout_s=5) as redis:
        results = RedisResultCache(redis, HandClock(NOW), job_ttl_s=86_400, cache_ttl_s=604_800, lease_s=15)
        yield Office(broker, results), broker


async def test_what_the_broker_does_not_take_stays_a_dead_letter_and_can_be_replayed_later() -> None:
    async with office_that_refuses() as (office, broker):
        await office.put(body("forgotten"), **AWAY)
        await office.put_failed("a")
        with pytest.raises(PublishRefused):
            await office.replay()
        assert await office.dead() == ["forgotten", "a"]
        assert await office.status("forgotten") is JobStatus.FAILED
        broker.is_refusing = False
        assert await office.replay() == {Fate.REPLAYED: 2}


async def test_without_redis_nothing_is_replayed() -> None:
    broker = MemoryBroker(private_topology())
    async with open_redis("redis://127.0.0.1:1/0", max_connections=1, timeout_s=1) as redis:
        office = Office(
            broker, RedisResultCache(redis, HandClock(NOW), job_ttl_s=86_400, cache_ttl_s=604_800, lease_s=15)
        )
        await office.put(body("a"), **AWAY)
        with pytest.raises(DependencyUnavailable):
            await office.replay()
        assert (await office.dead(), await office.waiting()) == (["a"], [])


# --- reading and finding ---


@given(
    st.binary(max_size=200), st.dictionaries(st.text(max_size=10), st.integers() | st.text(max_size=10) | st.binary())
)
def test_whatever_is_in_the_queue_can_be_read_and_shown(raw: bytes, headers: dict[str, object]) -> None:
    letter = read_letter(delivery_of(raw, headers))
    assert letter.job is None
    assert letter.letter_id
    for whole in (False, True):
        assert json.loads(dead_letter_text.document(letter, NOW, whole=whole))["id"] == letter.letter_id
    assert len(dead_letter_text.row(letter, NOW)) == len(dead_letter_text.ROW)
    shown = dead_letter_text.page(letter, NOW)
    assert not {character for character in shown if ord(character) < 32} - {"\n", "\t"}


def test_the_document_of_a_letter_holds_its_body_to_the_byte() -> None:
    exact = b'{"jobId":"j","memberId":1,"huge":123456789012345678901234567890,"at":1769860800.123456789}'
    told = json.loads(dead_letter_text.document(read_letter(delivery_of(exact, dict(AWAY))), NOW, whole=True))
    assert told["body"].encode() == exact
    assert (told["isJob"], told["memberId"], told["tries"], told["error"]["code"]) == (
        True,
        1,
        1,
        AWAY["x-last-error-code"],
    )
    told = json.loads(dead_letter_text.document(read_letter(delivery_of(POISON)), NOW, whole=True))
    assert (told["isJob"], told["id"], told["bodyBase64"]) == (False, POISON_ID, "/yBub3QgYSBqb2I=")


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ([], ["a", "b", "c", POISON_ID]),
        (["error=DEPENDENCY_UNAVAILABLE"], ["a"]),
        (["error=NO_SUCH"], []),
        (["reason=unexpected"], ["b"]),
        (["reason=invalid"], [POISON_ID]),
        (["member=8"], ["b", "c"]),
        (["member=8", "error=INTERNAL_ERROR"], ["b"]),
        (["older=2h"], ["b", "c"]),
        (["older=1.5d"], ["c"]),
        (["newer=90m"], ["a"]),
        (["older=2h", "newer=1d"], ["b"]),
    ],
)
def test_letters_are_found_by_error_reason_member_and_age(where: list[str], found: list[str]) -> None:
    letters = [
        read_letter(delivery_of(body("a", 7, hours_ago=1), dict(AWAY))),
        read_letter(delivery_of(body("b", 8, hours_ago=5), dict(BUG))),
        read_letter(delivery_of(b'{"jobId":"c","memberId":8}', sent_at=NOW - timedelta(days=2))),
        read_letter(delivery_of(POISON, {"x-dead-letter-reason": "invalid"})),
    ]
    wanted = dead_letter_text.wanted([], where)
    assert [letter.letter_id for letter in letters if wanted.takes(letter, NOW)] == found


@pytest.mark.parametrize("where", ["error", "colour=red", "older=2", "newer=h", "member=me", "older=-1h", "=x", ""])
def test_nonsense_after_where_is_named(where: str) -> None:
    with pytest.raises(ConfigurationError, match="--where"):
        dead_letter_text.wanted([], [where])


def test_a_condition_is_given_once() -> None:
    with pytest.raises(ConfigurationError, match="once"):
        dead_letter_text.wanted([], ["member=1", "member=2"])


@pytest.mark.parametrize(("hours_ago", "shown"), [(0.001, "4s"), (0.5, "30m"), (5, "5h"), (72, "3d"), (-1, "-1h")])
def test_an_age_is_told_in_the_unit_that_fits(hours_ago: float, shown: str) -> None:
    assert dead_letter_text.age(read_letter(delivery_of(body("a", hours_ago=hours_ago))), NOW) == shown
