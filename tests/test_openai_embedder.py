"""The embedder over HTTP, against a small server that speaks the OpenAI embeddings API."""

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web

from core.errors import DependencyUnavailable
from core.ports.index import Embedder
from models.catalogue import Item
from services.openai_embedder import OpenAIEmbedder, description
from tests.support.loopback_http import serving

DIM = 64
SECRET = "sk-very-secret"

Answer = Callable[[Mapping[str, Any]], web.Response]


def vector_of(text: str) -> list[float]:
    """Not of unit length, and different for each text."""
    return [float(value) for value in np.random.default_rng(len(text) + sum(map(ord, text))).normal(size=DIM) * 3]


def in_base64(vector: list[float]) -> str:
    return base64.b64encode(np.array(vector, "<f4").tobytes()).decode()


def well(body: Mapping[str, Any], *, encode: Callable[[list[float]], object] = in_base64) -> web.Response:
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector_of(text))}
        for index, text in enumerate(body["input"])
    ]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return web.json_response({"object": "list", "model": body["model"], "data": data[::-1], "usage": usage})


def error(status: int, code: str) -> Answer:
    message = f"Incorrect API key provided: {SECRET}"
    return lambda _: web.json_response({"error": {"message": message, "code": code}}, status=status)


@dataclass
class EmbeddingServer:
    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    requests: list[Mapping[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    awake: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers.get("Authorization"))
        await self.awake.wait()
        return (self.answers.pop(0) if self.answers else well)(body)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[EmbeddingServer]:
    state = EmbeddingServer()
    state.awake.set()
    app = web.Application()
    app.router.add_post("/v1/embeddings", state.handle)
    async with serving(app) as url:
        state.url = f"{url}/v1"
        yield state
        state.awake.set()


@contextlib.asynccontextmanager
async def opened(server: EmbeddingServer, **options: Any) -> AsyncIterator[OpenAIEmbedder]:
    given = {"api_key": SECRET, "base_url": server.url, "model": "small", "dim": DIM, "max_retries": 0, **options}
    embedder = OpenAIEmbedder(**given)
    try:
        yield embedder
    finally:
        await embedder.aclose()


def song(item_id: int = 1, title: str = "Dawn") -> Item:
    return Item(item_id=item_id, titles={"en": title}, creator="Yoon", genres=("pop",))


async def test_it_is_an_embedder_that_names_model_and_dimension(server: EmbeddingServer) -> None:
    async with opened(server) as embedder:
        port: Embedder = embedder
        assert (port.name, port.dim) == ("openai-small-64", DIM)


async def test_vectors_come_in_the_order_of_the_items_at_unit_length(server: EmbeddingServer) -> None:
    songs = [song(number, f"Title {number * 37}") for number in range(5)]
    async with opened(server) as embedder:
        vectors = await embedder.embed(songs)
    expected = np.array([vector_of(description(item)) for item in songs])
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert vectors.dtype == np.dtype(np.float32)


async def test_the_request_names_model_dimensions_and_base64(server: EmbeddingServer) -> None:
    async with opened(server) as embedder:
        await embedder.embed([song()])
    (request,) = server.requests
    assert (request["model"], request["dimensions"], request["encoding_format"]) == ("small", DIM, "base64")
    assert request["input"] == ["title: Dawn\nby: Yoon\ngenre: pop"]
    assert server.keys == [f"Bearer {SECRET}"]


async def test_a_server_that_knows_no_base64_is_understood(server: EmbeddingServer) -> None:
    server.answers.append(lambda body: well(body, encode=list))
    async with opened(server) as embedder:
        vectors = await embedder.embed([song()])
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-5)


async def test_many_items_are_asked_in_batches(server: EmbeddingServer) -> None:
    async with opened(server) as embedder:
        vectors = await embedder.embed([song(number, f"Title {number}") for number in range(600)])
    assert [len(request["input"]) for request in server.requests] == [256, 256, 88]
    assert vectors.shape == (600, DIM)


async def test_an_item_without_text_is_not_sent_and_gets_the_zero_vector(server: EmbeddingServer) -> None:
    empty = Item(item_id=2, titles={"en": "  "}, language="ko", features={"energy": 0.5})
    async with opened(server) as embedder:
        vectors = await embedder.embed([song(1), empty, song(3)])
        nothing = await embedder.embed([empty])
    assert [len(request["input"]) for request in server.requests] == [2]
    assert np.any(vectors, axis=1).tolist() == [True, False, True]
    assert not np.any(nothing)


async def test_without_a_key_a_placeholder_is_sent(server: EmbeddingServer) -> None:
    async with opened(server, api_key="") as embedder:
        await embedder.embed([song()])
    assert server.keys == ["Bearer none"]


async def test_a_busy_server_is_asked_again(server: EmbeddingServer) -> None:
    server.answers.append(lambda _: web.json_response({}, status=429, headers={"retry-after-ms": "1"}))
    async with opened(server, max_retries=1) as embedder:
        assert np.any(await embedder.embed([song()]))
    assert len(server.requests) == 2


@pytest.mark.parametrize(("status", "code"), [(401, "invalid_api_key"), (400, "bad_dimensions"), (500, "oops")])
async def test_a_refusal_is_our_error_with_its_status_and_without_the_key(
    server: EmbeddingServer, status: int, code: str
) -> None:
    server.answers.append(error(status, code))
    async with opened(server) as embedder:
        with pytest.raises(
            DependencyUnavailable, match=rf"embeddings: small: HTTP status {status} \({code}\)"
        ) as raised:
            await embedder.embed([song()])
    assert SECRET not in str(raised.value)
    assert raised.value.dependency == "embeddings"


def short(body: Mapping[str, Any]) -> web.Response:
    return well(body, encode=lambda vector: in_base64(vector[:10]))


def none(body: Mapping[str, Any]) -> web.Response:
    return well({**body, "input": []})


def zero(body: Mapping[str, Any]) -> web.Response:
    return well(body, encode=lambda vector: in_base64([0.0] * len(vector)))


def unending(body: Mapping[str, Any]) -> web.Response:
    return well(body, encode=lambda vector: in_base64([float("nan")] * len(vector)))


def twice(body: Mapping[str, Any]) -> web.Response:
    return well({**body, "input": [*body["input"], "more"]})


def nonsense(_: Mapping[str, Any]) -> web.Response:
    return web.Response(text="<html>", content_type="application/json")


def foreign(_: Mapping[str, Any]) -> web.Response:
    return web.json_response({"vectors": []})


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (short, "vectors of 10 numbers for 64"),
        (none, "small"),
        (zero, "without a direction"),
        (unending, "without a direction"),
        (twice, "2 vectors for 1 inputs"),
        (nonsense, "small"),
        (foreign, "small"),
    ],
)
async def test_an_answer_that_is_no_embedding_is_our_error(
    server: EmbeddingServer, answer: Answer, problem: str
) -> None:
    server.answers.append(answer)
    async with opened(server) as embedder:
        with pytest.raises(DependencyUnavailable, match=problem):
            await embedder.embed([song()])


async def test_a_server_that_is_not_there_is_our_error(server: EmbeddingServer) -> None:
    with socket.socket() as bound_but_deaf:
        bound_but_deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound_but_deaf.getsockname()[1]}/v1"
        async with opened(server, base_url=url) as embedder:
            with pytest.raises(DependencyUnavailable, match="small: API"):
                await embedder.embed([song()])


async def test_a_server_that_does_not_answer_in_time_is_our_error(server: EmbeddingServer) -> None:
    server.awake.clear()
    async with opened(server, timeout_s=0.05) as embedder:
        with pytest.raises(DependencyUnavailable, match="APITimeoutError"):
            await embedder.embed([song()])


def test_a_description_holds_each_known_thing_once() -> None:
    item = Item(
        item_id=1,
        titles={"ko": "봄", "en": "Spring"},
        creator="IU",
        creator_local="IU",
        genres=("pop", "ballad"),
        moods=("calm",),
        language="ko",
        columns={"title_yomi": "bom", "tj_number": 3},
    )
    assert description(item, ["title_yomi", "tj_number", "absent"]).splitlines() == [
        "title: 봄, Spring, bom",
        "by: IU",
        "genre: pop, ballad",
        "mood: calm",
        "language: ko",
    ]


def test_a_description_is_bounded() -> None:
    assert len(description(song(title="long " * 5000))) == 4000
