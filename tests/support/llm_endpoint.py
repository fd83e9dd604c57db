"""How compatible endpoints differ: what of a request they refuse, in which words, and in what form they answer."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from tests.support.llm_faults import Fault, Json, endless, spoilt

Part = Literal[
    "json_schema", "json_object", "tools", "max_tokens", "max_completion_tokens", "temperature", "stream_options"
]

_CHARS_PER_CHUNK = 40
_PARTS_BEFORE_A_BREAK = 0.6
_WORDS: dict[str, str] = {
    "json_schema": "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
    "json_object": "This response_format type is unavailable now",
    "tools": "registry.ollama.ai/library/gemma3:4b does not support tools",
    "max_tokens": (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    ),
    "max_completion_tokens": "Unrecognized request argument supplied: max_completion_tokens",
    "temperature": "Unsupported value: 'temperature' does not support 0.2 with this model.",
    "stream_options": "Unknown field: stream_options",
}
_PARAMETERS = {"json_schema": "response_format", "json_object": "response_format"}


@dataclass
class Endpoint:
    """The habits of one kind of server; the defaults are OpenAI's own."""

    refuses: frozenset[Part] = frozenset()
    refusal_status: int = 400
    refusal_form: Literal["openai", "flat", "detail"] = "openai"
    answers_in: Literal["plain", "fenced", "thinking", "thinking_closed_only"] = "plain"
    calls_tools: bool = True
    tells_usage: bool = True
    cached_tokens: int = 0

    def refusal(self, body: Json) -> web.Response | None:
        """What is answered where ``body`` holds a part that this endpoint does not take, else None."""
        part = next((part for part in _parts(body) if part in self.refuses), None)
        if part is not None:
            return self._refused(_WORDS[part], _PARAMETERS.get(part, part))
        if "json_object" in _parts(body) and "json" not in json.dumps(body["messages"]).lower():
            return self._refused("'messages' must contain the word 'json' in some form", "messages")
        return None

    def _refused(self, words: str, parameter: str) -> web.Response:
        forms: dict[str, Json] = {
            "openai": {"error": {"message": words, "type": "invalid_request_error", "param": parameter, "code": None}},
            "flat": {"object": "error", "message": words, "type": "BadRequestError", "code": self.refusal_status},
            "detail": {"detail": [{"type": "extra_forbidden", "loc": ["body", parameter], "msg": words}]},
        }
        return web.json_response(forms[self.refusal_form], status=self.refusal_status)

    def written(self, text: str) -> str:
        """``text`` as a model of this kind puts it."""
        match self.answers_in:
            case "fenced":
                return f"Here you are:\n```json\n{text}\n```\nEnjoy!"
            case "thinking":
                return f'<think>\nThey like {{"h": 1}} and so on.\n</think>\n\n{text}'
            case "thinking_closed_only":
                return f"They like songs, so {{1}}.\n</think>\n\n{text}"
            case _:
                return text

    def message(self, body: Json, text: str) -> Json:
        """The message that answers ``body`` with ``text``: a call of the tool where one is offered."""
        if not self.calls_tools or not (tools := body.get("tools")):
            return {"role": "assistant", "content": self.written(text), "refusal": None}
        assert isinstance(tools, list)
        function = {"name": tools[0]["function"]["name"], "arguments": text}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}


def _parts(body: Json) -> list[str]:
    response_format = body.get("response_format")
    kinds = [str(response_format["type"])] if isinstance(response_format, dict) else []
    return [*kinds, *(part for part in _WORDS if part in body)]


# --- sending ---


async def send(request: web.Request, body: Json, completion: Json, fault: Fault | None) -> web.StreamResponse:
    """``completion`` in the form that ``body`` asks for, broken where ``fault`` says so."""
    if fault is Fault.NESTED_BODY:
        return web.Response(text="[" * 100_000, content_type="application/json")
    if fault is Fault.ENDLESS_ANSWER:
        return await _send_for_ever(request, body, completion)
    if body.get("stream"):
        return await _send_stream(request, body, completion, fault)
    if fault in (Fault.ANSWER_CUT, Fault.ANSWER_STALLS):
        whole = json.dumps(completion).encode()
        return await _break_off(request, [whole[: len(whole) // 2]], fault, "application/json")
    died = {"error": {"message": "the engine died", "code": "server_error"}}
    return web.json_response(died if fault is Fault.ANSWER_ERROR else spoilt(completion, fault))


async def _send_for_ever(request: web.Request, body: Json, completion: Json) -> web.StreamResponse:
    if not body.get("stream"):
        return await endless(request, json.dumps(completion).encode(), "application/json")
    choice = {"index": 0, "delta": {"content": "la " * 100}, "finish_reason": None}
    chunk = {**completion, "object": "chat.completion.chunk", "usage": None, "choices": [choice]}
    return await endless(request, _event(chunk), "text/event-stream")


async def _send_stream(request: web.Request, body: Json, completion: Json, fault: Fault | None) -> web.StreamResponse:
    events = [_event(chunk) for chunk in _chunks(completion, fault)]
    usage = completion.pop("usage", None)
    if fault in (Fault.ANSWER_CUT, Fault.ANSWER_STALLS, Fault.ANSWER_ERROR, Fault.ANSWER_UNFINISHED):
        events = events[: max(1, int(len(events) * _PARTS_BEFORE_A_BREAK))]
        if fault is Fault.ANSWER_ERROR:
            events.append(_event({"error": {"message": "the engine died", "code": "server_error"}}))
        return await _break_off(request, events, fault, "text/event-stream")
    if body.get("stream_options") == {"include_usage": True} and usage is not None:
        events.append(_event(spoilt({**completion, "choices": [], "usage": usage}, fault)))
    return await _break_off(request, [*events, b"data: [DONE]\n\n"], fault, "text/event-stream")


async def _break_off(
    request: web.Request, parts: list[bytes], fault: Fault | None, content_type: str
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    for part in parts:
        await response.write(part)
    if fault is Fault.ANSWER_STALLS:
        await asyncio.Event().wait()
    if fault is Fault.ANSWER_CUT:
        assert request.transport is not None
        request.transport.close()
    return response


def _event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _chunks(completion: Json, fault: Fault | None) -> Iterator[object]:
    choices = completion["choices"]
    if (spoilt(dict(completion), fault) != completion and fault not in _IN_USAGE) or not isinstance(choices, list):
        yield _as_chunk(spoilt(dict(completion), fault))
        return
    for choice in choices:
        shared = {**completion, "object": "chat.completion.chunk", "usage": None}
        for delta in _deltas(choice["message"]):
            yield {**shared, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield {**shared, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}


_IN_USAGE = tuple(fault for fault in Fault if "usage" in fault or "tokens" in fault)


def _as_chunk(document: object) -> object:
    """A spoilt completion as the one event of a stream."""
    if not isinstance(document, dict) or not isinstance(choices := document.get("choices"), list):
        return document
    as_deltas = [{"delta": choice["message"], **choice} if "message" in choice else choice for choice in choices]
    return {**document, "choices": as_deltas}


def _deltas(message: Json) -> Iterator[Json]:
    yield {"role": "assistant", "content": ""}
    for key in ("content", "refusal"):
        for piece in _pieces(message.get(key)):
            yield {key: piece}
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        yield {"tool_calls": [{**call, "function": {"name": call["function"]["name"], "arguments": ""}}]}
        for piece in _pieces(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}


def _pieces(text: object) -> Iterator[str]:
    whole = text if isinstance(text, str) else ""
    for start in range(0, len(whole), _CHARS_PER_CHUNK):
        yield whole[start : start + _CHARS_PER_CHUNK]
