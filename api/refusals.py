"""What the OpenAPI document says of refusals: of each status a problem document as it comes (RFC 9457)."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from pydantic.config import JsonDict

from api.access import FOREIGN_PAGE, NO_KEY
from api.query import NO_SUCH_PARAMETER
from api.responses import NOT_JSON, PROBLEM_JSON, WENT_WRONG, not_available, problem_document, shown

Documented = dict[int | str, dict[str, Any]]
"""Answers by status, as FastAPI's ``responses`` takes them."""

READ = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
)
"""What any read may be refused with, beside what its own routes say."""
WRITE = (
    *READ,
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)
"""The same of what changes something, or takes a body."""

PROBLEM_SCHEMA: JsonDict = {
    "title": "Problem",
    "description": "Why a request was refused (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"const": "about:blank"},
        "title": {"type": "string", "description": "the status in words"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong, and what to do about it"},
        "errors": {
            "type": "array",
            "description": "where input was wrong: field, what is wrong with it, and what was given, of at most 100",
            "items": {
                "type": "object",
                "required": ["field", "problem", "value"],
                "additionalProperties": {"type": "string"},
            },
        },
        "dependency": {"type": "string", "description": "the server that is away"},
    },
}
_REFERENCE = {"$ref": "#/components/schemas/Problem"}
_RETRY_AFTER = {"Retry-After": {"description": "seconds until it may help to ask again", "schema": {"type": "integer"}}}

_DETAILS = {
    HTTPStatus.BAD_REQUEST: "There was an error parsing the body",
    HTTPStatus.UNAUTHORIZED: NO_KEY,
    HTTPStatus.FORBIDDEN: FOREIGN_PAGE,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the body is larger than 1048576 bytes",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: NOT_JSON,
    HTTPStatus.TOO_MANY_REQUESTS: 'more requests than "1-minute";q=600;w=60 allow; try again in 12 seconds',
    HTTPStatus.INTERNAL_SERVER_ERROR: WENT_WRONG,
}


def documented(statuses: Iterable[HTTPStatus]) -> Documented:
    """Of ``READ`` or ``WRITE``."""
    return {int(status): _answer(status, _DETAILS[status]) for status in statuses}


def not_found(detail: str) -> Documented:
    """404; ``detail`` as it comes."""
    return {HTTPStatus.NOT_FOUND.value: _answer(HTTPStatus.NOT_FOUND, detail)}


def wrong_input(field: str, problem: str, given: object) -> Documented:
    """422 with one error."""
    error = {"field": field, "problem": problem, "value": shown(given)}
    detail = f"{field}: {problem}, got {shown(given)}"
    answer = _answer(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=[error])
    return {HTTPStatus.UNPROCESSABLE_ENTITY.value: answer}


def too_large(field: str, most: int) -> Documented:
    """422 for a number in the query that is one too large."""
    return wrong_input(field, f"must be at most {most}", str(most + 1))


def unknown_parameter() -> Documented:
    """422 where nothing may stand in the query."""
    return wrong_input("limit", NO_SUCH_PARAMETER, "5")


def no_integer(field: str) -> Documented:
    """422 for what should be an integer in the path."""
    return wrong_input(field, "must be an integer", "x")


def away(dependency: str) -> Documented:
    """503 for want of ``dependency``."""
    status = HTTPStatus.SERVICE_UNAVAILABLE
    return {status.value: _answer(status, not_available(dependency), dependency=dependency)}


def _answer(status: HTTPStatus, detail: str, **members: object) -> dict[str, Any]:
    example = problem_document(status, detail, **members)
    answer: dict[str, Any] = {
        "description": status.phrase,
        "content": {PROBLEM_JSON: {"schema": _REFERENCE, "example": example}},
    }
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        answer["headers"] = _RETRY_AFTER
    return answer
