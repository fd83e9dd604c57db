"""Events from their queue to the table and to what is cached: the same tests embedded and on real servers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import orjson
import pytest
import pytest_asyncio
import sqlalchemy as sa
import structlog

from core.errors import DependencyUnavailable, MemberForgotten
from core.feedback import DueRefresh
from core.job_codec import encode_job
from core.ports.collaborative import Interaction
from core.ports.recommending import ProgressReporter, RankedReporter
from core.ports.results import ResultDocuments
from models.event import EventType
from models.job import Job, JobStatus
from models.log_event import LogEvent
from services.clock import SystemClock
from services.event_log import SqlEventLog
from services.interaction_log import SqlInteractionLog
from services.schema import refresh_question
from tests.support.catalogue import SONGS, insert_songs, like
from tests.support.event_site import EventSite, consuming, documents_of, event, event_site
from tests.support.messaging import eventually, open_wire
from tests.support.waiting import until
from workers.broker import Delivery, Properties
from workers.disposition import Ack, AckReason
from workers.gone_items import GoneItems
from workers.handler import JobHandler
from workers.lease_keeper import LeaseKeeper
from workers.observer import SilentObserver

NOW_NS = 1_795_000_000_000_000_000
MINUTE_NS = 60_000_000_000
JOB = Job(job_id="job-1", member_id=42, requested_at_ns=NOW_NS)


async def kept(site: EventSite, n: int) -> None:
    async def are_there() -> bool:
        return len(await site.rows()) == n

    await until(are_there, within_s=20)


async def shown_in(site: EventSite, key: str) -> tuple[list[int], list[int]]:
    """The songs of the groups and of the candidates of a cached document."""
    found = orjson.loads(await site.redis.get(key) or b"{}")
    grouped = [song["song_id"] for group in found["groups"] for song in group["songs"]]
    return grouped, [row["song_id"] for row in found["candidates"]]


async def save(site: EventSite, job: Job, *item_ids: int) -> None:
    await site.results.claim(job, token="t")
    assert await site.results.succeed(job, documents_of(*item_ids), token="t")


async def due(site: EventSite, n: int = 1) -> list[DueRefresh]:
    found: list[DueRefresh] = []

    async def are_due() -> bool:
        found.extend(await site.requests.take(10))
        return len(found) >= n

    await until(are_due, within_s=10)
    return found


class EventContract:
    """What becomes of events."""

    async def test_every_kind_of_event_is_kept_and_its_delivery_acked(self, site: EventSite) -> None:
        kinds = [kind for kind in EventType if kind is not EventType.FORGET]
        async with consuming(site):
            await site.publish(event(kind) for kind in kinds)
            await kept(site, len(kinds))
        rows = {row.type: row for row in await site.rows()}
        assert set(rows) == {kind.value for kind in kinds}
        assert (rows["rating"].value, rows["play"].completed, rows["like"].completed) == (5.0, True, None)
        assert rows["like"].occurred_at.isoformat() == "2026-01-01T00:00:00"
        assert await site.n_waiting() == 0
        assert site.value("songs_ai_events_total", kind="like", outcome="kept") == 1

    async def test_an_event_that_comes_again_is_counted_once(self, site: EventSite) -> None:
        one, other = event(EventType.LIKE), event(EventType.LIKE, 2)
        async with consuming(site, max_events=2):
            await site.publish([one, one, other, one])
            await kept(site, 2)
        async with consuming(site):
            await site.publish([other, one, event(EventType.PLAY)])
            await kept(site, 3)
        assert await site.n_waiting() == 0

    async def test_what_is_no_event_is_dead_lettered_with_its_reason_and_the_others_are_kept(
        self, site: EventSite
    ) -> None:
        poison = [b"not json", b'{"eventId":"e","memberId":1,"songId":1,"type":"sing"}']
        async with consuming(site):
            await site.publish([event(EventType.LIKE), *poison, event(EventType.SKIP, 2)])
            await kept(site, 2)
            letters = await dead_letters(site, 2)
        assert sorted(letter.body for letter in letters) == sorted(poison)
        told = {letter.headers["x-last-error"]: letter.headers for letter in letters}
        assert any(str(error).startswith("type: must be one of like") for error in told)
        assert {headers["x-dead-letter-reason"] for headers in told.values()} == {"invalid"}
        assert {headers["x-last-error-code"] for headers in told.values()} == {"INVALID_EVENT"}
        assert {headers["x-dead-letter-route"] for headers in told.values()} == {"events"}

    async def test_an_instant_that_is_yet_to_come_is_that_of_the_arrival(self, site: EventSite) -> None:
        began = datetime.now(UTC).replace(tzinfo=None)
        await site.intake.take_in([event(EventType.LIKE, at_ns=9_000_000_000_000_000_000)])
        [row] = await site.rows()
        assert began <= row.occurred_at <= datetime.now(UTC).replace(tzinfo=None)

    # --- what is cached ---

    async def test_a_dislike_takes_the_song_out_of_all_that_is_cached_at_once(self, site: EventSite) -> None:
        await save(site, JOB, 1, 2, 3)
        await site.intake.take_in([event(EventType.DISLIKE, 1)])
        for key in ("latest:recommendation:42", "recommend:42", "job:result:job-1"):
            assert await shown_in(site, key) == ([2], [2, 3])
        assert await site.redis.ttl("recommend:42") > 0
        assert await site.redis.ttl("latest:recommendation:42") == -1

    async def test_what_is_left_keeps_its_order_and_is_counted_anew(self, site: EventSite) -> None:
        await save(site, JOB, 7, 8, 9)
        await site.intake.take_in([event(EventType.DISLIKE, 7)])
        found = orjson.loads(await site.redis.get("recommend:42") or b"")
        assert found["groups"] == [{"label": "g8", "songs": [{"song_id": 8, "rank": 1}]}]

    async def test_an_event_of_the_first_instant_that_there_is_counts_too(self, site: EventSite) -> None:
        await save(site, JOB, 1, 2)
        assert await site.intake.take_in([replace(event(EventType.DISLIKE, 1), occurred_at_ns=0)]) == frozenset()
        assert await shown_in(site, "recommend:42") == ([2], [2])

    async def test_another_members_results_and_other_events_leave_what_is_cached(self, site: EventSite) -> None:
        await save(site, JOB, 1, 2, 3)
        before = await site.redis.get("recommend:42")
        await site.intake.take_in([event(EventType.DISLIKE, 1, member_id=7), event(EventType.SKIP, 1)])
        assert await site.redis.get("recommend:42") == before

    async def test_a_job_under_way_does_not_bring_back_what_is_disliked_meanwhile(self, site: EventSite) -> None:
        await site.results.claim(JOB, token="t")
        await site.intake.take_in([event(EventType.DISLIKE, 2), event(EventType.DISLIKE, 3)])
        assert await site.results.succeed(JOB, documents_of(1, 2, 3), token="t")
        for key in ("latest:recommendation:42", "recommend:42", "job:result:job-1"):
            assert await shown_in(site, key) == ([1], [1])

    async def test_a_like_after_a_dislike_lets_the_song_be_shown_again(self, site: EventSite) -> None:
        await site.intake.take_in([event(EventType.DISLIKE, 2), event(EventType.LIKE, 2, at_ns=NOW_NS)])
        await save(site, JOB, 1, 2)
        assert await shown_in(site, "recommend:42") == ([1, 2], [1, 2])

    async def test_a_song_that_is_gone_disappears_from_the_results_of_all_members(self, site: EventSite) -> None:
        for member_id in (42, 43, 44):
            job = Job(job_id=f"job-{member_id}", member_id=member_id, requested_at_ns=NOW_NS)
            await save(site, job, *((1, 2) if member_id != 44 else (2, 11)))
        gone, asked = GoneItems(site.shelves), frozenset({1})
        sweeping = asyncio.create_task(gone.run())
        gone.note([1])

        async def is_swept() -> bool:
            return await shown_in(site, "job:result:job-43") == ([2], [2])

        await until(is_swept)
        sweeping.cancel()
        assert await site.shelves.withdraw_from_all(asked) is None  # one worker is enough
        assert [await shown_in(site, f"recommend:{member_id}") for member_id in (42, 44)] == [
            ([2], [2]),
            ([2, 11], [2, 11]),
        ]

    # --- what was shown ---

    async def test_what_is_shown_counts_once_a_day_and_a_reaction_starts_anew(self, site: EventSite) -> None:
        for number in range(3):
            job = Job(job_id=f"job-{number}", member_id=42, requested_at_ns=NOW_NS + number)
            await save(site, job, 1, 2, 3)
        today = cast("dict[bytes, bytes]", await site.redis.hgetall("songs_ai:shown:42"))
        assert [value.split(b":")[0] for value in today.values()] == [b"1", b"1"]
        assert await site.impressions.shown(42) == {}  # today's own list is not to change for it
        await site.redis.hset("songs_ai:shown:42", mapping={"1": "3:730000", "2": "2:730000"})
        await site.intake.take_in([event(EventType.PLAY, 1), event(EventType.PLAY, 9)])
        assert {item: shown.n_days for item, shown in (await site.impressions.shown(42)).items()} == {2: 2}
        assert site.value("songs_ai_reactions_total", arm="ranking", kind="play") == 1
        # Reacted to or not, today's too: what was shown was shown.
        assert await site.impressions.shown_to([41, 42]) == {42: frozenset({1, 2})}

    async def test_what_nobody_asked_to_see_is_not_shown(self, site: EventSite) -> None:
        await save(site, Job(job_id="r", member_id=42, source="refresh", requested_at_ns=NOW_NS), 1, 2)
        assert await site.redis.exists("songs_ai:shown:42") == 0

    # --- refreshes ---

    async def test_a_burst_of_events_asks_for_one_refresh(self, site: EventSite) -> None:
        async with consuming(site, max_events=5):
            await site.publish(event(EventType.LIKE, item_id) for item_id in range(1, 41))
            await kept(site, 40)
        [refresh] = await due(site)
        assert (refresh.member_id, refresh.is_sure, refresh.item_ids) == (42, True, [])
        await site.requests.done(refresh)
        assert await site.requests.take(10) == []
        assert site.value("songs_ai_refresh_requests_total", outcome="begun") == 1
        assert site.value("songs_ai_refresh_requests_total", outcome="debounced") == 39

    async def test_what_is_done_asks_only_where_the_taste_has_moved(self, site: EventSite) -> None:
        await site.intake.take_in([event(EventType.PLAY), event(EventType.SKIP, 2)])
        [refresh] = await due(site)
        assert not refresh.is_sure
        await site.requests.done(refresh)
        await site.intake.take_in([event(EventType.PLAY), event(EventType.UNLIKE, 2)])
        [refresh] = await due(site)
        assert refresh.is_sure

    async def test_events_change_the_likes_that_a_client_told(self, site: EventSite) -> None:
        assert await site.requests.ask(42, [1, 2, 2**63 - 1])
        await site.intake.take_in([event(EventType.LIKE, 3), event(EventType.UNLIKE, 1), event(EventType.DISLIKE, 2)])
        [refresh] = await due(site)
        assert sorted(refresh.item_ids) == [3, 2**63 - 1]

    async def test_a_refresh_whose_worker_dies_is_made_by_another_under_the_same_name(self, site: EventSite) -> None:
        await site.requests.ask(42)
        [taken] = await due(site)
        [again] = await due(site)  # nobody was done with it
        assert again == taken
        assert again.job(requested_at_ns=1).job_id == taken.job(requested_at_ns=2).job_id

    async def test_what_asks_while_a_refresh_is_published_gets_one_of_its_own(self, site: EventSite) -> None:
        await site.requests.ask(42)
        [first] = await due(site)
        assert await site.requests.ask(42)
        await site.requests.done(first)
        [second] = await due(site)
        assert first.job(requested_at_ns=1).job_id != second.job(requested_at_ns=1).job_id

    async def test_many_who_ask_at_once_are_the_first_but_once(self, site: EventSite) -> None:
        began = await asyncio.gather(*(site.requests.ask(42) for _ in range(20)))
        assert sorted(began) == [False] * 19 + [True]
        taken = await asyncio.gather(*(due_or_nothing(site) for _ in range(5)))
        assert sum(map(len, taken)) == 1

    # --- forgetting ---

    async def test_a_forgotten_member_leaves_nothing_behind(self, site: EventSite) -> None:
        await fill(site)
        await site.intake.take_in([event(EventType.FORGET, None, at_ns=NOW_NS)])
        assert (await site.forgetting.remains(42)).n == 0
        assert [row.member_id for row in await site.rows()] == [7]
        left = {key.decode() async for key in site.redis.scan_iter() if b"42" in key or b"job-1" in key}
        assert left == {"songs_ai:forgotten:42"}
        assert (await site.forgetting.remains(7)).n > 0

    async def test_what_is_forgotten_is_counted_by_place(self, site: EventSite) -> None:
        await fill(site)
        before = (await site.forgetting.remains(42)).places
        assert {place: n for place, n in before.items() if n} == {
            "events": 2,
            "cached results": 4,
            "jobs": 1,
            "shown and refused items": 2,
            "refreshes asked for": 3,
            site.broker.topology.events.dead_letter_queue: 1,
        }

    async def test_events_of_before_are_not_kept_after_it_and_those_of_later_are(self, site: EventSite) -> None:
        await site.intake.take_in([event(EventType.FORGET, None, at_ns=NOW_NS)])
        async with consuming(site):
            await site.publish([event(EventType.LIKE, 1, at_ns=NOW_NS), event(EventType.LIKE, 2, at_ns=NOW_NS + 1000)])
            await kept(site, 1)
        assert [row.item_id for row in await site.rows()] == [2]
        assert await site.n_waiting() == 0
        assert site.value("songs_ai_events_total", kind="like", outcome="late") == 1

    async def test_the_word_that_a_member_is_forgotten_leaves_what_is_newer_when_it_comes_again(
        self, site: EventSite
    ) -> None:
        end = event(EventType.FORGET, None, at_ns=NOW_NS)
        await fill(site)
        await site.intake.take_in([end])
        await save(site, Job(job_id="later", member_id=42, requested_at_ns=NOW_NS + MINUTE_NS), 1)
        await site.results.claim(replace(JOB, job_id="under way", requested_at_ns=NOW_NS + MINUTE_NS), token="t")
        await site.intake.take_in([event(EventType.LIKE, at_ns=NOW_NS + MINUTE_NS)])
        asked = sa.insert(refresh_question).values(
            part_key="p", custom_id="c", member_id=42, taste_mark="m", shown_ids={}
        )
        async with site.database.begin() as connection:
            await connection.execute(asked)
        before = await site.forgetting.remains(42)
        assert {place for place, n in before.places.items() if n} == {
            "events", "questions of batches", "cached results", "jobs", "shown and refused items",
            "refreshes asked for",
        }  # fmt: skip
        await site.intake.take_in([end])
        assert await site.forgetting.remains(42) == before
        await site.intake.take_in([event(EventType.FORGET, None, at_ns=NOW_NS + 2 * MINUTE_NS)])
        assert (await site.forgetting.remains(42)).n == 0

    async def test_within_one_batch_the_end_counts_for_what_was_before_it(self, site: EventSite) -> None:
        batch = [
            event(EventType.LIKE, 1, at_ns=NOW_NS - 1000),
            event(EventType.FORGET, None, at_ns=NOW_NS),
            event(EventType.LIKE, 2, at_ns=NOW_NS + 1000),
        ]
        assert await site.intake.take_in(batch) == {batch[0].event_id}
        assert [row.item_id for row in await site.rows()] == [2]

    async def test_a_job_under_way_of_a_forgotten_member_is_not_saved(self, site: EventSite) -> None:
        await site.results.claim(JOB, token="t")
        await site.intake.take_in([event(EventType.FORGET, None, at_ns=NOW_NS)])
        with pytest.raises(MemberForgotten):
            await site.results.succeed(JOB, documents_of(1, 2), token="t")
        assert (await site.forgetting.remains(42)).n == 0

    async def test_a_job_that_waits_is_not_begun_and_one_that_is_asked_for_later_is(self, site: EventSite) -> None:
        await site.intake.take_in([event(EventType.FORGET, None, at_ns=NOW_NS)])
        with pytest.raises(MemberForgotten):
            await site.results.claim(JOB, token="t")
        await save(site, Job(job_id="later", member_id=42, requested_at_ns=NOW_NS + MINUTE_NS), 1)
        assert await shown_in(site, "recommend:42") == ([1], [1])

    async def test_events_whose_member_is_forgotten_between_their_writes_leave_nothing(self, site: EventSite) -> None:
        """One worker writes the rows of events, another forgets their member, and the first goes on."""
        events = [event(EventType.DISLIKE, 1, at_ns=NOW_NS), event(EventType.LIKE, 2, at_ns=NOW_NS + 1000)]
        arrived_at = datetime.fromtimestamp(NOW_NS // 10**9, UTC) + timedelta(minutes=1)
        await site.intake.take_in([event(EventType.FORGET, None, at_ns=NOW_NS)])
        taken = await site.feedback.take_in(events[:1], arrived_at=arrived_at)
        assert (taken.n_asked, taken.n_debounced, list(taken.reacted)) == (0, 0, [])
        assert (await site.forgetting.remains(42)).n == 0
        assert (await site.feedback.take_in(events, arrived_at=arrived_at)).n_asked == 1
        assert not await site.redis.exists("songs_ai:refused:42")

    async def test_the_next_fit_does_not_know_a_forgotten_member(self, site: EventSite) -> None:
        insert_songs(site.database.sync_url, {"song_id": 1}, {"song_id": 2})
        like(site.database.sync_url, 42, 1)  # the backend's own row, which it may never delete
        events = [event(EventType.LIKE), event(EventType.REPEAT, 2), event(EventType.LIKE, member_id=7)]
        await site.intake.take_in(events)
        assert {each.member_id for each in await learnt(site)} == {7, 42}
        await site.intake.take_in([event(EventType.FORGET, None, at_ns=NOW_NS)])
        assert {each.member_id for each in await learnt(site)} == {7}
        await site.intake.take_in([event(EventType.LIKE, 2, at_ns=NOW_NS + MINUTE_NS)])
        assert {(each.member_id, each.item_id) for each in await learnt(site)} == {(7, 1), (42, 2)}

    async def test_a_forget_of_one_song_takes_back_that_song_alone(self, site: EventSite) -> None:
        await site.intake.take_in([event(EventType.LIKE), event(EventType.FORGET, 1, at_ns=NOW_NS)])
        assert [row.type for row in await site.rows()] == ["like", "forget"]

    async def test_old_events_are_cleaned_up_and_the_others_stay(self, site: EventSite) -> None:
        await site.intake.take_in([event(EventType.LIKE, at_ns=NOW_NS), event(EventType.SKIP, at_ns=NOW_NS - 1000)])
        border = (await site.rows())[1].occurred_at
        assert await SqlEventLog(site.database).delete_before(border.replace(tzinfo=UTC)) == 1
        assert [row.type for row in await site.rows()] == ["like"]


async def insisting(step: Callable[[], Awaitable[object]]) -> None:
    """Again where a deadlock ends it, as a worker does."""
    for _ in range(20):
        with suppress(DependencyUnavailable):
            await step()
            return
    raise AssertionError("it never came to an end")


async def due_or_nothing(site: EventSite) -> list[DueRefresh]:
    await asyncio.sleep(0.06)
    return list(await site.requests.take(10))


async def fill(site: EventSite) -> None:
    """All that there may be of two members."""
    await save(site, JOB, 1, 2)
    await save(site, Job(job_id="other", member_id=7, requested_at_ns=NOW_NS), 1, 2)
    likes = [event(EventType.LIKE, member_id=member_id) for member_id in (7, 42)]
    await site.intake.take_in([*likes, event(EventType.DISLIKE, 5)])
    await site.requests.ask(42, [1])
    async with consuming(site):
        await site.publish([b'{"memberId": 42}', b'{"memberId": 7}'])
        await dead_letters(site, 2, takes=False)


async def dead_letters(site: EventSite, n: int, *, takes: bool = True) -> list[Delivery]:
    queue = site.broker.topology.events.dead_letter_queue

    async def are_there() -> bool:
        return (await site.broker.waiting([queue])).get(queue) == n

    await until(are_there, within_s=10)
    found = []
    async with site.broker.browse(queue) as deliveries:
        async for delivery in deliveries:
            found.append(delivery)
            if takes:
                await site.broker.ack(delivery)
    return found


async def learnt(site: EventSite) -> list[Interaction]:
    return [each async for batch in SqlInteractionLog(site.database, SONGS).stream() for each in batch]


class TestEventsEmbedded(EventContract):
    @pytest_asyncio.fixture
    async def site(self, tmp_path: Path) -> AsyncIterator[EventSite]:
        async with event_site(f"sqlite:///{tmp_path / 'events.db'}") as opened:
            yield opened


class TestEventsOnServers(EventContract):
    @pytest_asyncio.fixture
    async def site(self, mysql_url: str, redis_url: str, amqp_url: str) -> AsyncIterator[EventSite]:
        async with event_site(mysql_url, redis_url, amqp_url) as opened:
            yield opened

    async def test_writers_and_a_forgetting_side_by_side_leave_no_row_of_before(self, site: EventSite) -> None:
        log, at = SqlEventLog(site.database), datetime.fromtimestamp(NOW_NS / 1e9, UTC)

        async def write(number: int) -> None:
            own = [event(EventType.LIKE, number * 100 + each, at_ns=NOW_NS - 1000) for each in range(20)]
            others = [event(EventType.LIKE, number, member_id=number)]
            await insisting(lambda: log.write([*own, *others], arrived_at=datetime.now(UTC)))

        async def forget() -> None:
            await insisting(lambda: site.forgetting.forget(42, at))

        for _ in range(3):
            await asyncio.gather(*(forget() if number == 6 else write(number) for number in range(12)))
        assert await site.rows(42) == []
        assert len(await site.rows()) == 11

    async def test_events_wait_while_the_database_is_away_and_none_is_lost(
        self, mysql_url: str, redis_url: str, amqp_url: str
    ) -> None:
        async with open_wire(mysql_url) as wire, event_site(wire.url, redis_url, amqp_url) as site:
            events = [event(EventType.LIKE, item_id) for item_id in range(30)]
            async with consuming(site, max_events=10):
                await wire.close()
                with structlog.testing.capture_logs() as logs:
                    await site.publish(events)
                    await eventually(lambda: any(line["event"] == LogEvent.EVENTS_WAITING for line in logs))
                await wire.open()
                await kept(site, len(events))
            assert await site.n_waiting() == 0
            assert site.value("songs_ai_events_total", kind="like", outcome="kept") == len(events)


class NoRecommender:
    """Nothing is to be made of the jobs of these tests."""

    async def recommend(
        self, job: Job, report: ProgressReporter, on_ranked: RankedReporter | None = None
    ) -> ResultDocuments:
        raise AssertionError(job)


async def test_a_job_of_a_member_who_was_forgotten_since_is_acked_and_its_poller_told(tmp_path: Path) -> None:
    async with event_site(f"sqlite:///{tmp_path / 'events.db'}") as site:
        await site.intake.take_in([event(EventType.FORGET, None, at_ns=NOW_NS)])
        handler = JobHandler(
            NoRecommender(),
            site.results,
            LeaseKeeper(site.results, lease_s=15),
            max_attempts=4,
            delays_s=(5.0,),
            job_timeout_s=5,
            clock=SystemClock(),
            observer=SilentObserver(),
        )
        delivery = Delivery(
            body=encode_job(JOB), headers={}, properties=Properties(), routing_key="", redelivered=False, handle=None
        )
        assert await handler.handle(delivery) == Ack(AckReason.FORGOTTEN)
        view = await site.results.job(JOB.job_id)
        assert view is not None
        assert (view.status, view.fields["error.code"]) == (JobStatus.FAILED, "MEMBER_FORGOTTEN")
        assert (await site.forgetting.remains(42)).n == 0
        assert await handler.handle(delivery) == Ack(AckReason.FAILED_BEFORE)
