"""What the API says of what it does not take: in words of JSON and HTTP, with the name of what was wrong."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.http_app import HttpBench, http_bench

SEEDS: dict[str, object] = {"itemIds": [1, 3, 5]}
LIKE: dict[str, object] = {"memberId": 7, "itemId": 1, "type": "like"}
BODIES = {
    "/recommend": {"memberId": 7},
    "/recommend/cached": {"memberId": 7},
    "/favorites/updated": {"memberId": 7},
    "/recommend/seeds": SEEDS,
    "/events": {"events": [LIKE]},
    "/dead-letters/replay": {"letterIds": ["a"]},
}
PYTHON = re.compile(
    r"\b(tuple|dict|list of|instance|None|input should|validation|valid (integer|string|boolean))\b", re.IGNORECASE
)


def problem_of(response: httpx.Response, status: int) -> Mapping[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: Mapping[str, Any] = response.json()
    return body


@pytest.fixture(scope="module")
async def bench() -> AsyncIterator[HttpBench]:
    """One for all: nothing here is kept but what is published."""
    async with http_bench() as made:
        yield made


async def asked(bench: HttpBench, path: str, body: object = None) -> httpx.Response:
    return await (bench.client.get(path) if body is None else bench.client.post(path, json=body))


def published(bench: HttpBench) -> tuple[int, int]:
    return len(bench.publisher.main), len(bench.events.published)


# --- a body that does not say that it is JSON ---


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=b"])
async def test_a_body_of_another_type_is_415_with_the_type_to_send(bench: HttpBench, path: str, kind: str) -> None:
    before = published(bench)
    request = bench.client.build_request("POST", path, json=BODIES[path], headers={"content-type": kind})
    answer = await bench.client.send(request)
    assert problem_of(answer, 415)["detail"] == "send Content-Type: application/json"
    assert published(bench) == before


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "application/vnd.x+json", ""])
async def test_a_body_of_json_is_taken_and_so_is_one_without_a_type(bench: HttpBench, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = await bench.client.post("/recommend", content=b'{"memberId": 7}', headers=headers)
    assert answer.status_code == 200


async def test_no_form_is_read_whatever_it_holds(bench: HttpBench) -> None:
    problem_of(await bench.client.post("/recommend", data={"memberId": "7"}), 415)


# --- words ---


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ("/recommend/seeds", {"itemIds": [1, 2]}, "itemIds: needs at least 3, got [1, 2]"),
        ("/recommend/seeds", {"itemIds": list(range(11))}, "itemIds: takes at most 10, got [0, 1, 2"),
        ("/recommend/seeds", {"itemIds": {"1": 2}}, "itemIds: must be a list, got"),
        ("/recommend/seeds", {"itemIds": ["a", 2, 3]}, "itemIds.0: must be an integer, got 'a'"),
        ("/recommend/seeds", {"itemIds": [1, 2, 2**63]}, "itemIds.2: must be at most 9223372036854775807, got"),
        ("/recommend/seeds", SEEDS | {"limit": 0}, "limit: must be at least 1, got 0"),
        ("/recommend/seeds", SEEDS | {"limit": 1.5}, "limit: must be an integer, got 1.5"),
        ("/recommend/seeds", SEEDS | {"explain": "yes"}, "explain: must be true or false, got 'yes'"),
        ("/recommend/seeds", SEEDS | {"wish": 5}, "wish: must be a string, got 5"),
        ("/recommend/seeds", SEEDS | {"wish": "x" * 201}, "wish: must be at most 200 long, got 'xx"),
        ("/recommend/seeds", SEEDS | {"locale": "de"}, "locale: must be 'ko', 'ja' or 'en', got 'de'"),
        ("/recommend/seeds", {}, "itemIds: is missing"),
        ("/recommend/seeds", [1], "body: must be a JSON object, got [1]"),
        ("/events", {"events": [LIKE | {"type": "kiss"}]}, "events.0.type: must be 'like', 'unlike', 'dislike', "),
        ("/events", {"events": [LIKE | {"value": "much"}]}, "events.0.value: must be a number, got 'much'"),
        ("/events", {"events": [LIKE | {"occurredAt": []}]}, "events.0.occurredAt: must be an instant, as text"),
        ("/events", {"events": [LIKE | {"occurredAt": True}]}, "events.0.occurredAt: must be an instant, as text"),
        ("/events", {"events": ["like"]}, "events.0: must be a JSON object, got 'like'"),
        ("/events", {"events": []}, "events: needs at least 1, got []"),
        ("/dead-letters/replay", {"letterIds": [""]}, "letterIds.0: must be at least 1 long, got ''"),
        ("/recommend", {"favorite_song_ids": [1]}, "memberId: is missing"),
        ("/search", None, "q: is missing"),
        ("/search?q=a&limit=many", None, "limit: must be an integer, got 'many'"),
        ("/search?q=a&limit=101", None, "limit: must be at most 100, got '101'"),
        ("/items/x", None, "item_id: must be an integer, got 'x'"),
        (f"/items/{'9' * 5000}", None, "item_id: must be an integer, got '999"),
    ],
)
async def test_what_is_wrong_is_told_in_words_of_json(bench: HttpBench, path: str, body: object, detail: str) -> None:
    assert problem_of(await asked(bench, path, body), 422)["detail"].startswith(detail)


async def test_no_body_is_missing_and_shows_nothing(bench: HttpBench) -> None:
    body = problem_of(await bench.client.post("/recommend"), 422)
    assert body["detail"] == "body: is missing"
    assert body["errors"] == [{"field": "body", "problem": "is missing", "value": "nothing"}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(path=st.sampled_from(sorted(BODIES)), body=st.data())
async def test_no_refusal_speaks_of_python(bench: HttpBench, path: str, body: st.DataObject) -> None:
    fields = ["memberId", "favorite_song_ids", "locale", "itemIds", "dislikedIds", "limit", "wish", "explain"]
    fields += ["events", "letterIds"]
    event = st.dictionaries(st.sampled_from(["memberId", "itemId", "type", "value", "completed", "occurredAt"]), JSON)
    drawn = body.draw(st.dictionaries(st.sampled_from(fields), JSON | st.lists(event, max_size=2)))
    answer = await bench.client.post(path, json=drawn)
    told = answer.json().get("errors", ()) if answer.status_code == 422 else ()
    assert [error["problem"] for error in told if PYTHON.search(error["problem"])] == []


# --- the query ---


@pytest.mark.parametrize(
    "path",
    [
        "/search?q=a&limt=3",
        "/items/4?limt=3",
        "/items/4/similar?limt=3",
        "/catalogue?limt=3",
        "/catalogue/map?limt=3",
        "/members/active?limt=3",
        "/members/7?limt=3",
        "/members/7/recommendations?limt=3",
        "/models?limt=3",
        "/dead-letters?limt=3",
        "/jobs/j?limt=3",
        "/jobs/j/events?limt=3",
    ],
)
async def test_a_parameter_that_a_route_does_not_have_is_refused_by_its_name(bench: HttpBench, path: str) -> None:
    body = problem_of(await asked(bench, path), 422)
    assert body["errors"] == [{"field": "limt", "problem": "there is no such parameter here", "value": "'3'"}]


@pytest.mark.parametrize("path", ["/recommend/seeds", "/events", "/dead-letters/replay"])
async def test_so_is_one_beside_a_body(bench: HttpBench, path: str) -> None:
    assert problem_of(await asked(bench, f"{path}?explain=true", BODIES[path]), 422)["errors"][0]["field"] == "explain"


async def test_every_slip_of_a_query_is_named(bench: HttpBench) -> None:
    body = problem_of(await asked(bench, "/search?q=a&limt=3&ofset=4&limit=5"), 422)
    assert [error["field"] for error in body["errors"]] == ["limt", "ofset"]


@pytest.mark.parametrize("path", ["/health", "/metrics", "/warm/active", "/recommend", "/recommend/cached"])
async def test_the_contracts_routes_ignore_a_parameter_that_they_do_not_know(bench: HttpBench, path: str) -> None:
    body = None if path in ("/health", "/metrics") else {"memberId": 7}
    answer = await asked(bench, f"{path}?trace=1", body)
    assert answer.status_code in (200, 404)
    assert "parameter" not in answer.text


@pytest.mark.parametrize(("path", "field"), [("/items/20/similar", "items"), ("/catalogue/map", "points")])
async def test_a_limit_counts_and_may_be_called_n(bench: HttpBench, path: str, field: str) -> None:
    answers = [await asked(bench, f"{path}?{name}=2") for name in ("limit", "n")]
    assert [len(answer.json()[field]) for answer in answers] == [2, 2]
    both = problem_of(await asked(bench, f"{path}?limit=2&n=2"), 422)
    assert both["detail"] == "n: is another name of limit: send one of the two, got '2'"


@pytest.mark.parametrize("path", ["/items/20/similar", "/catalogue/map"])
@pytest.mark.parametrize("name", ["limit", "n"])
@pytest.mark.parametrize("value", ["0", "100000", "x", ""])
async def test_a_limit_that_is_none_is_refused_by_the_name_that_was_sent(
    bench: HttpBench, path: str, name: str, value: str
) -> None:
    (error,) = problem_of(await asked(bench, f"{path}?{name}={value}"), 422)["errors"]
    assert (error["field"], error["value"]) == (name, repr(value))


async def test_limit_is_the_name_that_is_documented(bench: HttpBench) -> None:
    paths = bench.app.openapi()["paths"]
    for path, default in (("/items/{item_id}/similar", 20), ("/catalogue/map", 1000)):
        shown = {each["name"]: each["schema"] for each in paths[path]["get"]["parameters"]}
        assert "n" not in shown
        assert shown["limit"]["default"] == default


# --- what a job cannot be told ---


async def test_refused_items_are_not_dropped_where_a_job_could_not_know_them(bench: HttpBench) -> None:
    before = published(bench)
    answer = await bench.client.post("/recommend/seeds", json=SEEDS | {"explain": True, "dislikedIds": [4, 6]})
    (error,) = problem_of(answer, 422)["errors"]
    assert (error["field"], error["value"]) == ("dislikedIds", "[4, 6]")
    assert "events of type dislike" in error["problem"]
    assert published(bench) == before


async def test_an_empty_list_of_refused_items_is_none(bench: HttpBench) -> None:
    answer = await asked(bench, "/recommend/seeds", SEEDS | {"explain": True, "dislikedIds": []})
    assert answer.status_code == 202


# --- where there is nothing ---


@pytest.mark.parametrize("path", ["/", "/docs", "/recommendations"])
async def test_where_there_is_nothing_the_answer_says_where_to_look(bench: HttpBench, path: str) -> None:
    assert "/openapi.json" in problem_of(await asked(bench, path), 404)["detail"]


async def test_a_method_that_a_path_does_not_take_is_told_those_that_it_does(bench: HttpBench) -> None:
    assert problem_of(await asked(bench, "/recommend"), 405)["detail"] == "this path takes POST"


async def test_what_a_route_itself_does_not_find_is_told_in_its_own_words(bench: HttpBench) -> None:
    assert problem_of(await asked(bench, "/items/999"), 404)["detail"] == "there is no item 999"
