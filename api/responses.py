"""What goes back: JSON by orjson, and errors as problem details (RFC 9457)."""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from itertools import islice
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from core.errors import DependencyUnavailable

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_S = 5
MAX_SHOWN_CHARS, MAX_SHOWN_ERRORS = 120, 100

NO_SUCH_FIELD = "there is no such field here"
NO_SUCH_PATH = "there is nothing at this path; GET /openapi.json says what there is"

NOT_JSON = "send Content-Type: application/json"
"""A form above all, which ``curl -d`` says it sends. Forms are not read: any page may have a browser send one."""

WENT_WRONG = "Something went wrong here; it has been logged."

_UNROUTED: dict[int, str] = {
    HTTPStatus.NOT_FOUND: NO_SUCH_PATH,
    HTTPStatus.METHOD_NOT_ALLOWED: "this path takes {Allow}",
}

_INTEGER, _NUMBER, _BOOLEAN = "must be an integer", "must be a number", "must be true or false"
_STRING, _LIST, _OBJECT = "must be a string", "must be a list", "must be a JSON object"
_MISSING, _NOTHING = "missing", "nothing"
_PROBLEMS = {
    _MISSING: "is missing",
    "extra_forbidden": NO_SUCH_FIELD,
    "too_short": "needs at least {min_length}",
    "too_long": "takes at most {max_length}",
    "string_too_short": "must be at least {min_length} long",
    "string_too_long": "must be at most {max_length} long",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "int_type": _INTEGER,
    "int_parsing": _INTEGER,
    "int_from_float": _INTEGER,
    "int_parsing_size": _INTEGER,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "string_type": _STRING,
    "string_unicode": _STRING,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
}
"""What is wrong by the type of pydantic's error, whose own words speak of tuples and of instances."""


def json_response(body: object, *, status_code: int = 200) -> Response:
    """``body`` (a mapping, or dataclasses and enums inside one) as JSON."""
    return Response(orjson.dumps(body, option=orjson.OPT_UTC_Z), status_code, media_type="application/json")


def problem(status_code: int, detail: str, *, headers: dict[str, str] | None = None, **members: object) -> Response:
    """The answer with that problem document."""
    body = orjson.dumps(problem_document(status_code, detail, **members))
    return Response(body, status_code, headers=headers, media_type=PROBLEM_JSON)


def problem_document(status_code: int, detail: str, **members: object) -> dict[str, object]:
    """A problem document; ``members`` are extensions of it (RFC 9457, 3.2)."""
    title = HTTPStatus(status_code).phrase
    return {"type": "about:blank", "title": title, "status": int(status_code), "detail": detail, **members}


def install_problem_handlers(app: FastAPI) -> None:
    """Make every expected error of ``app`` a problem document."""
    app.exception_handler(RequestValidationError)(_on_bad_input)
    app.exception_handler(DependencyUnavailable)(_on_dependency_unavailable)
    app.exception_handler(HTTPException)(_on_http_error)


async def _on_bad_input(_request: Request, error: RequestValidationError) -> Response:
    if isinstance(error.body, bytes):  # as it is handed on where its type is not JSON's
        return problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, NOT_JSON)
    told = [_field_error(found) for found in islice(_causes(error.errors()), MAX_SHOWN_ERRORS)]
    # A parameter that the route and what it depends on both take is refused twice.
    errors = list({tuple(each.values()): each for each in told}.values())
    first = errors[0]
    got = "" if first["value"] == _NOTHING else f", got {first['value']}"
    detail = f"{first['field']}: {first['problem']}{got}"
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)


def _causes(errors: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All but those that only follow: pydantic calls a tuple too short where what is in it was refused."""
    for found in errors:
        at = found["loc"]
        if found["type"] != "too_short" or all(each["loc"][: len(at)] != at for each in errors if each is not found):
            yield found


def _field_error(found: dict[str, Any]) -> dict[str, str]:
    if found["type"] == "json_invalid":
        return {"field": "body", "problem": f"must be JSON ({found['ctx']['error']})", "value": "something else"}
    where = [str(part) for part in found["loc"][1:]] or ["body"]
    return {
        "field": ".".join(where),
        "problem": _problem_of(found),
        "value": _NOTHING if found["type"] == _MISSING else shown(found["input"]),
    }


def _problem_of(found: dict[str, Any]) -> str:
    known = _PROBLEMS.get(found["type"])
    return known.format_map(found.get("ctx", {})) if known else found["msg"].removeprefix("Value error, ")


def shown(value: object) -> str:
    """How a problem document shows what was given."""
    # repr escapes what JSON cannot carry, such as half a surrogate pair.
    shown = repr(value)
    return shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[: MAX_SHOWN_CHARS - 3]}..."


def not_available(dependency: str) -> str:
    """What is said where a server is away."""
    return f"{dependency} is not available; try again in {RETRY_AFTER_S} seconds"


async def _on_dependency_unavailable(_request: Request, error: DependencyUnavailable) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE, not_available(error.dependency), headers=headers, dependency=error.dependency
    )


async def _on_http_error(_request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    is_unrouted = error.detail == HTTPStatus(error.status_code).phrase and error.status_code in _UNROUTED
    detail = _UNROUTED[error.status_code].format_map(headers) if is_unrouted else error.detail
    return problem(error.status_code, detail, headers=headers)
