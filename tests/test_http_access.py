"""Who may ask: with a key set, without one, and from a page of another site."""

import hmac
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

import api.access
from api.access import ALWAYS_OPEN
from config.settings import Settings
from models.log_event import LogEvent
from tests.support.http_app import HttpBench, http_bench
from workers.runtime.http import serving_http
from workers.runtime.parts import open_parts

KEY = "k3y-Of_ours.~+/=!"
WRITES = ["/recommend", "/recommend/cached", "/favorites/updated", "/warm/active", "/nowhere", "/openapi.json"]
READS = ["/metrics", "/health", "/health/ready", "/openapi.json", "/nowhere"]

RIGHT: list[Mapping[str, str]] = [
    {"Authorization": f"Bearer {KEY}"},
    {"authorization": f"bearer   {KEY} "},
    {"X-API-Key": KEY},
    {"x-api-key": KEY, "authorization": "Basic dXNlcjpwYXNz"},
    {"x-api-key": "another", "authorization": f"BEARER {KEY}"},
]
WRONG: list[Mapping[str, str]] = [
    {},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": f"Basic {KEY}"},
    {"Authorization": KEY},
    {"Authorization": f"Bearer{KEY}"},
    {"X-API-Key": ""},
    {"X-API-Key": KEY[:-1]},
    {"X-API-Key": KEY + "x"},
    {"X-API-Key": KEY.upper()},
    {"X-API-Key": f"{KEY},{KEY}"},
    {"X-API-Key": f"Bearer {KEY}"},
    {"Cookie": f"api_key={KEY}"},
]


async def post(bench: HttpBench, path: str, headers: Mapping[str, str]) -> httpx.Response:
    return await bench.client.post(path, json={"memberId": 1}, headers=headers)


def assert_refused(response: httpx.Response) -> None:
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"
    assert "X-API-Key" in response.json()["detail"]
    assert KEY not in response.text


@pytest.mark.parametrize("headers", WRONG)
async def test_without_the_right_key_nothing_is_written(headers: Mapping[str, str]) -> None:
    async with http_bench(api_key=KEY) as bench:
        for path in WRITES:
            assert_refused(await post(bench, path, headers))
        assert (bench.publisher.main, bench.publisher.batch, bench.members.asked) == ([], [], [])


@pytest.mark.parametrize("headers", RIGHT)
async def test_the_right_key_is_taken_in_either_header(headers: Mapping[str, str]) -> None:
    async with http_bench(api_key=KEY) as bench:
        assert (await post(bench, "/recommend", headers)).json()["status"] == "queued"
        assert (await post(bench, "/favorites/updated", headers)).status_code == 200
        assert (await post(bench, "/warm/active", headers)).status_code == 200
        assert len(bench.publisher.main) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
async def test_only_reads_are_reads(method: str) -> None:
    async with http_bench(api_key=KEY) as bench:
        assert_refused(await bench.client.request(method, "/metrics"))


async def test_reads_stay_open_unless_they_are_keyed_too() -> None:
    async with http_bench(api_key=KEY) as bench:
        answers = [(await bench.client.get(path)).status_code for path in READS]
    assert answers == [200, 200, 200, 200, 404]


async def test_keyed_reads_want_the_key_too() -> None:
    async with http_bench(api_key=KEY, keyed_reads=True) as bench:
        for path in READS:
            assert_refused(await bench.client.get(path))
        assert (await bench.client.head("/metrics")).status_code == 401
        assert (await bench.client.get("/metrics", headers={"X-API-Key": KEY})).status_code == 200
        assert (await bench.client.get("/health", headers={"Authorization": f"Bearer {KEY}"})).status_code == 200


@pytest.mark.parametrize(("path", "told"), [("/health/live", {"status": "ok"}), ("/health/started", {"started": True})])
async def test_whether_the_process_lives_and_has_started_is_told_to_anybody(path: str, told: object) -> None:
    assert path in ALWAYS_OPEN
    async with http_bench(api_key=KEY, keyed_reads=True) as bench:
        response = await bench.client.get(path)
        assert (response.status_code, response.json()) == (200, told)
        assert_refused(await post(bench, path, {}))


@pytest.mark.parametrize("path", ["//health/live", "/health/live/", "/health/live/../../metrics", "/HEALTH/LIVE"])
async def test_no_other_spelling_of_the_open_path_opens_anything(path: str) -> None:
    async with http_bench(api_key=KEY, keyed_reads=True) as bench:
        request = bench.client.build_request("GET", "http://songs-ai/")
        request.url = request.url.copy_with(raw_path=path.encode())
        assert_refused(await bench.client.send(request))


async def test_without_a_key_the_contracts_routes_are_open() -> None:
    async with http_bench(keyed_reads=True) as bench:
        assert (await post(bench, "/recommend", {})).json()["status"] == "queued"
        assert (await bench.client.get("/metrics")).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_browsers_page_of_another_site_writes_nothing(site: str) -> None:
    async with http_bench() as bench:
        response = await post(bench, "/warm/active", {"Sec-Fetch-Site": site})
        assert (await bench.client.get("/health", headers={"Sec-Fetch-Site": site})).status_code == 200
    assert response.status_code == 403
    assert bench.members.asked == []


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_a_browsers_own_requests_are_like_any_others(site: str) -> None:
    async with http_bench() as bench:
        assert (await post(bench, "/recommend", {"Sec-Fetch-Site": site})).status_code == 200


async def test_who_has_the_key_may_ask_from_anywhere() -> None:
    async with http_bench(api_key=KEY) as bench:
        headers = {"X-API-Key": KEY, "Sec-Fetch-Site": "cross-site"}
        assert (await post(bench, "/recommend", headers)).status_code == 200


async def test_the_body_of_who_may_not_ask_is_never_read() -> None:
    async def receive() -> Mapping[str, Any]:
        raise AssertionError("the body was asked for")

    sent: list[Mapping[str, Any]] = []

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/recommend", "headers": [(b"content-length", b"9" * 30)]}
    async with http_bench(api_key=KEY) as bench:
        await bench.app(scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 401


async def test_refused_requests_are_counted_by_their_route() -> None:
    async with http_bench(api_key=KEY) as bench:
        await post(bench, "/recommend", {})
        exposition = bench.metrics.expose("")[0].decode()
    assert 'songs_ai_http_requests_total{code="4xx",route="/recommend"} 1.0' in exposition


async def test_keys_are_compared_in_constant_time_and_at_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def recording(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return hmac.compare_digest(first, second)

    monkeypatch.setattr(api.access, "compare_digest", recording)
    async with http_bench(api_key=KEY) as bench:
        for key in ("", "x", KEY, "x" * 900):
            await post(bench, "/recommend", {"X-API-Key": key, "Authorization": "Bearer z"})
    assert len(compared) == 8
    assert {len(digest) for pair in compared for digest in pair} == {32}


@settings(max_examples=20)  # each opens an application of its own
@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40).filter(lambda key: key != KEY)
)
async def test_no_other_key_opens_anything(key: str) -> None:
    async with http_bench(api_key=KEY) as bench:
        assert_refused(await post(bench, "/recommend", {"X-API-Key": key}))
        assert_refused(await post(bench, "/recommend", {"Authorization": f"Bearer {key}"}))


# --- the warning at start ---


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("0.0.0.0", "", True), ("0.0.0.0", KEY, False), ("127.0.0.1", "", False), ("localhost", "", False)],  # noqa: S104
)
async def test_a_port_that_others_reach_without_a_key_is_warned_of(host: str, key: str, warned: bool) -> None:
    given = {"http_host": host, "http_port": 0, "api_key": key, "database_url": "sqlite://", "redis_url": "memory://"}
    settings = Settings.model_validate(given)
    async with open_parts(settings) as parts:
        with structlog.testing.capture_logs() as logs:
            async with serving_http(parts, consuming=False):
                pass
    told = [line for line in logs if line["event"] == LogEvent.HTTP_EXPOSED]
    assert bool(told) == warned
    assert all("API_KEY" in line["hint"] and line["log_level"] == "warning" for line in told)


# --- what the document says of it ---


@pytest.mark.parametrize("keyed_reads", [False, True])
async def test_the_document_asks_for_the_key_where_the_key_is_asked_for(keyed_reads: bool) -> None:
    async with http_bench(api_key=KEY, keyed_reads=keyed_reads) as bench:
        document = bench.app.openapi()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                answer = await bench.client.request(method, re.sub(r"\{\w+\}", "1", path))
                is_refused = answer.status_code == HTTPStatus.UNAUTHORIZED
                assert operation.get("security", []) == ([{"apiKey": []}, {"bearer": []}] if is_refused else []), path
        schemes = document["components"]["securitySchemes"]
    assert schemes["apiKey"]["name"] == "X-API-Key"
    assert schemes["bearer"]["scheme"] == "bearer"


async def test_without_a_key_the_document_says_that_it_may_be_left_out() -> None:
    async with http_bench() as bench:
        asked = bench.app.openapi()["paths"]["/recommend"]["post"]["security"]
    assert asked == [{}, {"apiKey": []}, {"bearer": []}]
