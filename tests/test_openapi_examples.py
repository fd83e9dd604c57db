"""The examples of the OpenAPI document: there is one of every body, it fits its schema, and it comes like that."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import httpx
import jsonschema
import orjson
import pytest
import structlog

import api.jobs
from api.contract_shapes import EXAMPLE_CANDIDATE, EXAMPLE_GROUP
from api.jobs import EXAMPLE_STREAM
from api.members import MAX_PAGE as MAX_CANDIDATES
from config.catalogue_profile import load_profile
from core.job_codec import MAX_JOB_ID_CHARS
from core.ports.results import JobView, ResultDocuments
from core.result_document import Finished, encode_result
from docs.from_code.api_page import document as whole_document
from models.catalogue import Item
from models.job import Job, JobStatus
from models.recommendation import Candidate, Evidence, Group, Pick, RecommendationType, Reranked, TasteSummary
from tests.support.http_app import HttpBench, Unavailable, http_bench

DOCUMENT: Mapping[str, Any] = whole_document()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
JSON_KINDS = ("application/json", "application/problem+json")
JOB_ID = "4f5d6c1e-7d07-4b5e-9f3e-2f0c2f6f8c11"
WITHOUT_BODY = frozenset({"POST /warm/active"})


def schema_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The schema, with all that it refers to."""
    return {**content["schema"], "components": DOCUMENT["components"]}


def examples_of(content: Mapping[str, Any]) -> Iterator[Any]:
    """Those of the body itself, else of its schema."""
    schema = content.get("schema", {})
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for found in (content, schema):
        if "example" in found:
            yield found["example"]
        yield from found.get("examples", ())


def documented(label: str, status: int, kind: str = "application/problem+json") -> Any:
    return next(examples_of(OPERATIONS[label]["responses"][str(status)]["content"][kind]))


def answers(*, of_json: bool) -> list[tuple[str, str, str]]:
    return [
        (label, status, kind)
        for label, operation in OPERATIONS.items()
        for status, answer in operation["responses"].items()
        for kind in answer.get("content", {})
        if (kind in JSON_KINDS) == of_json
    ]


# --- there is one ---


def test_every_answer_that_is_documented_has_a_body_that_is() -> None:
    bare = [
        (label, status)
        for label, operation in OPERATIONS.items()
        for status, answer in operation["responses"].items()
        if not answer.get("content")
    ]
    assert bare == []


@pytest.mark.parametrize(("label", "status", "kind"), answers(of_json=True))
def test_every_json_answer_has_a_schema_and_an_example_that_fits_it(label: str, status: str, kind: str) -> None:
    content = OPERATIONS[label]["responses"][status]["content"][kind]
    assert content["schema"], "any JSON at all would do"
    examples = list(examples_of(content))
    assert examples
    for example in examples:
        jsonschema.Draft202012Validator(schema_of(content)).validate(example)


@pytest.mark.parametrize(("label", "status", "kind"), answers(of_json=True))
def test_an_example_shows_every_field_that_its_schema_demands_and_none_that_it_does_not_know(
    label: str, status: str, kind: str
) -> None:
    content = OPERATIONS[label]["responses"][status]["content"][kind]
    name = content["schema"]["$ref"].rpartition("/")[2]
    properties = DOCUMENT["components"]["schemas"][name]["properties"]
    optional = {"errors", "dependency"} if name == "Problem" else set()
    for example in examples_of(content):
        assert set(properties) - optional <= set(example) <= set(properties)


@pytest.mark.parametrize(("label", "status", "kind"), answers(of_json=False))
def test_every_answer_in_lines_has_an_example(label: str, status: str, kind: str) -> None:
    (example,) = examples_of(OPERATIONS[label]["responses"][status]["content"][kind])
    assert example.endswith("\n")


def test_every_operation_says_what_it_answers_where_all_goes_well() -> None:
    assert [label for label, operation in OPERATIONS.items() if not {"200", "202"} & set(operation["responses"])] == []


def test_the_document_says_what_it_is_and_every_group_of_routes_too() -> None:
    told = {tag["name"]: tag["description"] for tag in DOCUMENT["tags"]}
    assert {tag for operation in OPERATIONS.values() for tag in operation["tags"]} == set(told)
    assert all(told.values())
    assert "application/problem+json" in DOCUMENT["info"]["description"]


def test_every_operation_has_a_summary_of_its_own_in_words() -> None:
    summaries = [operation["summary"] for operation in OPERATIONS.values()]
    assert len(set(summaries)) == len(OPERATIONS)
    # What FastAPI makes of a function's name is in title case.
    assert [each for each in summaries if each == each.title() or len(each) > 60] == []


@pytest.mark.parametrize("name", ["SeedsShape.items", "CachedView.candidates", "RecommendationsShape.candidates"])
def test_lists_of_recommendations_say_that_their_order_is_not_that_of_scores(name: str) -> None:
    schema, _, field = name.partition(".")
    said = DOCUMENT["components"]["schemas"][schema]["properties"][field]["description"]
    assert said.startswith(("best first; ", "all songs, best first; "))
    assert "scores need not fall" in said


# --- bodies of requests ---


@pytest.mark.parametrize("label", [label for label in OPERATIONS if label.startswith("POST")])
async def test_the_example_of_a_body_is_taken(label: str) -> None:
    if label in WITHOUT_BODY:
        assert "requestBody" not in OPERATIONS[label]
        return
    (content,) = OPERATIONS[label]["requestBody"]["content"].values()
    examples = list(examples_of(content))
    assert examples
    async with http_bench() as bench:
        for example in examples:
            jsonschema.Draft202012Validator(schema_of(content)).validate(example)
            answer = await bench.client.post(label.removeprefix("POST "), json=example)
            assert answer.status_code in (200, 202, 404), answer.text


# --- refusals come as they are documented ---

NOT_FOUND: dict[str, str | dict[str, object]] = {
    "GET /items/{item_id}": "/items/4711",
    "GET /items/{item_id}/similar": "/items/4711/similar",
    "GET /jobs/{job_id}": "/jobs/nowhere",
    "GET /jobs/{job_id}/events": "/jobs/nowhere/events",
    "GET /members/{member_id}/recommendations": "/members/7/recommendations",
    "POST /recommend/cached": {"memberId": 7},
}
LONG_ID = "j" * (MAX_JOB_ID_CHARS + 1)
WRONG: dict[str, str | dict[str, object]] = {
    "POST /recommend": {"memberId": "seven"},
    "POST /recommend/cached": {"memberId": "seven"},
    "POST /favorites/updated": {"memberId": "seven"},
    "POST /recommend/seeds": {"itemIds": [1, 3, 4711]},
    "POST /events": {"events": [{"memberId": 7, "itemID": 4711, "type": "like"}]},
    "POST /dead-letters/replay": {"letterIds": []},
    "GET /search": "/search?q=a&limit=101",
    "GET /items/{item_id}": "/items/x",
    "GET /items/{item_id}/similar": "/items/4/similar?limit=101",
    "GET /jobs/{job_id}": f"/jobs/{LONG_ID}",
    "GET /jobs/{job_id}/events": f"/jobs/{LONG_ID}/events",
    "GET /members/{member_id}/recommendations": f"/members/7/recommendations?limit={MAX_CANDIDATES + 1}",
    "GET /members/active": "/members/active?limit=501",
    "GET /members/{member_id}": "/members/x",
    "GET /catalogue/map": "/catalogue/map?limit=3001",
    "GET /dead-letters": "/dead-letters?limit=201",
    "GET /catalogue": "/catalogue?limit=5",
    "GET /models": "/models?limit=5",
}


async def refusal(bench: HttpBench, label: str, asked: str | Mapping[str, object]) -> httpx.Response:
    method, _, path = label.partition(" ")
    if isinstance(asked, str):
        return await bench.client.request(method, asked)
    return await bench.client.request(method, path, json=asked)


@pytest.mark.parametrize("label", [label for label in OPERATIONS if "404" in OPERATIONS[label]["responses"]])
async def test_what_is_not_found_is_told_as_documented(label: str) -> None:
    async with http_bench() as bench:
        answer = await refusal(bench, label, NOT_FOUND[label])
    assert (answer.status_code, answer.json()) == (404, documented(label, 404))


@pytest.mark.parametrize("label", [label for label in OPERATIONS if "422" in OPERATIONS[label]["responses"]])
async def test_wrong_input_is_told_as_documented(label: str) -> None:
    async with http_bench() as bench:
        if label == "POST /warm/active":
            answer = await bench.client.post("/warm/active?limit=0")
        elif label in WRONG:
            answer = await refusal(bench, label, WRONG[label])
        else:
            pytest.fail("which input would be wrong?")
    assert (answer.status_code, answer.json()) == (422, documented(label, 422))


async def test_what_is_refused_at_the_door_is_told_as_documented() -> None:
    asked: dict[str, Any] = {"url": "/recommend", "json": {"memberId": 7}}
    async with http_bench(api_key="k3y") as bench:
        keyless = await bench.client.post(**asked)
    async with http_bench() as bench:
        elsewhere = await bench.client.post(**asked, headers={"sec-fetch-site": "cross-site"})
        large = await bench.client.post("/recommend", content=b" " * 1_048_577)
        no_text = await bench.client.post("/recommend", content=b"\x80", headers={"content-type": "application/json"})
        form = await bench.client.post("/recommend", data={"memberId": "7"})
    for status, answer in ((401, keyless), (403, elsewhere), (413, large), (400, no_text), (415, form)):
        assert (answer.status_code, answer.json()) == (status, documented("POST /recommend", status))


async def test_who_asks_too_often_is_told_as_documented() -> None:
    async with http_bench(rate_limit="1/minute") as bench:
        await bench.client.get("/items/4")
        answer = await bench.client.get("/items/4")
    told, shown = (
        re.sub(r"q=\d+|in \d+", "", json.dumps(each)) for each in (answer.json(), documented("GET /search", 429))
    )
    assert (answer.status_code, told) == (429, shown)
    assert "Retry-After" in OPERATIONS["GET /search"]["responses"]["429"]["headers"]


async def test_a_server_that_is_away_and_a_bug_are_told_as_documented() -> None:
    class Broken:
        async def job(self, job_id: str) -> JobView:
            raise RuntimeError(job_id)

    async with http_bench(results=Unavailable()) as bench:
        away = await bench.client.get("/jobs/j")
    async with http_bench(results=Broken()) as bench:
        with structlog.testing.capture_logs():
            bug = await bench.client.get("/jobs/j")
    assert (away.status_code, away.json()) == (503, documented("GET /jobs/{job_id}", 503))
    assert away.headers["retry-after"]
    assert (bug.status_code, bug.json()) == (500, documented("GET /jobs/{job_id}", 500))


NEEDS_A_BROKER: dict[str, str | dict[str, object]] = {
    "POST /events": {"events": [{"memberId": 7, "itemId": 1, "type": "like"}]},
    "GET /dead-letters": "/dead-letters",
    "POST /dead-letters/replay": {"letterIds": ["a"]},
}


@pytest.mark.parametrize("label", NEEDS_A_BROKER)
async def test_a_broker_that_is_away_is_told_as_documented(label: str) -> None:
    async with http_bench() as bench:
        bench.events.is_away = bench.pages.desk.is_away = True
        answer = await refusal(bench, label, NEEDS_A_BROKER[label])
    assert (answer.status_code, answer.json()) == (503, documented(label, 503))


# --- what is answered where all goes well ---


def songs_result() -> ResultDocuments:
    """A result of the profile ``songs``, with one song in one group."""
    item = Item(item_id=4711, titles={"ko": "비틀비틀 짝짜꿍"}, creator="YENA", genres=("pop", "dance"), columns={})
    candidate = Candidate(item=item, score=0.872, kind=RecommendationType.SIMILAR, evidence=Evidence(similarity=0.872))
    group = Group(label="Bright pop", tagline="", picks=(Pick(candidate=candidate, reason="Close"),))
    taste = TasteSummary(preferred_genres=(), preferred_moods=(), overall_taste="", favorite_creators=())
    finished = Finished(
        reranked=Reranked(groups=(group,), taste=taste, model=""),
        candidates=[candidate],
        reasons={4711: "Close"},
        liked_ids=[11, 12, 13],
        generated_on=date(2026, 1, 31),
        locale="en",
        fingerprint="f" * 32,
        versions={},
    )
    return encode_result(finished, load_profile("songs"))


def test_songs_of_a_result_have_the_fields_that_are_shown() -> None:
    result = orjson.loads(songs_result().result)
    (group,), (candidate,) = result["groups"], result["candidates"]
    shown: Any = EXAMPLE_GROUP
    assert list(group) == list(shown)
    assert list(group["songs"][0]) == list(shown["songs"][0])
    assert list(candidate) == list(EXAMPLE_CANDIDATE)


async def test_a_cached_view_has_the_fields_that_are_shown_in_their_order() -> None:
    job = Job(job_id="j", member_id=7)
    label = "POST /recommend/cached"
    async with http_bench() as bench:
        await bench.results.claim(job, token="t")
        await bench.results.succeed(job, songs_result(), token="t")
        answer = (await bench.client.post("/recommend/cached", json={"memberId": 7})).json()
    jsonschema.Draft202012Validator(
        schema_of(OPERATIONS[label]["responses"]["200"]["content"]["application/json"])
    ).validate(answer)
    assert list(answer) == list(documented(label, 200, "application/json"))


async def test_the_contracts_post_routes_answer_with_the_fields_that_are_shown() -> None:
    async with http_bench() as bench:
        for path in ("/recommend", "/favorites/updated", "/warm/active"):
            answer = await bench.client.post(path, json={"memberId": 7, "favorite_song_ids": [1]})
            assert list(answer.json()) == list(documented(f"POST {path}", 200, "application/json"))


async def fails() -> str | None:
    raise OSError


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/started"])
async def test_health_answers_as_shown_whether_well_or_not(path: str) -> None:
    async def well() -> str | None:
        return None

    for status, check in ((200, well), (503, fails)):
        async with http_bench(checks={"redis": check}) as bench:
            with structlog.testing.capture_logs():
                answer = await bench.client.get(path)
        content = OPERATIONS[f"GET {path}"]["responses"][str(status)]["content"]["application/json"]
        assert answer.status_code == status
        jsonschema.Draft202012Validator(schema_of(content)).validate(answer.json())
        shown = next(examples_of(content))
        assert {name: answer.json()[name] for name in ("ready", "started") if name in shown} == {
            name: shown[name] for name in ("ready", "started") if name in shown
        }


async def test_a_stream_of_events_comes_in_the_lines_that_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.jobs, "LOOK_EVERY_S", 0.001)
    seen = iter([(JobStatus.RUNNING, 0), (JobStatus.RUNNING, 50), (JobStatus.SUCCEEDED, 100)])

    class Passing:
        async def job(self, _job_id: str) -> JobView:
            status, progress = next(seen)
            return JobView(status=status, progress=progress, fields={}, result=None)

    async with http_bench(results=Passing()) as bench:
        answer = await bench.client.get(f"/jobs/{JOB_ID}/events")
    assert answer.text == EXAMPLE_STREAM.replace(": ping\n\n", "")
    assert documented("GET /jobs/{job_id}/events", 200, "text/event-stream") == EXAMPLE_STREAM


async def test_metrics_come_in_the_lines_that_are_shown() -> None:
    async with http_bench() as bench:
        for kind, accept in (("text/plain", ""), ("application/openmetrics-text", "application/openmetrics-text")):
            await bench.client.get("/health")
            answer = await bench.client.get("/metrics", headers={"accept": f"{accept}; version=1.0.0"})
            assert answer.headers["content-type"].startswith(kind)
            lines = {line.rpartition(" ")[0] for line in answer.text.splitlines()}
            shown = documented("GET /metrics", 200, kind).splitlines()
            assert {line.rpartition(" ")[0] for line in shown} <= lines
