"""What can go wrong with a call of the test server, on the wire and in the body."""

import asyncio
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from aiohttp import web

Json = dict[str, object]


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
    QUOTA_EXHAUSTED = "quota_exhausted"
    BILLING_LIMIT = "billing_limit"
    NO_CREDIT = "no_credit"
    FORBIDDEN = "forbidden"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_TO_BE_RETRIED = "not_to_be_retried"
    NO_VALID_JSON = "no_valid_json"
    ANSWER_CUT = "answer_cut"
    ANSWER_ERROR = "answer_error"
    ANSWER_STALLS = "answer_stalls"
    ANSWER_UNFINISHED = "answer_unfinished"
    GATEWAY_TIMEOUT = "gateway_timeout"
    ENDLESS_BODY = "endless_body"
    ENDLESS_ANSWER = "endless_answer"
    COMPRESSED_BODY = "compressed_body"


@dataclass
class Planned:
    """A fault for the next ``times`` calls, or for all where that is None."""

    kind: Fault
    times: int | None = None
    retry_after_s: float | None = None
    headers: dict[str, str] = field(default_factory=dict)


_STATUS = {
    Fault.RATE_LIMITED: (429, "rate_limit_exceeded"),
    Fault.SERVER_ERROR: (500, "server_error"),
    Fault.UNAUTHORIZED: (401, "invalid_api_key"),
    Fault.BAD_REQUEST: (400, "invalid_request_error"),
    Fault.PROMPT_FILTERED: (400, "content_filter"),
    Fault.QUOTA_EXHAUSTED: (429, "insufficient_quota"),
    Fault.BILLING_LIMIT: (429, "billing_hard_limit_reached"),
    Fault.NO_CREDIT: (402, "payment_required"),
    Fault.FORBIDDEN: (403, "unsupported_country_region_territory"),
    Fault.MODEL_NOT_FOUND: (404, "model_not_found"),
    Fault.NOT_TO_BE_RETRIED: (503, "server_error"),
    Fault.NO_VALID_JSON: (400, "json_validate_failed"),
    Fault.GATEWAY_TIMEOUT: (504, "upstream_timeout"),
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


async def failed_transfer(request: web.Request, fault: Planned) -> web.StreamResponse | None:
    """The failure of a fault that is one of HTTP or below; None for those that are in the content."""
    if fault.kind in _STATUS:
        status, code = _STATUS[fault.kind]
        headers = dict(fault.headers)
        if fault.retry_after_s is not None:
            headers["Retry-After"] = str(fault.retry_after_s)
        if fault.kind is Fault.NOT_TO_BE_RETRIED:
            headers["x-should-retry"] = "false"
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
    return await _no_completion(request, fault.kind)


async def _no_completion(request: web.Request, kind: Fault) -> web.StreamResponse | None:
    if kind is Fault.NOT_JSON:
        return web.Response(text="<html>upstream is warming up</html>", content_type="text/html")
    if kind is Fault.ENDLESS_BODY:
        return await endless(request, b" " * 65_536, "application/json")
    if kind is Fault.COMPRESSED_BODY:
        return web.Response(body=_bomb(), content_type="application/json", headers={"Content-Encoding": "gzip"})
    return None


@cache
def _bomb() -> bytes:
    """64 KiB of gzip that are 64 MiB."""
    packer = zlib.compressobj(wbits=31)
    return b"".join([*(packer.compress(b" " * 2**16) for _ in range(2**10)), packer.flush()])


async def endless(request: web.Request, part: bytes, content_type: str) -> web.StreamResponse:
    """``part`` again and again, until the client hangs up."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    with suppress(ConnectionError):
        while True:
            await response.write(part)
    return response


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


def spoilt(completion: Json, fault: Fault | None) -> object:
    """``completion`` as it is sent; some faults put something in its place, or in that of a part."""
    if fault in _BODIES:
        return _BODIES[fault]
    if fault in _CHOICES:
        completion["choices"] = [_CHOICES[fault]]
    if fault in _USAGES:
        completion["usage"] = _USAGES[fault]
    return completion
