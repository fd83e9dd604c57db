"""Dead letters as the HTTP API gets them from a broker."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from models.job import JobStatus
from services.redis_client import open_redis
from services.result_cache import RedisResultCache
from tests.support.hand_clock import HandClock
from tests.support.messaging import private_topology
from workers.broker import OutgoingMessage
from workers.dead_letter_desk import BrokerDeadLetterDesk
from workers.memory_broker import MemoryBroker

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
HEADERS = {"x-dead-letter-reason": "attempts_used_up", "x-last-error-code": "BROKEN", "x-last-error": "at hunter2"}


class Desk:
    """A desk, and the broker and cache beneath it."""

    def __init__(self, broker: MemoryBroker, results: RedisResultCache) -> None:
        self.broker, self.results = broker, results
        self.desk = BrokerDeadLetterDesk(
            broker, results, HandClock(NOW), mask=lambda text: text.replace("hunter2", "***")
        )

    async def put(self, body: bytes) -> None:
        main = self.broker.topology.main
        await self.broker.publish(
            OutgoingMessage(
                exchange=main.dead_letter_exchange, routing_key=main.dead_letter_key, body=body, headers=HEADERS
            )
        )

    async def put_job(self, job_id: str) -> None:
        asked_at = (NOW - timedelta(minutes=2)).timestamp()
        await self.put(orjson.dumps({"jobId": job_id, "memberId": 7, "requestedAt": asked_at, "attempt": 3}))


@pytest.fixture
async def made() -> AsyncIterator[Desk]:
    broker = MemoryBroker(private_topology())
    await broker.start()
    async with open_redis("memory://", max_connections=5, timeout_s=5) as redis:
        yield Desk(broker, RedisResultCache(redis, HandClock(NOW), job_ttl_s=600, cache_ttl_s=600, lease_s=15))
    await broker.close()


async def test_a_letter_is_told_without_the_secrets_in_its_error(made: Desk) -> None:
    await made.put_job("a")
    page = await made.desk.oldest(10)
    [letter] = page.letters
    assert (letter.letter_id, letter.member_id, letter.code, letter.n_tries) == ("a", 7, "BROKEN", 4)
    assert (letter.error, letter.age_s) == ("at ***", 120.0)


async def test_looking_leaves_every_letter_where_it_was(made: Desk) -> None:
    for job_id in "abc":
        await made.put_job(job_id)
    for _ in range(2):
        page = await made.desk.oldest(2)
        assert ([letter.letter_id for letter in page.letters], page.n) == (["a", "b"], 3)


async def test_what_is_no_job_is_listed_by_what_is_wrong_with_it_and_stays(made: Desk) -> None:
    await made.put(b"\xff")
    [letter] = (await made.desk.oldest(10)).letters
    assert letter.member_id is None
    assert letter.letter_id.startswith("body-")
    assert await made.desk.replay([letter.letter_id]) == {letter.letter_id: "no_job"}
    assert (await made.desk.oldest(10)).n == 1


async def test_a_replay_sends_what_was_named_back_to_work_and_nothing_else(made: Desk) -> None:
    for job_id in "abc":
        await made.put_job(job_id)
    assert await made.desk.replay(["b", "nobody"]) == {"b": "replayed"}
    assert [letter.letter_id for letter in (await made.desk.oldest(10)).letters] == ["a", "c"]
    main = made.broker.topology.main.queue
    assert await made.broker.waiting([main]) == {main: 1}
    view = await made.results.job("b")
    assert view is not None
    assert view.status is JobStatus.QUEUED


async def test_no_names_replay_nothing(made: Desk) -> None:
    await made.put_job("a")
    assert await made.desk.replay([]) == {}
    assert (await made.desk.oldest(10)).n == 1
