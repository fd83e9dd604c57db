"""The routes for people: catalogue, lists from chosen items, what is kept for members, events, limits, other sites."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from prometheus_client import CollectorRegistry

from api.events import MAX_EVENTS
from core.event_codec import decode_event, encode_event
from core.item_versions import VersionFinder
from core.ports.results import ResultDocuments
from core.seeds import N_NOBODIES, nobody
from models.event import EventType
from models.job import Job, JobContext
from services.metrics import PrometheusMetrics
from tests.support.builders import ArrayIndex
from tests.support.hand_clock import HandClock
from tests.support.http_app import HttpBench, Unavailable, http_bench
from tests.support.small_catalogue import SONGS, showroom

KEY = "k3y"
SEEDS = [1, 3, 5]


def problem_of(response: httpx.Response, status: int) -> Mapping[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: Mapping[str, Any] = response.json()
    return body


async def found(bench: HttpBench, path: str) -> list[int]:
    response = await bench.client.get(path)
    assert response.status_code == 200, response.text
    return [each["item"]["itemId"] for each in response.json()["items"]]


# --- the catalogue ---


async def test_an_item_is_found_by_name_with_all_that_is_known_of_it() -> None:
    async with http_bench() as bench:
        response = await bench.client.get("/search", params={"q": "ㅂㅌㅂㅌ"})
    (hit,) = response.json()["items"]
    assert hit["item"] == {
        "itemId": 1,
        "titles": {"ko": "비틀비틀 짝짜꿍"},
        "creator": "최예나",
        "creatorLocal": None,
        "genres": ["pop"],
        "moods": [],
        "language": None,
        "popularity": 0.01,
        "features": {"energy": 0.01},
    }
    assert response.json()["nextOffset"] is None


async def test_pages_of_a_search_hold_each_item_once_and_end() -> None:
    async with http_bench() as bench:
        whole = await found(bench, "/search?q=title&limit=100")
        pages: list[int] = []
        offset: int | None = 0
        while offset is not None:
            page = (await bench.client.get(f"/search?q=title&limit=7&offset={offset}")).json()
            pages += [each["item"]["itemId"] for each in page["items"]]
            offset = page["nextOffset"]
    assert len(whole) == 36  # all but those four of another name
    assert pages == whole


async def test_beyond_the_last_page_there_is_nothing() -> None:
    async with http_bench() as bench:
        assert await found(bench, "/search?q=halo&offset=200") == []


async def test_an_item_that_went_since_the_names_were_read_is_not_shown() -> None:
    async with http_bench() as bench:
        assert await found(bench, "/search?q=halo") == [4]
        del bench.showroom.catalogue.active[4]
        assert await found(bench, "/search?q=halo") == []


@pytest.mark.parametrize("query", ["", "?q=", "?q=a&limit=0", "?q=a&limit=101", "?q=a&offset=-1", f"?q={'a' * 201}"])
async def test_a_search_that_is_none_is_refused(query: str) -> None:
    async with http_bench() as bench:
        assert problem_of(await bench.client.get(f"/search{query}"), 422)["errors"]


async def test_one_item_is_answered_and_another_is_not_found() -> None:
    async with http_bench() as bench:
        assert (await bench.client.get("/items/4")).json()["creator"] == "Beyoncé"
        problem_of(await bench.client.get("/items/999"), 404)
        problem_of(await bench.client.get("/items/999/similar"), 404)
        problem_of(await bench.client.get("/items/x"), 422)


async def test_what_is_like_an_item_is_near_it_and_never_itself() -> None:
    async with http_bench() as bench:
        answer = (await bench.client.get("/items/20/similar?limit=5")).json()["items"]
    scores = [each["score"] for each in answer]
    assert len(answer) == 5
    assert 20 not in [each["item"]["itemId"] for each in answer]
    assert scores == sorted(scores, reverse=True)
    assert all(-1 <= score <= 1 for score in scores)


async def test_pages_of_what_is_like_an_item_hold_each_once_and_end() -> None:
    async with http_bench() as bench:
        whole = await found(bench, "/items/20/similar?limit=39")
        pages: list[int] = []
        offset: int | None = 0
        while offset is not None:
            page = (await bench.client.get(f"/items/20/similar?limit=8&offset={offset}")).json()
            pages += [each["item"]["itemId"] for each in page["items"]]
            offset = page["nextOffset"]
        beyond = (await bench.client.get("/items/20/similar?offset=200")).json()
    assert len(whole) == 39
    assert pages == whole
    assert beyond == {"items": [], "nextOffset": None}


async def test_no_more_is_like_an_item_than_a_search_would_find() -> None:
    room = showroom(HandClock(), PrometheusMetrics(CollectorRegistry(), clock=HandClock()), n_items=240)
    last = await room.browser.similar(20, 50, 150)
    assert last is not None
    assert (len(last.items), last.next_offset) == (50, None)


async def test_many_versions_of_one_work_end_no_pages_before_their_end() -> None:
    room = showroom(HandClock(), PrometheusMetrics(CollectorRegistry(), clock=HandClock()), n_items=60)
    for number in range(1, 41):
        room.catalogue.active[number] = replace(room.catalogue.active[number], titles={"en": "Golden"}, creator="Ada")
    vectors = {number: [1.0, number / 100, 0.0] for number in room.catalogue.active}
    room.index.index = ArrayIndex(vectors, dict.fromkeys(vectors, 0.5), dict(room.catalogue.active))
    first = await room.browser.similar(1, 5)
    assert first is not None
    assert ([each.item.item_id for each in first.items], first.next_offset) == ([41, 42, 43, 44, 45], 5)


async def test_of_versions_of_one_work_one_is_like_an_item_and_none_of_its_own() -> None:
    async with http_bench() as bench:
        items = bench.showroom.catalogue
        for number, title in ((19, "Golden"), (20, "Silver"), (21, "Golden (Live)"), (22, "Silver - Remix")):
            items.active[number] = replace(items.active[number], titles={"en": title}, creator="Ada")
        ids = await found(bench, "/items/20/similar?limit=39")
    assert len({19, 21} & set(ids)) == 1
    assert 22 not in ids
    assert VersionFinder(SONGS.versions).title("Golden (Live)") == VersionFinder(SONGS.versions).title("Golden")


# --- chosen items ---


async def ask(bench: HttpBench, **body: object) -> httpx.Response:
    return await bench.client.post("/recommend/seeds", json={"itemIds": SEEDS, "locale": "en", **body})


async def test_chosen_items_become_a_list_with_reasons_and_nothing_that_was_chosen() -> None:
    async with http_bench() as bench:
        answer = (await ask(bench, limit=8)).json()
        assert bench.publisher.main == []
    ids = [each["item"]["itemId"] for each in answer["items"]]
    assert len(set(ids)) == len(ids) == 8
    assert not set(ids) & set(SEEDS)
    assert [seed["itemId"] for seed in answer["seeds"]] == SEEDS
    assert all(each["reason"] and each["evidence"]["sources"] for each in answer["items"])
    assert answer["items"][0]["item"]["features"]
    assert answer["taste"]["genres"] == ["pop"]
    assert answer["locale"] == "en"


async def test_reasons_are_in_the_language_that_is_asked_for_or_the_sites_own() -> None:
    async with http_bench() as bench:
        korean, default = [(await ask(bench, locale=locale)).json() for locale in ("ko", None)]
        english = (await ask(bench)).json()
    assert korean["items"] == default["items"]
    assert korean["items"][0]["reason"] != english["items"][0]["reason"]


async def test_a_list_is_not_all_of_one_creator_though_all_that_is_nearest_is() -> None:
    metrics = PrometheusMetrics(CollectorRegistry(), clock=HandClock())
    room = showroom(HandClock(), metrics, n_items=120)
    for number in range(1, 80):
        room.catalogue.active[number] = replace(room.catalogue.active[number], creator="One")
    vectors = {number: [1.0, number / 20 - 1, 0.0] for number in room.catalogue.active}
    room.index.index = ArrayIndex(vectors, dict.fromkeys(vectors, 0.5), dict(room.catalogue.active))
    answer = await room.seeds.recommend([20, 21, 22], 10)
    assert Counter(each.item.creator for each in answer.candidates)["One"] == 3
    assert len(answer.candidates) == 10


async def test_the_order_of_the_choosing_changes_nothing_but_that_of_the_seeds() -> None:
    async with http_bench() as bench:
        one = (await ask(bench)).json()
        other = (await ask(bench, itemIds=SEEDS[::-1])).json()
    assert [each["item"]["itemId"] for each in one["items"]] == [each["item"]["itemId"] for each in other["items"]]
    assert [seed["itemId"] for seed in other["seeds"]] == SEEDS[::-1]


async def test_a_wish_changes_the_list() -> None:
    async with http_bench() as bench:
        plain, jazz = [(await ask(bench, wish=wish)).json()["items"] for wish in (None, "jazz please")]
    share = [sum("jazz" in each["item"]["genres"] for each in items[:10]) for items in (plain, jazz)]
    assert share[1] > share[0]


async def test_what_was_refused_is_left_out_and_what_is_like_it_comes_further_down() -> None:
    async with http_bench() as bench:
        before, after = [
            {each["item"]["itemId"]: each["score"] for each in (await ask(bench, limit=30, **refused)).json()["items"]}
            for refused in ({}, {"dislikedIds": [4, 999]})
        ]
    assert 4 in before
    assert 4 not in after
    assert after[2] / before[2] < 0.6 < after[33] / before[33]  # 2 is near 4, and 33 is far from it


@pytest.mark.parametrize("explain", [False, True])
async def test_items_that_are_not_there_are_named(explain: bool) -> None:
    async with http_bench() as bench:
        body = problem_of(await ask(bench, itemIds=[1, 777, 3, 888], explain=explain), 422)
        assert bench.publisher.main == []
    assert [error["value"] for error in body["errors"]] == ["777", "888"]
    assert {error["field"] for error in body["errors"]} == {"itemIds"}


@pytest.mark.parametrize(
    "changes",
    [
        {"itemIds": [1, 3]},
        {"itemIds": list(range(1, 12))},
        {"itemIds": [1, 3, 3]},
        {"itemIds": ["1", 3, 5]},
        {"itemIds": None},
        {"limit": 0},
        {"limit": 101},
        {"limit": "5"},
        {"locale": "de"},
        {"explain": 1},
        {"wish": "x" * 201},
        {"memberId": "x"},
    ],
)
async def test_a_choice_that_is_none_is_refused(changes: Mapping[str, object]) -> None:
    async with http_bench() as bench:
        problem_of(await ask(bench, **changes), 422)


async def test_an_explained_list_is_a_job_like_any_other() -> None:
    async with http_bench() as bench:
        answer = await ask(bench, explain=True, memberId=7, wish=" something\ncalm ", limit=12)
        (job,) = bench.publisher.main
    assert answer.status_code == 202
    assert answer.json() == {"jobId": job.job_id, "status": "queued"}
    assert answer.headers["location"] == f"/jobs/{job.job_id}"
    assert (job.member_id, job.favorite_item_ids, job.locale, job.top_k) == (7, (1, 3, 5), "en", 12)
    assert job.context == JobContext(query="something calm")


async def test_for_nobody_in_particular_it_is_a_member_whom_no_backend_has() -> None:
    async with http_bench() as bench:
        await ask(bench, explain=True)
        await ask(bench, explain=True, itemIds=SEEDS[::-1])
        ids = {job.member_id for job in bench.publisher.main}
    assert ids == {nobody(SEEDS)}
    assert all(-N_NOBODIES <= nobody([n, n + 1, n + 2]) < 0 for n in range(3000))


# --- slips in our own bodies ---

LETTERS = {"letterIds": ["a"]}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/recommend/seeds", {"itemIds": SEEDS, "wihs": "jazz"}, "wihs"),
        ("/recommend/seeds", {"itemIds": SEEDS, "itemIDs": SEEDS}, "itemIDs"),
        ("/events", {"events": [{"memberId": 7, "itemId": 3, "type": "like"}], "event": []}, "event"),
        ("/events", {"events": [{"memberId": 7, "itemID": 3, "type": "forget"}]}, "events.0.itemID"),
        ("/events", {"events": [{"memberId": 7, "itemId": 3, "songId": 4, "type": "like"}]}, "events.0.songId"),
        ("/dead-letters/replay", {**LETTERS, "force": True}, "force"),
    ],
)
async def test_a_field_that_a_body_does_not_have_is_refused_by_its_name(
    path: str, body: Mapping[str, object], field: str
) -> None:
    async with http_bench(api_key=KEY) as bench:
        answer = problem_of(await bench.client.post(path, json=body, headers={"x-api-key": KEY}), 422)
        assert (bench.events.published, bench.publisher.main) == ([], [])
    assert [(error["field"], error["problem"]) for error in answer["errors"]] == [
        (field, "there is no such field here")
    ]
    assert answer["detail"].startswith(f"{field}: ")


async def test_what_was_meant_is_named_beside_the_slip() -> None:
    async with http_bench() as bench:
        body = problem_of(await bench.client.post("/recommend/seeds", json={"itemIDs": SEEDS}), 422)
    assert [error["field"] for error in body["errors"]] == ["itemIds", "itemIDs"]


@pytest.mark.parametrize("path", ["/recommend", "/favorites/updated", "/recommend/cached"])
async def test_the_contracts_routes_ignore_what_they_do_not_know(path: str) -> None:
    async with http_bench() as bench:
        answer = await bench.client.post(path, json={"memberId": 7, "favoriteSongIds": [1], "mood": "sad"})
    assert answer.status_code in (200, 404)


async def test_a_parameter_that_is_wrong_is_told_once() -> None:
    async with http_bench() as bench:
        body = problem_of(await bench.client.get(f"/jobs/{'j' * 1000}/events"), 422)
    assert [error["field"] for error in body["errors"]] == ["job_id"]


# --- what is kept for members ---


async def kept(bench: HttpBench, view: Mapping[str, object]) -> None:
    job = Job(job_id="j", member_id=7, requested_at_ns=1)
    documents = ResultDocuments(result=b"{}", cached_view=orjson.dumps(view), preference=b"{}")
    await bench.results.claim(job, token="t")
    await bench.results.succeed(job, documents, token="t")


async def test_a_members_list_comes_in_pages() -> None:
    view = {
        "generated_date": "2026-01-31",
        "groups": [{"label": "a"}],
        "candidates": [{"song_id": n} for n in range(5)],
    }
    async with http_bench() as bench:
        await kept(bench, view)
        first, last = [
            (await bench.client.get(f"/members/7/recommendations?limit=3&offset={offset}")).json() for offset in (0, 3)
        ]
    assert [row["song_id"] for row in first["candidates"] + last["candidates"]] == list(range(5))
    assert (first["nextOffset"], last["nextOffset"]) == (3, None)
    assert (first["memberId"], first["generatedDate"], first["groups"]) == (7, "2026-01-31", [{"label": "a"}])


@pytest.mark.parametrize("view", [None, {}, {"generated_date": "x", "groups": [], "candidates": 5}])
async def test_a_member_of_whom_nothing_of_ours_is_kept_is_not_found(view: Mapping[str, object] | None) -> None:
    async with http_bench() as bench:
        if view is not None:
            await kept(bench, view)
        problem_of(await bench.client.get("/members/7/recommendations"), 404)
        assert bench.publisher.main == []


# --- events ---


async def tell(bench: HttpBench, *events: Mapping[str, object], **headers: str) -> httpx.Response:
    return await bench.client.post("/events", json={"events": list(events)}, headers=headers)


LIKE = {"eventId": "e-1", "memberId": 7, "itemId": 3, "type": "like", "occurredAt": "2026-01-31T09:00:00.000000001Z"}


async def test_events_reach_the_queue_as_the_contract_has_them() -> None:
    async with http_bench() as bench:
        answer = await tell(bench, LIKE, {"memberId": "8", "songId": 4, "type": "rating", "value": 4.5})
        like, rating = bench.events.published
    assert answer.status_code == 202
    assert answer.json() == {"accepted": 2, "eventIds": ["e-1", rating.event_id]}
    assert (like.item_id, like.type, like.occurred_at_ns) == (3, EventType.LIKE, 1_769_850_000_000_000_001)
    assert (rating.member_id, rating.item_id, rating.value) == (8, 4, 4.5)
    assert UUID(rating.event_id)
    assert decode_event(encode_event(like)) == like


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"itemId": None}, "events.1.songId"),
        ({"type": "rating"}, "events.1.value"),
        ({"type": "play", "value": -1}, "events.1.value"),
        ({"occurredAt": "yesterday"}, "events.1.occurredAt"),
        ({"type": "love"}, "events.1.type"),
        ({"eventId": " "}, "events.1.eventId"),
        ({"completed": 1}, "events.1.completed"),
    ],
)
async def test_where_one_event_is_none_the_place_is_named_and_nothing_published(
    changes: Mapping[str, object], field: str
) -> None:
    async with http_bench() as bench:
        body = problem_of(await tell(bench, LIKE, {**LIKE, **changes}), 422)
        assert bench.events.published == []
    assert [error["field"] for error in body["errors"]] == [field]


async def test_no_more_events_are_taken_at_once_than_are_said() -> None:
    async with http_bench() as bench:
        assert (await tell(bench, *[LIKE] * MAX_EVENTS)).status_code == 202
        problem_of(await tell(bench, *[LIKE] * (MAX_EVENTS + 1)), 422)
        problem_of(await tell(bench), 422)
        assert len(bench.events.published) == MAX_EVENTS


async def test_a_broker_that_is_away_is_said_and_tells_no_secret() -> None:
    async with http_bench() as bench:
        bench.events.is_away = True
        response = await tell(bench, LIKE)
    assert problem_of(response, 503)["dependency"] == "broker"
    assert response.headers["retry-after"]
    assert "guest" not in response.text


async def test_what_deletes_is_taken_only_where_a_key_is_wanted() -> None:
    forget = {"memberId": 7, "type": "forget"}
    async with http_bench() as bench:
        problem_of(await tell(bench, LIKE, forget), 403)
        assert bench.events.published == []
    async with http_bench(api_key=KEY) as bench:
        assert (await tell(bench, forget, authorization=f"Bearer {KEY}")).status_code == 202
        assert [event.type for event in bench.events.published] == [EventType.FORGET]


# --- who may ask, how often, and from where ---


async def test_with_a_key_what_tells_of_members_needs_it_and_the_catalogue_does_not() -> None:
    async with http_bench(api_key=KEY) as bench:
        open_paths = ["/search?q=halo", "/items/4", "/items/4/similar"]
        assert [(await bench.client.get(path)).status_code for path in open_paths] == [200] * 3
        for path in ("/members/7/recommendations", "/jobs/j", "/jobs/j/events"):
            problem_of(await bench.client.get(path), 401)
            problem_of(await bench.client.get(path, headers={"X-API-Key": KEY}), 404)
        problem_of(await ask(bench), 401)
        problem_of(await tell(bench, LIKE), 401)


async def test_who_asks_too_often_is_told_when_to_come_back() -> None:
    async with http_bench(rate_limit="3/minute;2/second") as bench:
        answers = [await bench.client.get("/items/4") for _ in range(4)]
        probe = await bench.client.get("/health/live")
    codes = [answer.status_code for answer in answers]
    assert codes[:2] == [200, 200]
    assert codes[2:] == [429, 429]
    assert answers[0].headers["ratelimit-policy"] == '"1-minute";q=3;w=60, "1-second";q=2;w=1'
    assert answers[0].headers["ratelimit"] == '"1-second";r=1;t=1'
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 120
    assert "try again in" in problem_of(answers[-1], 429)["detail"]
    assert (probe.status_code, "ratelimit" in probe.headers) == (200, False)


async def test_without_a_limit_nobody_is_told_of_one() -> None:
    async with http_bench() as bench:
        assert "ratelimit" not in (await bench.client.get("/items/4")).headers


async def test_pages_of_a_named_site_may_ask_and_others_may_not() -> None:
    ours, other = "https://songs.example", "https://elsewhere.example"
    async with http_bench(cors_origins=[ours]) as bench:
        answers = {
            origin: await tell(bench, LIKE, origin=origin, **{"sec-fetch-site": "cross-site"})
            for origin in (ours, other)
        }
        preflight = await bench.client.options(
            "/events",
            headers={
                "origin": ours,
                "access-control-request-method": "POST",
                "access-control-request-headers": "x-api-key",
            },
        )
    assert (answers[ours].status_code, answers[other].status_code) == (202, 403)
    assert answers[ours].headers["access-control-allow-origin"] == ours
    assert "access-control-allow-origin" not in answers[other].headers
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, ours)


async def test_without_a_named_site_no_page_of_another_may_read() -> None:
    async with http_bench() as bench:
        answer = await bench.client.get("/items/4", headers={"origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/jobs/j", "/jobs/j/events", "/members/7/recommendations"])
async def test_a_redis_that_is_away_is_said(path: str) -> None:
    async with http_bench(results=Unavailable()) as bench:
        assert problem_of(await bench.client.get(path), 503)["dependency"] == "redis"


async def test_requests_are_counted_by_the_template_of_their_path() -> None:
    async with http_bench() as bench:
        await bench.client.get("/items/4")
        await bench.client.get("/items/999/similar")
        exposition = bench.metrics.expose("")[0].decode()
    assert 'http_requests_total{code="2xx",route="/items/{item_id}"} 1.0' in exposition
    assert 'http_requests_total{code="4xx",route="/items/{item_id}/similar"} 1.0' in exposition
