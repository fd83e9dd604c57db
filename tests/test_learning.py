"""What a member does, and their next result: from the event to the list, through the pipeline and what is cached."""

from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np
import orjson
import pytest
import pytest_asyncio

from config.prompt_texts import load_prompt_texts
from core.explanation import Explainer
from core.pipeline import RecommendationPipeline
from core.ports.catalogue import Catalogue
from core.ports.index import ItemIndex
from core.ports.results import Claim
from core.profile import ProfileConfig
from core.question import PipelineConfig
from core.reranking import Reranker
from core.taste_watch import DriftWatch
from models.catalogue import Item
from models.event import EventType
from models.job import Job, JobStatus
from services.answer_cache import RedisAnswerCache
from services.impressions import RedisImpressions
from services.listener_store import SqlListenerStore
from services.refresh_requests import DUE_KEY
from services.result_cache import RedisResultCache
from tests.support.builders import ArrayIndex, make_item
from tests.support.catalogue import SONGS, insert_songs, like
from tests.support.event_site import CLEAN, EventSite, event, event_site
from tests.support.hand_clock import HandClock
from tests.support.http_app import RecordingPublisher
from tests.support.scripted_language_model import RecordingObserver
from tests.support.waiting import until
from workers.event_refreshes import RequestedRefreshes

ME = 42
BALLADS, METAL = range(1, 101), range(101, 201)
START = datetime(2026, 11, 1, 12, tzinfo=UTC)
ITEMS = {number: make_item(number, title=f"T{number}", creator=f"A{number}") for number in (*BALLADS, *METAL)}


def vectors() -> dict[int, list[float]]:
    """Two genres of a hundred songs each, every song a little different."""
    noise = np.random.default_rng(5).normal(0, 0.25, (200, 8))
    noise[:100, 0] += 1
    noise[100:, 1] += 1
    return {number: noise[number - 1].tolist() for number in ITEMS}


class Shop:
    """All items, always."""

    async def items(self, item_ids: Collection[int]) -> Mapping[int, Item]:
        return {item_id: ITEMS[item_id] for item_id in item_ids if item_id in ITEMS}

    async def active_ids(self, item_ids: Collection[int]) -> set[int]:
        return set(item_ids) & set(ITEMS)


class Shelf:
    def __init__(self) -> None:
        self.index: ItemIndex = ArrayIndex(vectors(), dict.fromkeys(ITEMS, 0.5), ITEMS)

    def current(self) -> ItemIndex:
        return self.index


class School:
    """A worker's pipeline over the stores of an event site, on days that pass by hand."""

    def __init__(self, site: EventSite) -> None:
        self.site = site
        self.clock = HandClock(START)
        self.shelf = Shelf()
        self.listeners = SqlListenerStore(site.database, SONGS)
        self.results = RedisResultCache(site.redis, self.clock, job_ttl_s=600, cache_ttl_s=600, lease_s=15, clean=CLEAN)
        self.publisher = RecordingPublisher(self.results)
        explainer, observer = Explainer(SONGS, load_prompt_texts()), RecordingObserver()
        catalogue: Catalogue = Shop()  # type: ignore[assignment]
        self.pipeline = RecommendationPipeline(
            listeners=self.listeners,
            index=self.shelf,
            catalogue=catalogue,
            reranker=Reranker(None, explainer, observer, profile=SONGS, texts=load_prompt_texts()),
            explainer=explainer,
            answers=RedisAnswerCache(site.redis, ttl_s=600, degraded_ttl_s=600),
            observer=observer,
            clock=self.clock,
            profile=SONGS,
            config=PipelineConfig(version="test"),
            impressions=RedisImpressions(site.redis, self.clock, time_zone="UTC"),
        )

    async def shown(self, *favourites: int) -> list[int]:
        """The songs of the groups of a new result, saved as a worker saves it."""
        now_ns = int(self.clock.now().timestamp()) * 10**9
        job = Job(job_id=str(uuid4()), member_id=ME, favorite_item_ids=favourites, locale="en", requested_at_ns=now_ns)

        async def report(_: int) -> None:
            pass

        await self.results.claim(job, token="t")
        documents = await self.pipeline.recommend(job, report)
        await self.results.succeed(job, documents, token="t")
        return [song["song_id"] for group in orjson.loads(documents.result)["groups"] for song in group["songs"]]

    async def does(self, kind: EventType, *item_ids: int) -> None:
        at_ns = int(self.clock.now().timestamp()) * 10**9
        await self.site.intake.take_in([event(kind, item_id, member_id=ME, at_ns=at_ns) for item_id in item_ids])

    def pass_days(self, n: int) -> None:
        self.clock.move(timedelta(days=n).total_seconds())


@pytest_asyncio.fixture
async def school(tmp_path: Path) -> AsyncIterator[School]:
    async with event_site(f"sqlite:///{tmp_path / 'school.db'}") as site:
        insert_songs(site.database.sync_url, *({"song_id": number} for number in ITEMS))
        yield School(site)


LIKED = (1, 2, 3, 4, 5, 6)


async def test_a_dislike_is_gone_from_the_next_result_and_what_is_like_it_comes_later(school: School) -> None:
    first = await school.shown(*LIKED)
    rows = vectors()
    refused = first[0]

    def likeness(item_ids: list[int]) -> float:
        unit = np.array([np.array(rows[each]) / np.linalg.norm(rows[each]) for each in item_ids])
        return float((unit @ (np.array(rows[refused]) / np.linalg.norm(rows[refused]))).mean())

    await school.does(EventType.DISLIKE, refused)
    second = await school.shown(*LIKED)
    assert refused in first
    assert refused not in second
    assert likeness(second) < likeness(first[1:])


async def test_an_unlike_takes_a_like_back(school: School) -> None:
    await school.does(EventType.LIKE, *METAL[:6])
    assert sum(each in METAL for each in await school.shown()) >= 15
    await school.does(EventType.UNLIKE, *METAL[:6])
    await school.does(EventType.LIKE, *LIKED)
    assert sum(each in METAL for each in await school.shown()) <= 5


async def test_what_is_repeated_steers_and_what_is_skipped_does_not(school: School) -> None:
    await school.does(EventType.LIKE, *LIKED)
    before = await school.shown()
    assert not set(before) & set(METAL)
    await school.does(EventType.SKIP, *METAL[:8])
    assert not set(await school.shown()) & set(METAL)
    await school.does(EventType.REPEAT, *METAL[20:32])
    assert set(await school.shown()) & set(METAL)


async def test_recent_taste_weighs_beside_the_old_one(school: School) -> None:
    long_ago = (START - timedelta(days=200)).replace(tzinfo=None)
    like(school.site.database.sync_url, ME, *BALLADS[:12], at=long_ago)
    like(school.site.database.sync_url, ME, *METAL[:4], at=START.replace(tzinfo=None))
    found = await school.shown()
    share = sum(each in METAL for each in found) / len(found)
    assert 4 / 16 < share < 0.75


async def test_within_a_day_the_list_stays_and_tomorrow_it_is_another(school: School) -> None:
    first = await school.shown(*LIKED)
    assert await school.shown(*LIKED) == first
    school.pass_days(1)
    second = await school.shown(*LIKED)
    assert len(set(first) - set(second)) >= 5
    school.pass_days(1)
    third = await school.shown(*LIKED)
    assert set(third) != set(second)
    assert len(set(first) | set(second) | set(third)) >= 30


async def test_what_was_played_does_not_sink(school: School) -> None:
    first = await school.shown(*LIKED)
    await school.does(EventType.PLAY, *first[:10])
    school.pass_days(1)
    second = set(await school.shown(*LIKED))
    assert len(second & set(first[:10])) > len(second & set(first[10:]))


# --- refreshes that events ask for ---


class Watched:
    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def requested_refresh(self, *, outcome: str) -> None:
        self.outcomes.append(outcome)


def refreshing(school: School, watched: Watched) -> RequestedRefreshes:
    drift = DriftWatch(
        school.listeners, school.results, school.shelf, school.clock, config=ProfileConfig(), threshold=0.1
    )
    return RequestedRefreshes(
        school.site.requests,
        drift,
        results=school.results,
        publisher=school.publisher,
        clock=school.clock,
        observer=watched,
        poll_s=0.01,
    )


async def published(school: School, watched: Watched, n: int) -> None:
    refreshes = refreshing(school, watched)

    async def is_done() -> bool:
        await refreshes.publish_due()
        return len(watched.outcomes) >= n

    await until(is_done, within_s=10)


async def test_a_burst_of_likes_is_one_job_of_favourites(school: School) -> None:
    watched = Watched()
    for item_id in LIKED:
        await school.does(EventType.LIKE, item_id)
    await published(school, watched, 1)
    [job] = school.publisher.main
    assert (job.member_id, job.source, job.favorite_item_ids) == (ME, "favorites", ())
    assert school.publisher.status_when_published == [JobStatus.QUEUED]
    assert watched.outcomes == ["published"]


async def test_plays_of_the_same_ask_for_nothing_and_those_of_another_genre_for_a_refresh(school: School) -> None:
    watched = Watched()
    await school.does(EventType.LIKE, *LIKED)
    await published(school, watched, 1)
    await school.shown()
    school.pass_days(1)
    await school.does(EventType.PLAY, *BALLADS[10:14])
    await published(school, watched, 2)
    assert watched.outcomes == ["published", "not_needed"]
    await school.does(EventType.REPEAT, *METAL[:12])
    await published(school, watched, 3)
    assert watched.outcomes == ["published", "not_needed", "published"]


async def test_a_refresh_that_no_queue_takes_is_published_later_as_the_same_job(school: School) -> None:
    watched = Watched()
    school.publisher.refused_members = {ME}
    await school.does(EventType.LIKE, *LIKED)
    await published(school, watched, 1)
    assert (watched.outcomes, school.publisher.main) == (["failed"], [])
    school.publisher.refused_members = set()
    await published(school, watched, 2)
    [job] = school.publisher.main
    assert job.job_id == school.publisher.refused[0].job_id
    assert await school.results.claim(job, token="t") is Claim.GRANTED  # it had not ended when it was refused


async def test_a_refresh_that_meets_a_bug_is_given_up_and_the_others_are_made(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails_for_me(publisher: object, job: Job, *, batch: bool = False) -> None:
        if job.member_id == ME:
            raise ZeroDivisionError
        published_for.append(job.member_id)

    published_for: list[int] = []
    monkeypatch.setattr(type(school.publisher), "publish_job", fails_for_me)
    watched = Watched()
    await school.site.requests.ask(ME)
    await school.site.requests.ask(ME + 1)
    await published(school, watched, 2)
    assert (sorted(watched.outcomes), published_for) == (["failed", "published"], [ME + 1])
    assert not await school.site.redis.zcard(DUE_KEY)


@pytest.mark.parametrize("kind", [EventType.PLAY, EventType.SKIP, EventType.RATING])
async def test_a_reaction_is_a_new_question_and_none_is_the_old_one(school: School, kind: EventType) -> None:
    job = Job(job_id="j", member_id=ME, favorite_item_ids=LIKED, locale="en")
    before = (await school.pipeline.prepare(job)).fingerprint
    assert (await school.pipeline.prepare(job)).fingerprint == before
    await school.does(kind, 50)
    assert (await school.pipeline.prepare(job)).fingerprint != before
