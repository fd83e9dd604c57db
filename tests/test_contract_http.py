"""The POST routes of the wire contract, over real Redis: bodies and answers to the letter."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.recommendations import PUBLISH_WINDOW, JobDesk, _with_cached_mark
from core.errors import DependencyUnavailable
from core.feedback import DueRefresh
from core.job_codec import decode_job, encode_job
from core.ports.messages import JobPublisher
from core.ports.results import ProvisionalDocuments, ResultDocuments
from models.job import Job, JobStatus, Strategy
from tests.support.http_app import HttpBench, http_bench

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture
async def bench(redis_url: str) -> AsyncIterator[HttpBench]:
    async with http_bench(redis_url) as bench:
        yield bench


def view_of(likes: list[int], date: str = "2026-02-28", **marks: object) -> bytes:
    groups = [{"label": "밤의 노래", "tagline": "夜", "songs": []}]
    view = {"favorite_song_ids": likes, "groups": groups, "candidates": [], "generated_date": date}
    return orjson.dumps({**view, **marks})


async def cache(bench: HttpBench, member_id: int, view: bytes) -> None:
    """Write ``view`` the way a worker does."""
    job = Job(job_id=str(uuid.uuid4()), member_id=member_id)
    await bench.results.claim(job, token="t")
    documents = ResultDocuments(result=b"{}", cached_view=view, preference=b"{}")
    await bench.results.succeed(job, documents, token="t")


async def show_provisional(bench: HttpBench, member_id: int, view: bytes) -> None:
    job = Job(job_id=str(uuid.uuid4()), member_id=member_id)
    await bench.results.claim(job, token="t")
    documents = ProvisionalDocuments(result=b"{}", cached_view=view)
    assert await bench.results.show_provisional(job, documents, token="t")


# --- POST /recommend ---


async def test_recommend_publishes_a_job_and_says_queued(bench: HttpBench) -> None:
    response = await bench.client.post("/recommend", json={"memberId": 42, "favorite_song_ids": [3, 1, 2]})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"status", "message", "generated_date", "jobId"}
    assert body["status"] == "queued"
    assert body["message"]
    assert body["generated_date"] is None
    assert UUID.fullmatch(body["jobId"])
    (job,) = bench.publisher.main
    assert job == Job(
        job_id=body["jobId"],
        member_id=42,
        favorite_item_ids=(3, 1, 2),
        strategy=Strategy.DEFAULT,
        source="http",
        requested_at_ns=int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * 10**9 + 123_456_000,
    )
    assert bench.publisher.batch == []


async def test_the_job_is_queued_for_its_poller_before_it_is_published(bench: HttpBench) -> None:
    response = await bench.client.post("/recommend", json={"memberId": 42})
    assert bench.publisher.status_when_published == [JobStatus.QUEUED]
    view = await bench.results.job(response.json()["jobId"])
    assert view is not None
    assert view.status is JobStatus.QUEUED
    assert view.fields["submittedAt"] == "2026-03-01T12:00:00.123Z"


@pytest.mark.parametrize("member_id", [42, "42", "0042"])
async def test_a_member_id_may_be_an_integer_or_a_string_of_digits(bench: HttpBench, member_id: object) -> None:
    await bench.client.post("/recommend", json={"memberId": member_id})
    assert [job.member_id for job in bench.publisher.main] == [42]


@pytest.mark.parametrize("member_id", [0, -7, 2**63 - 1, -(2**63)])
async def test_member_ids_of_the_whole_64_bits_are_taken(bench: HttpBench, member_id: int) -> None:
    await bench.client.post("/recommend", json={"memberId": member_id})
    assert [job.member_id for job in bench.publisher.main] == [member_id]


@pytest.mark.parametrize("body", [{}, {"favorite_song_ids": None}, {"favorite_song_ids": []}])
async def test_likes_may_be_absent_null_or_empty(bench: HttpBench, body: dict[str, object]) -> None:
    await cache(bench, 42, view_of([]))
    response = await bench.client.post("/recommend", json={"memberId": 42, **body})
    assert response.json()["status"] == "queued"
    assert [job.favorite_item_ids for job in bench.publisher.main] == [()]


async def test_unknown_fields_are_ignored(bench: HttpBench) -> None:
    response = await bench.client.post("/recommend", json={"memberId": 42, "mood": "sad", "jobId": "mine"})
    assert response.status_code == 200
    assert response.json()["jobId"] != "mine"


async def test_every_request_is_a_job_of_its_own(bench: HttpBench) -> None:
    answers = [(await bench.client.post("/recommend", json={"memberId": 42})).json() for _ in range(3)]
    assert len({answer["jobId"] for answer in answers}) == 3


async def test_a_published_job_survives_the_wire(bench: HttpBench) -> None:
    await bench.client.post("/recommend", json={"memberId": 42, "favorite_song_ids": [1, 2**62]})
    (job,) = bench.publisher.main
    assert decode_job(encode_job(job)) == job


@pytest.mark.parametrize("likes", [[1, 2, 3], [3, 2, 1], [1, 1, 2, 3]])
async def test_recommend_is_completed_where_the_cache_is_of_exactly_these_likes(
    bench: HttpBench, likes: list[int]
) -> None:
    await cache(bench, 42, view_of([3, 1, 2], "2026-02-28"))
    response = await bench.client.post("/recommend", json={"memberId": 42, "favorite_song_ids": likes})
    body = response.json()
    assert set(body) == {"status", "message", "generated_date", "jobId"}
    assert (body["status"], body["generated_date"], body["jobId"]) == ("completed", "2026-02-28", None)
    assert bench.publisher.main == []


@pytest.mark.parametrize("likes", [[1, 2], [1, 2, 3, 4], [4, 5, 6]])
async def test_recommend_is_queued_where_the_cache_is_of_other_likes(bench: HttpBench, likes: list[int]) -> None:
    await cache(bench, 42, view_of([1, 2, 3]))
    response = await bench.client.post("/recommend", json={"memberId": 42, "favorite_song_ids": likes})
    assert response.json()["status"] == "queued"
    assert [job.favorite_item_ids for job in bench.publisher.main] == [tuple(likes)]


@pytest.mark.parametrize("locale", ["ko", "ja", "en"])
async def test_a_locale_goes_into_the_job(bench: HttpBench, locale: str) -> None:
    response = await bench.client.post("/recommend", json={"memberId": 42, "locale": locale})
    assert response.json()["status"] == "queued"
    assert [job.locale for job in bench.publisher.main] == [locale]


@pytest.mark.parametrize("locale", [None, "", "42", "de", "EN"])
async def test_what_is_no_locale_is_the_default_one_as_in_a_job_message(bench: HttpBench, locale: object) -> None:
    await cache(bench, 42, view_of([1, 2], locale="ja"))
    response = await bench.client.post("/recommend", json={"memberId": 42, "locale": locale})
    assert (response.status_code, [job.locale for job in bench.publisher.main]) == (200, [None])
    kept = await bench.client.post("/recommend", json={"memberId": 42, "favorite_song_ids": [1, 2], "locale": locale})
    assert kept.json()["status"] == "completed"


@pytest.mark.parametrize("locale", [42, True, ["en"], {"en": 1}])
async def test_a_locale_that_is_no_string_is_refused_as_in_a_job_message(bench: HttpBench, locale: object) -> None:
    response = await bench.client.post("/recommend", json={"memberId": 42, "locale": locale})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "locale")


@pytest.mark.parametrize(
    ("marks", "status"), [({"locale": "en"}, "completed"), ({"locale": "ko"}, "queued"), ({}, "queued")]
)
async def test_what_is_cached_in_another_language_is_made_anew(
    bench: HttpBench, marks: dict[str, str], status: str
) -> None:
    await cache(bench, 42, view_of([1, 2], **marks))
    response = await bench.client.post("/recommend", json={"memberId": 42, "favorite_song_ids": [1, 2], "locale": "en"})
    assert response.json()["status"] == status
    assert len(bench.publisher.main) == (status == "queued")


async def test_recommend_is_queued_while_the_cache_is_but_provisional(bench: HttpBench) -> None:
    await show_provisional(bench, 42, view_of([1, 2, 3], provisional=True))
    response = await bench.client.post("/recommend", json={"memberId": 42, "favorite_song_ids": [1, 2, 3]})
    assert (response.json()["status"], response.json()["generated_date"]) == ("queued", None)
    assert len(bench.publisher.main) == 1


async def test_a_cache_that_says_it_is_not_provisional_is_completed(bench: HttpBench) -> None:
    await cache(bench, 42, view_of([1, 2, 3], provisional=False))
    response = await bench.client.post("/recommend", json={"memberId": 42, "favorite_song_ids": [1, 2, 3]})
    assert response.json()["status"] == "completed"


async def test_another_members_cache_does_not_count(bench: HttpBench) -> None:
    await cache(bench, 42, view_of([1, 2]))
    response = await bench.client.post("/recommend", json={"memberId": 43, "favorite_song_ids": [1, 2]})
    assert response.json()["status"] == "queued"


@pytest.mark.parametrize(
    "view",
    [b"", b"null", b"[]", b"{}", b"not json", b'{"favorite_song_ids":[[1],2]}', b'{"favorite_song_ids":[1,2]}'],
)
async def test_a_cached_view_that_is_not_ours_is_no_reason_to_fail(bench: HttpBench, view: bytes) -> None:
    await cache(bench, 42, view)
    response = await bench.client.post("/recommend", json={"memberId": 42, "favorite_song_ids": [1, 2]})
    assert response.json()["status"] == "queued"


async def test_a_refused_publish_is_503_and_the_job_is_failed(bench: HttpBench) -> None:
    bench.publisher.refused_members.add(42)
    response = await bench.client.post("/recommend", json={"memberId": 42})
    assert response.status_code == 503
    assert response.json()["dependency"] == "broker"
    assert response.headers["retry-after"]
    assert "guest" not in response.text
    (job,) = bench.publisher.refused
    view = await bench.results.job(job.job_id)
    assert view is not None
    assert view.status is JobStatus.FAILED
    assert view.fields["error.code"] == "DEPENDENCY_UNAVAILABLE"


async def test_in_another_domain_a_cached_view_is_known_by_that_domains_name_of_likes(bench: HttpBench) -> None:
    view = orjson.dumps({"favorite_game_ids": [3, 1], "favorite_song_ids": [7], "generated_date": "2026-02-28"})
    await cache(bench, 42, view)
    of_games = JobDesk(
        results=bench.results,
        publisher=bench.publisher,
        members=bench.members,
        clock=bench.clock,
        refreshes=bench.refreshes,
        observer=bench.metrics,
        favorites_field="favorite_game_ids",
    )
    assert await of_games.fresh_date(42, [1, 3]) == "2026-02-28"
    assert await of_games.fresh_date(42, [7]) is None
    await cache(bench, 43, orjson.dumps({"favorite_game_ids": "all", "generated_date": "2026-02-28"}))
    assert await of_games.fresh_date(43, [1]) is None


# --- POST /recommend/cached ---


@pytest.mark.parametrize("member_id", [42, "42"])
async def test_the_cached_view_comes_back_with_its_mark(bench: HttpBench, member_id: object) -> None:
    view = view_of([1, 2, 3])
    await cache(bench, 42, view)
    response = await bench.client.post("/recommend/cached", json={"memberId": member_id})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {**orjson.loads(view), "cached": True}
    assert orjson.dumps(orjson.loads(view)["groups"]) in response.content


async def test_a_provisional_view_comes_back_and_says_what_it_is(bench: HttpBench) -> None:
    await show_provisional(bench, 42, view_of([1, 2, 3], provisional=True))
    response = await bench.client.post("/recommend/cached", json={"memberId": 42})
    assert (response.status_code, response.json()["provisional"], response.json()["cached"]) == (200, True, True)


async def test_no_cached_view_is_404_with_a_sentence(bench: HttpBench) -> None:
    response = await bench.client.post("/recommend/cached", json={"memberId": 42})
    assert response.status_code == 404
    assert response.json()["detail"] == "No recommendation is cached for member 42."
    assert bench.publisher.main == []


@given(
    st.dictionaries(st.text(max_size=8).filter(lambda name: name != "cached"), st.integers(0, 9) | st.text(max_size=5)),
    st.sampled_from([b"", b" ", b"\n\t"]),
)
def test_the_mark_joins_any_object_without_a_parse(view: dict[str, object], space: bytes) -> None:
    document = space + orjson.dumps(view).replace(b"{", b"{" + space, 1) + space
    assert orjson.loads(_with_cached_mark(document)) == {**view, "cached": True}


# --- POST /favorites/updated ---


def desk_of(bench: HttpBench, publisher: JobPublisher) -> JobDesk:
    return JobDesk(
        results=bench.results,
        publisher=publisher,
        members=bench.members,
        clock=bench.clock,
        refreshes=bench.refreshes,
        observer=bench.metrics,
    )


async def taken(bench: HttpBench, n: int) -> list[DueRefresh]:
    """The next ``n`` refreshes that fall due."""
    found: list[DueRefresh] = []
    async with asyncio.timeout(5):
        while len(found) < n:
            found += await bench.refreshes.take(n)
            await asyncio.sleep(0.001)
    return found


async def test_updated_favorites_ask_for_a_job_with_the_new_likes(bench: HttpBench) -> None:
    await cache(bench, 42, view_of([1, 2]))
    response = await bench.client.post("/favorites/updated", json={"memberId": "42", "favorite_song_ids": [1, 2]})
    assert (response.status_code, response.json()) == (200, {"status": "queued"})
    [due] = await taken(bench, 1)
    job = due.job(requested_at_ns=5)
    assert (job.member_id, job.favorite_item_ids, job.source) == (42, (1, 2), "favorites")
    assert due.is_sure


async def test_favorites_that_are_updated_again_and_again_ask_for_one_job_with_the_last(bench: HttpBench) -> None:
    for likes in ([1], [1, 2], [2, 3]):
        await bench.client.post("/favorites/updated", json={"memberId": 42, "favorite_song_ids": likes})
    await bench.client.post("/favorites/updated", json={"memberId": 7})
    due = {each.member_id: sorted(each.item_ids) for each in await taken(bench, 2)}
    assert due == {42: [2, 3], 7: []}
    exposed = bench.metrics.expose("")[0].decode()
    assert 'songs_ai_refresh_requests_total{outcome="begun"} 2.0' in exposed
    assert 'songs_ai_refresh_requests_total{outcome="debounced"} 2.0' in exposed


# --- POST /warm/active ---


async def test_warm_active_queues_the_most_active_members_on_the_batch_queue(bench: HttpBench) -> None:
    bench.members.member_ids = [7, 5, 9]
    response = await bench.client.post("/warm/active", params={"limit": 2})
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"task_id", "status"}
    assert body["status"] == "queued"
    assert UUID.fullmatch(body["task_id"])
    jobs = bench.publisher.batch
    assert {job.member_id for job in jobs} == {7, 5}
    assert {(job.source, job.trace_id, job.favorite_item_ids) for job in jobs} == {("refresh", body["task_id"], ())}
    assert bench.publisher.main == []


async def test_warm_active_has_a_limit_of_its_own_and_may_find_nobody(bench: HttpBench) -> None:
    response = await bench.client.post("/warm/active")
    assert response.json()["status"] == "queued"
    assert bench.members.asked == [100]
    assert bench.publisher.batch == []


async def test_warm_active_publishes_more_members_than_one_window_holds(bench: HttpBench) -> None:
    bench.members.member_ids = range(1, 2 * PUBLISH_WINDOW + 10)
    await bench.client.post("/warm/active", params={"limit": 1000})
    assert sorted(job.member_id for job in bench.publisher.batch) == list(bench.members.member_ids)
    assert set(bench.publisher.status_when_published) == {JobStatus.QUEUED}


async def test_one_refused_publish_of_many_is_503_and_no_other_job_is_left_half_published(bench: HttpBench) -> None:
    bench.members.member_ids = [1, 2, 3, 4]
    bench.publisher.refused_members.add(2)
    response = await bench.client.post("/warm/active")
    assert response.status_code == 503
    assert sorted(job.member_id for job in bench.publisher.batch) == [1, 3, 4]
    (refused,) = bench.publisher.refused
    view = await bench.results.job(refused.job_id)
    assert view is not None
    assert view.status is JobStatus.FAILED


async def test_a_refresh_publishes_side_by_side_but_never_more_than_a_window(bench: HttpBench) -> None:
    under_way, most, full = 0, 0, asyncio.Event()

    class Slow:
        async def publish_job(self, job: Job, *, batch: bool = False) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            if under_way == PUBLISH_WINDOW:
                full.set()
            await full.wait()
            under_way -= 1

    bench.members.member_ids = range(2 * PUBLISH_WINDOW)
    desk = desk_of(bench, Slow())
    await asyncio.wait_for(desk.refresh(1000), 20)
    assert most == PUBLISH_WINDOW


async def test_where_even_the_failure_cannot_be_written_the_first_error_is_told(bench: HttpBench) -> None:
    class Refusing:
        async def publish_job(self, job: Job, *, batch: bool = False) -> None:
            async def away(*_: object, **__: object) -> bool:
                raise DependencyUnavailable("redis", "gone too")

            bench.results.fail = away  # type: ignore[method-assign]
            raise DependencyUnavailable("broker", "gone")

    desk = desk_of(bench, Refusing())
    with pytest.raises(DependencyUnavailable, match="broker: gone"):
        await desk.submit(42, (), "http")
