"""An OpenAI-compatible chat server for tests: it reads the prompt as a model would, and fails on demand.

In a test, the fixture ``llm_server``. For worker processes, a command::

    python -m tests.support.llm_server --port 9100 --delay-s 2

It prints one line when it is ready. ``GET /stats`` counts; ``POST /faults`` with a list such as
``[{"kind": "rate_limited", "times": 2, "retry_after_s": 0.1}]`` makes the next calls fail (``times`` null: all calls,
until ``[]`` is posted).
"""

import argparse
import asyncio
import json
import re
import signal
import zlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from random import Random

import pytest
from aiohttp import web
from rs_bpe.bpe import openai


class Fault(StrEnum):
    """What can go wrong with a call."""

    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    UNAUTHORIZED = "unauthorized"
    BAD_REQUEST = "bad_request"
    PROMPT_FILTERED = "prompt_filtered"
    HANG = "hang"
    CONNECTION_RESET = "connection_reset"
    NOT_JSON = "not_json"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    REFUSAL = "refusal"
    CONTENT_FILTER = "content_filter"
    EMPTY_CHOICES = "empty_choices"
    EMPTY_CONTENT = "empty_content"
    UNKNOWN_HANDLES = "unknown_handles"
    REPEATED_HANDLES = "repeated_handles"
    WRONG_LANGUAGE = "wrong_language"
    TEXT_BODY = "text_body"
    LIST_BODY = "list_body"
    NULL_BODY = "null_body"
    NESTED_BODY = "nested_body"
    EMPTY_CHOICE = "empty_choice"
    NULL_MESSAGE = "null_message"
    WRONG_ROLE = "wrong_role"
    TEXT_TOOL_CALLS = "text_tool_calls"
    TEXT_USAGE = "text_usage"
    LIST_USAGE = "list_usage"
    TEXT_USAGE_DETAILS = "text_usage_details"
    TEXT_TOKENS = "text_tokens"
    NEGATIVE_TOKENS = "negative_tokens"
    HUGE_TOKENS = "huge_tokens"
    BAD_STATUS_LINE = "bad_status_line"
    BAD_CHUNK_SIZE = "bad_chunk_size"
    BAD_ENCODING = "bad_encoding"
    CUT_BODY = "cut_body"
    LONG_HEADER = "long_header"
    BODY_OF_204 = "body_of_204"


@dataclass
class Planned:
    """A fault for the next ``times`` calls, or for all where that is None."""

    kind: Fault
    times: int | None = None
    retry_after_s: float | None = None


@dataclass
class Stats:
    """What the server has seen; tokens are those of calls that got an answer, by o200k_base."""

    n_calls: int = 0
    n_answered: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    faults: dict[str, int] = field(default_factory=dict)


Json = dict[str, object]


class LLMServer:
    """One server on a loopback port of its own.

    ``scripted`` replaces the content of every answer, ``spoilt`` parts of what is around it; no answer is given until
    ``gate`` calls have come.
    """

    def __init__(self, *, delay_s: float = 0.0, port: int = 0) -> None:
        self.delay_s = delay_s
        self.stats = Stats()
        self.requests: deque[Json] = deque(maxlen=1000)
        self.headers: deque[dict[str, str]] = deque(maxlen=1000)
        self.scripted: str | None = None
        self.spoilt: Json = {}
        self.gate = 0
        self._port = port
        self._faults: list[Planned] = []
        self._runner: web.AppRunner | None = None
        self._came = asyncio.Condition()

    @property
    def base_url(self) -> str:
        """What ``OPENAI_BASE_URL`` is set to."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def n_calls(self) -> int:
        """Chat requests so far, failed ones and retries included."""
        return self.stats.n_calls

    def fail(self, kind: Fault, *, times: int | None = None, retry_after_s: float | None = None) -> None:
        """Make the next ``times`` calls fail after those that already are to, or all."""
        self._faults.append(Planned(Fault(kind), times, retry_after_s))

    def heal(self) -> None:
        """Fail no more."""
        self._faults.clear()

    async def called(self, n: int, *, timeout_s: float = 10.0) -> None:
        """Return once ``n`` calls have come."""
        async with asyncio.timeout(timeout_s), self._came:
            await self._came.wait_for(lambda: self.stats.n_calls >= n)

    async def start(self) -> None:
        """Listen; returns when calls can come."""
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/stats", self._stats)
        app.router.add_post("/faults", self._set_faults)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop listening and drop what is under way."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "test", "object": "model"}]})

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(self.stats))

    async def _set_faults(self, request: web.Request) -> web.Response:
        self._faults = [Planned(Fault(fault.pop("kind")), **fault) for fault in await request.json()]
        return web.json_response({"n_faults": len(self._faults)})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.stats.in_flight += 1
        self.stats.max_in_flight = max(self.stats.max_in_flight, self.stats.in_flight)
        try:
            await self._count()
            await self.called(self.gate, timeout_s=60)
            await asyncio.sleep(self.delay_s)
            return await self._answer(request, body)
        finally:
            self.stats.in_flight -= 1

    async def _count(self) -> None:
        async with self._came:
            self.stats.n_calls += 1
            self._came.notify_all()

    async def _answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        fault = self._next_fault()
        if fault is not None:
            self.stats.faults[fault.kind] = self.stats.faults.get(fault.kind, 0) + 1
            if (failure := await _failed_transfer(request, fault)) is not None:
                return failure
        completion = _completion(body, fault.kind if fault else None, self.scripted)
        usage = completion["usage"]
        assert isinstance(usage, dict)
        self.stats.n_answered += 1
        self.stats.prompt_tokens += usage["prompt_tokens"]
        self.stats.completion_tokens += usage["completion_tokens"]
        return _sent({**completion, **self.spoilt}, fault.kind if fault else None)

    def _next_fault(self) -> Planned | None:
        while self._faults:
            fault = self._faults[0]
            if fault.times is None:
                return fault
            if fault.times > 0:
                fault.times -= 1
                return fault
            self._faults.pop(0)
        return None


_STATUS = {
    Fault.RATE_LIMITED: (429, "rate_limit_exceeded"),
    Fault.SERVER_ERROR: (500, "server_error"),
    Fault.UNAUTHORIZED: (401, "invalid_api_key"),
    Fault.BAD_REQUEST: (400, "invalid_request_error"),
    Fault.PROMPT_FILTERED: (400, "content_filter"),
}

_RAW = {
    Fault.BAD_STATUS_LINE: b"HTTP/1.1 fine\r\n\r\n",
    Fault.BAD_CHUNK_SIZE: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nmany\r\n{}\r\n0\r\n\r\n",
    Fault.BAD_ENCODING: b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    Fault.CUT_BODY: b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{",
    # Twice as long as the client reads (8190 bytes).
    Fault.LONG_HEADER: b"HTTP/1.1 200 OK\r\nX-Trace: " + b"x" * 16_384 + b"\r\nContent-Length: 2\r\n\r\n{}",
    Fault.BODY_OF_204: b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}",
}


async def _failed_transfer(request: web.Request, fault: Planned) -> web.StreamResponse | None:
    """The failure of a fault that is one of HTTP or below; None for those that are in the content."""
    if fault.kind in _STATUS:
        status, code = _STATUS[fault.kind]
        headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
        return web.json_response({"error": {"message": code, "code": code}}, status=status, headers=headers)
    if fault.kind is Fault.HANG:
        await asyncio.Event().wait()
    if fault.kind is Fault.CONNECTION_RESET:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()
    if fault.kind in _RAW:
        assert request.transport is not None
        request.transport.write(_RAW[fault.kind])
        request.transport.close()
        return web.Response()
    if fault.kind is Fault.NOT_JSON:
        return web.Response(text="<html>upstream is warming up</html>", content_type="text/html")
    return None


# --- the model ---


@dataclass(frozen=True, slots=True)
class Question:
    """What a model understands of the prompt of ``core/prompting.py``."""

    n_picks: int
    language: str
    handles: Sequence[int]
    lines: dict[int, str]
    likes: dict[str, str]


def read_prompt(body: Json) -> Question:
    """The prompt as the server's model reads it: delimiters, handles, language and the number of picks."""
    messages = body["messages"]
    assert isinstance(messages, list)
    system, user = (message["content"] for message in messages)
    lines = {int(handle): rest for handle, rest in _rows(user, "candidates")}
    n_picks = re.search(r"Exactly (\d+) picks", system)
    language = re.search(r"Write everything in (\w+)", system)
    assert n_picks is not None
    assert language is not None
    return Question(int(n_picks[1]), language[1], list(lines), lines, dict(_rows(user, "likes")))


def _rows(user: str, block: str) -> list[tuple[str, str]]:
    inside = user.split(f"<{block}>\n", 1)[1].split(f"</{block}>", 1)[0]
    return [(row.split(" ", 1)[0], row.split(" ", 1)[1]) for row in inside.splitlines() if row]


@dataclass(frozen=True, slots=True)
class _Voice:
    reason: str
    label: str
    tagline: str
    taste: str


_VOICES = {
    "English": _Voice(
        "A {genre} pick near what you like", "Mood {n}", "Songs that belong together", "You like warm {genre}."
    ),
    "Korean": _Voice(
        "좋아하시는 노래와 잘 어울리는 {genre}", "분위기 {n}", "함께 듣기 좋은 노래들", "따뜻한 {genre} 취향이시네요."
    ),
    "Japanese": _Voice(
        "お好きな曲によく合う{genre}", "ムード{n}", "一緒に聴きたい曲たち", "{genre}がお好きなようです。"
    ),
}


def _answer(question: Question, fault: Fault | None) -> Json:
    language = question.language
    if fault is Fault.WRONG_LANGUAGE:
        language = "Korean" if language == "English" else "English"
    voice = _VOICES[language]
    handles = _chosen(question, fault)
    n_groups = max(2, min(6, question.n_picks // 5))
    picks = [{"h": handle, "r": voice.reason.format(genre=_genre(question, handle))} for handle in handles]
    groups = [
        {"label": voice.label.format(n=place + 1), "tagline": voice.tagline, "picks": picks[place::n_groups]}
        for place in range(n_groups)
    ]
    return {"taste": voice.taste.format(genre=_genre(question, handles[0])), "groups": groups}


def _chosen(question: Question, fault: Fault | None) -> list[int]:
    handles = list(question.handles)
    Random(zlib.crc32("".join(question.lines.values()).encode())).shuffle(handles)
    handles = handles[: question.n_picks]
    if fault is Fault.UNKNOWN_HANDLES:
        return [handle + 100_000 for handle in handles]
    return handles[:1] * len(handles) if fault is Fault.REPEATED_HANDLES else handles


def _genre(question: Question, handle: int) -> str:
    cells = question.lines.get(handle, "").split(" | ")
    return cells[2].split(",")[0] if len(cells) > 2 else "pop"


def _completion(body: Json, fault: Fault | None, scripted: str | None) -> Json:
    text = scripted or json.dumps(_answer(read_prompt(body), fault), ensure_ascii=False, separators=(",", ":"))
    message: Json = {"role": "assistant", "content": text, "refusal": None}
    finish_reason = "stop"
    match fault:
        case Fault.TRUNCATED:
            message["content"], finish_reason = text[: len(text) * 6 // 10], "length"
        case Fault.MALFORMED:
            message["content"] = "Sure! Here are some lovely songs: 1, 2 and 3."
        case Fault.EMPTY_CONTENT:
            message["content"] = ""
        case Fault.REFUSAL:
            message["content"], message["refusal"] = None, "I can not help with that."
        case Fault.CONTENT_FILTER:
            message["content"], finish_reason = "", "content_filter"
        case _:
            pass
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}
    return {
        "id": "chatcmpl-test",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [] if fault is Fault.EMPTY_CHOICES else [choice],
        "usage": _usage(body, str(message["content"] or "")),
    }


_BODIES: dict[Fault, object] = {Fault.TEXT_BODY: "hi", Fault.LIST_BODY: [], Fault.NULL_BODY: None}
_CHOICES: dict[Fault, Json] = {
    Fault.EMPTY_CHOICE: {},
    Fault.NULL_MESSAGE: {"index": 0, "message": None, "finish_reason": "stop"},
    Fault.WRONG_ROLE: {"index": 0, "message": {"role": "user", "content": "{}"}, "finish_reason": "stop"},
    Fault.TEXT_TOOL_CALLS: {"message": {"role": "assistant", "content": "{}", "tool_calls": "x"}},
}
_USAGES: dict[Fault, object] = {
    Fault.TEXT_USAGE: "x",
    Fault.LIST_USAGE: [1],
    Fault.TEXT_USAGE_DETAILS: {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": "x"},
    Fault.TEXT_TOKENS: {"prompt_tokens": "5", "completion_tokens": "many"},
    Fault.NEGATIVE_TOKENS: {"prompt_tokens": -5, "completion_tokens": -(10**30)},
    Fault.HUGE_TOKENS: {"prompt_tokens": 10**30, "completion_tokens": 1e300},
}


def _sent(completion: Json, fault: Fault | None) -> web.Response:
    """``completion`` as it is sent; some faults put something in its place, or in that of a part."""
    if fault is Fault.NESTED_BODY:
        return web.Response(text="[" * 100_000, content_type="application/json")
    if fault in _BODIES:
        return web.json_response(_BODIES[fault])
    if fault in _CHOICES:
        completion["choices"] = [_CHOICES[fault]]
    if fault in _USAGES:
        completion["usage"] = _USAGES[fault]
    return web.json_response(completion)


def _usage(body: Json, text: str) -> dict[str, int]:
    prompt_tokens, completion_tokens = count_tokens(prompt_text(body)), count_tokens(text)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def prompt_text(body: Json) -> str:
    """All of a request that is paid for: messages and response format."""
    messages = body["messages"]
    assert isinstance(messages, list)
    contents = "\n".join(message["content"] for message in messages)
    return contents + json.dumps(body.get("response_format", {}), separators=(",", ":"))


def count_tokens(text: str) -> int:
    """Tokens of ``text`` by o200k_base."""
    return int(openai.o200k_base().count(text))


@pytest.fixture
async def llm_server() -> AsyncIterator[LLMServer]:
    """A chat server of this test's own."""
    server = LLMServer()
    await server.start()
    yield server
    await server.close()


async def _serve(port: int, delay_s: float) -> None:
    server = LLMServer(port=port, delay_s=delay_s)
    await server.start()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"llm_server ready {server.base_url}", flush=True)  # noqa: T201 - the handshake of whoever started it
    await stop.wait()
    await server.close()


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description="an OpenAI-compatible chat server for tests")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay-s", type=float, default=0.0)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.port, arguments.delay_s))


if __name__ == "__main__":
    main()
