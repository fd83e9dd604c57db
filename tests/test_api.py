"""The application as a whole: errors as problem details, metrics, and what is counted."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from api.app import MAX_BODY_BYTES
from api.responses import MAX_SHOWN_ERRORS
from models.log_event import LogEvent
from services.metric_parts.labels import HTTP_ROUTES, OTHER
from tests.support.http_app import Unavailable, http_bench

PROBLEM = "application/problem+json"
POST_ROUTES = ["/recommend", "/recommend/cached", "/favorites/updated"]


class Broken:
    """Whatever is asked of it: a bug strikes, with a secret in its message."""

    def __getattr__(self, name: str) -> object:
        async def strike(*_: object, **__: object) -> None:
            raise RuntimeError("secret hunter2")

        return strike


def problem_of(response: httpx.Response, status: int) -> Mapping[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    body: Mapping[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


# --- bad input ---


@pytest.mark.parametrize("path", POST_ROUTES)
@pytest.mark.parametrize(
    "value", ["12a", "", "-5", "١٢", " 7", "1e3", 1.5, 2.0, True, None, [], {}, 2**63, -(2**63) - 1]
)
async def test_a_member_id_that_is_none_is_refused_with_field_and_value(path: str, value: object) -> None:
    async with http_bench() as bench:
        response = await bench.client.post(path, json={"memberId": value})
        published = bench.publisher.main
    body = problem_of(response, 422)
    assert body["detail"].startswith("memberId: ")
    (error,) = body["errors"]
    assert (error["field"], error["value"]) == ("memberId", repr(value))
    assert published == []


@pytest.mark.parametrize(
    ("likes", "field"),
    [
        ("1,2", "favorite_song_ids"),
        ([1, "2"], "favorite_song_ids.1"),
        ([1.0], "favorite_song_ids.0"),
        ([None], "favorite_song_ids.0"),
        ([True], "favorite_song_ids.0"),
        ([2**63], "favorite_song_ids.0"),
        ({"1": 2}, "favorite_song_ids"),
    ],
)
async def test_likes_that_are_no_integers_are_refused_with_their_place(likes: object, field: str) -> None:
    async with http_bench() as bench:
        response = await bench.client.post("/recommend", json={"memberId": 1, "favorite_song_ids": likes})
    assert problem_of(response, 422)["errors"][0]["field"] == field


async def test_a_missing_member_id_is_named() -> None:
    async with http_bench() as bench:
        response = await bench.client.post("/recommend", json={"favorite_song_ids": [1]})
    assert problem_of(response, 422)["errors"][0]["field"] == "memberId"


async def test_every_wrong_field_is_told_at_once() -> None:
    async with http_bench() as bench:
        response = await bench.client.post("/recommend", json={"memberId": "x", "favorite_song_ids": ["y", "z"]})
    fields = [error["field"] for error in problem_of(response, 422)["errors"]]
    assert fields == ["memberId", "favorite_song_ids.0", "favorite_song_ids.1"]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"{", "application/json"),
        (b"", "application/json"),
        (b"[1]", "application/json"),
        (b"null", "application/json"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(content: bytes, content_type: str) -> None:
    async with http_bench() as bench:
        response = await bench.client.post("/recommend", content=content, headers={"content-type": content_type})
    assert problem_of(response, 422)["errors"][0]["field"] == "body"


@pytest.mark.parametrize("content", [b"\xff\xfe\xfd", b"[" * 100_000, b'{"memberId": ' + b"9" * 5000 + b"}"])
async def test_a_body_that_breaks_the_parser_is_the_senders_fault(content: bytes) -> None:
    async with http_bench() as bench:
        response = await bench.client.post("/recommend", content=content, headers={"content-type": "application/json"})
    assert problem_of(response, response.status_code)
    assert response.status_code in {400, 422}


async def test_a_value_is_shown_shortened_and_escaped() -> None:
    async with http_bench() as bench:
        content = b'{"memberId": "\\ud800' + b"x" * 500 + b'"}'
        response = await bench.client.post("/recommend", content=content, headers={"content-type": "application/json"})
    shown = problem_of(response, 422)["errors"][0]["value"]
    assert shown.startswith("'\\ud800xxx")
    assert len(shown) == 120


@pytest.mark.parametrize("announced", ["9" * 5000, "1048577"])
async def test_a_body_that_is_announced_too_large_is_not_waited_for(announced: str) -> None:
    asked: list[bool] = []

    async def body() -> AsyncIterator[bytes]:
        asked.append(True)
        yield b""

    async with http_bench() as bench:
        response = await bench.client.post("/recommend", content=body(), headers={"content-length": announced})
    problem_of(response, 413)
    assert not asked


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_beyond_a_mebibyte_is_refused(chunked: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1025):
            yield b" " * 1024

    content = chunks() if chunked else b" " * (MAX_BODY_BYTES + 1)
    async with http_bench() as bench:
        with structlog.testing.capture_logs() as logs:
            response = await bench.client.post(
                "/recommend", content=content, headers={"content-type": "application/json"}
            )
        exposition = bench.metrics.expose("")[0].decode()
    assert "1048576 bytes" in problem_of(response, 413)["detail"]
    assert 'songs_ai_http_requests_total{code="4xx",route="/recommend"} 1.0' in exposition
    assert logs == []


async def test_a_body_of_many_likes_below_the_limit_is_taken() -> None:
    async with http_bench() as bench:
        response = await bench.client.post(
            "/recommend", json={"memberId": 1, "favorite_song_ids": list(range(100_000))}
        )
    assert response.status_code == 200


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5"])
async def test_a_limit_out_of_range_is_refused(limit: str) -> None:
    async with http_bench() as bench:
        response = await bench.client.post("/warm/active", params={"limit": limit})
    error = problem_of(response, 422)["errors"][0]
    assert (error["field"], error["value"]) == ("limit", repr(limit))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(member=JSON, likes=JSON)
@settings(max_examples=30)
async def test_no_json_at_all_makes_an_error_of_ours(member: object, likes: object) -> None:
    async with http_bench() as bench:
        response = await bench.client.post("/recommend", json={"memberId": member, "favorite_song_ids": likes})
    assert response.status_code in {200, 422}


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=30)
async def test_no_bytes_at_all_make_an_error_of_ours(content: bytes) -> None:
    async with http_bench() as bench:
        response = await bench.client.post("/recommend", content=content, headers={"content-type": "application/json"})
    assert response.status_code in {400, 422}


# --- other errors ---


@pytest.mark.parametrize("path", POST_ROUTES)
async def test_a_dependency_that_is_away_is_503_with_a_time_to_come_back(path: str) -> None:
    async with http_bench(results=Unavailable()) as bench:
        response = await bench.client.post(path, json={"memberId": 1, "favorite_song_ids": [1]})
        published = bench.publisher.main
    body = problem_of(response, 503)
    assert body["dependency"] == "redis"
    assert int(response.headers["retry-after"]) > 0
    assert "secret" not in response.text
    assert published == []


@pytest.mark.parametrize("path", POST_ROUTES)
async def test_a_bug_is_500_that_tells_nothing_and_is_logged_with_its_traceback(path: str) -> None:
    async with http_bench(results=Broken()) as bench:
        with structlog.testing.capture_logs() as logs:
            response = await bench.client.post(path, json={"memberId": 1, "favorite_song_ids": [1]})
    problem_of(response, 500)
    assert "hunter2" not in response.text
    assert "RuntimeError" not in response.text
    (line,) = logs
    assert (line["event"], line["route"], line["exc_info"]) == (LogEvent.HTTP_REQUEST_FAILED, path, True)


async def test_what_takes_too_long_is_cancelled_and_answered_503() -> None:
    cancelled = asyncio.Event()

    class Hanging:
        async def cached_view(self, _member_id: int) -> bytes:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            raise AssertionError

    async with http_bench(results=Hanging(), answer_timeout_s=0.05) as bench:
        with structlog.testing.capture_logs() as logs:
            response = await bench.client.post("/recommend/cached", json={"memberId": 1})
    assert "0.05 seconds" in problem_of(response, 503)["detail"]
    assert int(response.headers["retry-after"]) > 0
    assert cancelled.is_set()
    assert [(line["event"], line["log_level"]) for line in logs] == [(LogEvent.HTTP_REQUEST_FAILED, "warning")]


async def test_a_timeout_that_is_not_ours_is_a_bug_like_any_other() -> None:
    class Late:
        async def cached_view(self, _member_id: int) -> bytes:
            raise TimeoutError

    async with http_bench(results=Late()) as bench:
        with structlog.testing.capture_logs():
            problem_of(await bench.client.post("/recommend/cached", json={"memberId": 1}), 500)


async def test_a_bug_is_not_raised_a_second_time_to_the_server() -> None:
    async with http_bench(results=Broken()) as bench:
        transport = httpx.ASGITransport(bench.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://songs-ai") as client:
            with structlog.testing.capture_logs():
                response = await client.post("/recommend/cached", json={"memberId": 1})
    assert response.status_code == 500


async def test_of_a_body_that_is_wrong_all_over_no_more_is_told_than_helps() -> None:
    async with http_bench() as bench:
        response = await bench.client.post("/recommend", json={"memberId": 1, "favorite_song_ids": ["x"] * 10_000})
    errors = problem_of(response, 422)["errors"]
    assert len(errors) == MAX_SHOWN_ERRORS
    assert errors[0]["field"] == "favorite_song_ids.0"


async def test_an_unknown_path_and_a_wrong_method_are_problems_too() -> None:
    async with http_bench() as bench:
        problem_of(await bench.client.get("/nowhere"), 404)
        wrong_method = await bench.client.get("/recommend")
    problem_of(wrong_method, 405)
    assert wrong_method.headers["allow"] == "POST"


async def test_a_cancelled_request_is_cancelled_and_no_error() -> None:
    entered = asyncio.Event()

    class Hanging:
        async def cached_view(self, _member_id: int) -> bytes:
            entered.set()
            await asyncio.Event().wait()
            raise AssertionError

    async with http_bench(results=Hanging()) as bench:
        with structlog.testing.capture_logs() as logs:
            request = asyncio.create_task(bench.client.post("/recommend/cached", json={"memberId": 1}))
            await asyncio.wait_for(entered.wait(), 5)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
    assert logs == []


# --- metrics ---


async def test_metrics_are_plain_text_unless_openmetrics_is_asked_for() -> None:
    async with http_bench() as bench:
        plain = await bench.client.get("/metrics")
        openmetrics = await bench.client.get(
            "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}
        )
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "songs_ai_recommendations" in {family.name for family in parse_plain(plain.text)}
    assert "songs_ai_recommendations" in {family.name for family in parse_openmetrics(openmetrics.text)}  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "accept", ["*/*", "", "application/openmetrics-text; version=x", "text/plain; version=y", ";,;"]
)
async def test_any_accept_header_gets_metrics(accept: str) -> None:
    async with http_bench() as bench:
        response = await bench.client.get("/metrics", headers={"accept": accept})
    assert response.status_code == 200
    assert "songs_ai_build_info" in response.text


async def test_requests_are_counted_by_route_and_class_of_status() -> None:
    async with http_bench() as bench:
        await bench.client.post("/recommend/cached", json={"memberId": 1})
        await bench.client.post("/recommend", json={"memberId": 1})
        await bench.client.get("/etc/passwd")
        await bench.client.get("/etc/shadow")
        exposition = bench.metrics.expose("")[0].decode()
    assert 'songs_ai_http_requests_total{code="4xx",route="/recommend/cached"} 1.0' in exposition
    assert 'songs_ai_http_requests_total{code="2xx",route="/recommend"} 1.0' in exposition
    assert 'songs_ai_http_requests_total{code="4xx",route="other"} 2.0' in exposition
    assert "passwd" not in exposition


async def test_a_bug_counts_as_5xx() -> None:
    async with http_bench(results=Broken()) as bench:
        with structlog.testing.capture_logs():
            await bench.client.post("/recommend/cached", json={"memberId": 1})
        exposition = bench.metrics.expose("")[0].decode()
    assert 'songs_ai_http_requests_total{code="5xx",route="/recommend/cached"} 1.0' in exposition


async def test_every_route_has_its_label() -> None:
    async with http_bench() as bench:
        paths = set(bench.app.openapi()["paths"])
    assert paths == set(HTTP_ROUTES) - {OTHER}


async def test_no_page_loads_scripts_from_elsewhere() -> None:
    async with http_bench() as bench:
        assert (await bench.client.get("/docs")).status_code == 404
        assert (await bench.client.get("/redoc")).status_code == 404
        assert (await bench.client.get("/openapi.json")).status_code == 200
