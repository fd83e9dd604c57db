"""Requests made from the OpenAPI document, valid and not, over a real socket: every answer is as the document says."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from api.server import HttpServer
from tests.support.http_app import HttpBench, Unavailable, http_bench

OPERATIONS = (
    "GET /health",
    "GET /health/live",
    "GET /health/ready",
    "GET /health/started",
    "GET /metrics",
    "POST /recommend",
    "POST /recommend/cached",
    "POST /favorites/updated",
    "POST /warm/active",
    "POST /recommend/seeds",
    "GET /search",
    "GET /items/{item_id}",
    "GET /items/{item_id}/similar",
    "GET /jobs/{job_id}",
    "GET /jobs/{job_id}/events",
    "GET /members/{member_id}/recommendations",
    "POST /events",
    "GET /catalogue",
    "GET /catalogue/map",
    "GET /members/active",
    "GET /members/{member_id}",
    "GET /models",
    "GET /dead-letters",
    "POST /dead-letters/replay",
)
ASKED: dict[str, dict[str, object]] = {
    "/recommend/seeds": {"itemIds": [1, 2, 3], "explain": True},
    "/events": {"events": [{"memberId": 1, "itemId": 1, "type": "like"}]},
    "/dead-letters/replay": {"letterIds": ["7c9e6679"]},
}
OF_THE_CONTRACT = {"memberId": 1, "favorite_song_ids": [1]}
"""What all other POST routes take."""
ASKING = ("GET /search", "GET /items", "GET /members", "GET /catalogue/map", "GET /dead-letters")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture
async def served() -> AsyncIterator[tuple[HttpBench, str]]:
    async with http_bench() as bench, HttpServer(bench.app, "127.0.0.1", 0) as server:
        yield bench, f"http://127.0.0.1:{server.port}"


def exercise(document: dict[str, Any], base_url: str, label: str, mode: GenerationMode) -> int:
    """Ask what ``label`` names in as many ways as Hypothesis finds; how many requests that were."""
    method, _, path = label.partition(" ")
    operation = schemathesis.openapi.from_dict(document)[path][method]
    n_requests = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25, suppress_health_check=list(HealthCheck), database=None)
    def ask(case: schemathesis.Case[Any]) -> None:
        nonlocal n_requests
        n_requests += 1
        case.call_and_validate(base_url=base_url, checks=CHECKS)

    ask()
    return n_requests


@pytest.mark.parametrize("label", OPERATIONS)
async def test_every_answer_to_a_valid_request_is_as_the_document_says(
    served: tuple[HttpBench, str], label: str
) -> None:
    bench, base_url = served
    assert await asyncio.to_thread(exercise, bench.app.openapi(), base_url, label, GenerationMode.POSITIVE) > 0


@pytest.mark.parametrize("label", [label for label in OPERATIONS if label.startswith(("POST", *ASKING))])
async def test_every_invalid_request_is_refused_as_the_document_says(served: tuple[HttpBench, str], label: str) -> None:
    bench, base_url = served
    assert await asyncio.to_thread(exercise, bench.app.openapi(), base_url, label, GenerationMode.NEGATIVE) > 10


@pytest.mark.parametrize("label", [label for label in OPERATIONS if label.startswith("POST")])
async def test_a_dependency_that_is_away_is_in_the_document_too(label: str) -> None:
    async with http_bench(results=Unavailable()) as bench:
        bench.members.member_ids = [1]
        bench.events.is_away = True
        bench.pages.desk.is_away = True
        path = label.removeprefix("POST ")
        answer = await bench.client.post(path, json=ASKED.get(path, OF_THE_CONTRACT))
        said = bench.app.openapi()["paths"][path]["post"]["responses"]
    assert answer.status_code == 503
    assert list(said[str(answer.status_code)]["content"]) == [answer.headers["content-type"]]


async def test_the_document_names_every_operation(served: tuple[HttpBench, str]) -> None:
    paths = served[0].app.openapi()["paths"]
    assert {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods} == set(OPERATIONS)
