"""``forget`` as people use it, on real servers: what is removed, what is left, and what is looked at."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import cast

import orjson
import pytest
import pytest_asyncio

from models.event import EventType
from models.job import Job
from tests.support.backend import job_body
from tests.support.command import run_here
from tests.support.event_site import EventSite, documents_of, event, event_site
from workers.broker import OutgoingMessage

ME, ANOTHER = 4242, 7


@dataclass(frozen=True, slots=True)
class Office:
    site: EventSite
    environment: Mapping[str, str]


@pytest_asyncio.fixture
async def office(mysql_url: str, redis_url: str, amqp_url: str) -> AsyncIterator[Office]:
    async with event_site(mysql_url, redis_url, amqp_url) as site:
        prefix = site.broker.topology.events.queue.removesuffix(".events.q")
        yield Office(
            site,
            {
                "BROKER_URL": amqp_url,
                "DATABASE_URL": mysql_url,
                "REDIS_URL": redis_url,
                "NAME_PREFIX": prefix,
                "RETRY_DELAYS_S": "0.05,0.2",
            },
        )


async def fill(site: EventSite) -> None:
    """All that there may be of two members, a job that waits and a dead one of each among it."""
    main = site.broker.topology.main
    for member_id in (ME, ANOTHER):
        job = Job(job_id=f"job-{member_id}", member_id=member_id, idempotency_key="k", requested_at_ns=1)
        await site.results.claim(job, token="t")
        await site.results.succeed(job, documents_of(1, 2), token="t")
        await site.intake.take_in([event(kind, 5, member_id=member_id) for kind in (EventType.PLAY, EventType.DISLIKE)])
        body = orjson.dumps(job_body(member_id, [1, 2]))
        for exchange, key in (
            (main.exchange, main.routing_key),
            (main.dead_letter_exchange, main.dead_letter_key),
        ):
            await site.broker.publish(OutgoingMessage(exchange=exchange, routing_key=key, body=body))


async def keys_of(site: EventSite, member_id: int) -> set[str]:
    """The keys of Redis whose name or content names the member or their job."""
    name = str(member_id).encode()
    found = set()
    async for key in site.redis.scan_iter():
        content = b""
        if await site.redis.type(key) == b"zset":
            content = b" ".join(cast("list[bytes]", await site.redis.zrange(key, 0, -1)))
        if name in bytes(key) or name in content:
            found.add(bytes(key).decode())
    return found


async def test_nothing_is_left_of_a_forgotten_member_and_all_of_another(office: Office) -> None:
    site = office.site
    await fill(site)
    before = await keys_of(site, ANOTHER)
    outcome = await run_here("forget", "--member", str(ME), environment=office.environment)
    assert outcome.code == 0, outcome.out + outcome.err
    removed, left = outcome.out.split("left", 1)
    assert "in all" in removed
    for place in ("events", "cached results", "jobs", "answers and keys", "refreshes asked for", "recommendation.q"):
        assert place in removed
    figures = [line.split("│")[2].strip() for line in left.splitlines() if line.startswith("│")]
    assert len(figures) > 10
    assert set(figures) == {"0"}
    assert f"that member {ME} was forgotten at" in outcome.out
    assert await keys_of(site, ME) == {f"songs_ai:forgotten:{ME}"}
    assert await site.rows(ME) == []
    assert len(await site.rows(ANOTHER)) == 2
    assert await keys_of(site, ANOTHER) - {"songs_ai:refresh:due"} == before - {"songs_ai:refresh:due"}
    main = site.broker.topology.main
    assert await site.broker.waiting([main.queue, main.dead_letter_queue]) == {
        main.queue: 1,
        main.dead_letter_queue: 1,
    }


async def test_who_only_looks_changes_nothing(office: Office) -> None:
    await fill(office.site)
    outcome = await run_here("forget", "--member", str(ME), "--look", environment=office.environment)
    assert outcome.code == 0
    assert "left" not in outcome.out
    assert len(await office.site.rows(ME)) == 2
    assert await office.site.redis.exists(f"recommend:{ME}") == 1


async def test_a_member_of_whom_nothing_is_known_is_forgotten_too(office: Office) -> None:
    outcome = await run_here("forget", "--member", "999", environment=office.environment)
    assert outcome.code == 0
    again = await run_here("forget", "--member", "999", environment=office.environment)
    assert again.code == 0


async def test_a_queue_that_is_too_long_to_be_looked_through_is_named_and_nothing_is_said_to_be_proven(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(office.site)
    monkeypatch.setattr("workers.member_messages.MAX_BROWSED", 1)
    main = office.site.broker.topology.main
    outcome = await run_here("forget", "--member", str(ME), environment=office.environment)
    assert outcome.code == 1, outcome.out + outcome.err
    assert f"{main.queue} holds too many messages" in outcome.err
    monkeypatch.setattr("workers.member_messages.MAX_BROWSED", 2)
    again = await run_here("forget", "--member", str(ME), environment=office.environment)
    assert again.code == 0
    assert not again.err
