"""What goes back: JSON by orjson, and errors as problem details (RFC 9457)."""

from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from core.errors import DependencyUnavailable

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_S = 5
MAX_SHOWN_CHARS = 120


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
    errors = [_field_error(found) for found in error.errors()]
    first = errors[0]
    detail = f"{first['field']}: {first['problem']}, got {first['value']}"
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)


def _field_error(found: dict[str, Any]) -> dict[str, str]:
    if found["type"] == "json_invalid":
        return {"field": "body", "problem": f"must be JSON ({found['ctx']['error']})", "value": "something else"}
    where = [str(part) for part in found["loc"][1:]] or ["body"]
    return {
        "field": ".".join(where),
        "problem": found["msg"].removeprefix("Value error, "),
        "value": _shown(found["input"]),
    }


def _shown(value: object) -> str:
    # repr escapes what JSON cannot carry, such as half a surrogate pair.
    shown = repr(value)
    return shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[: MAX_SHOWN_CHARS - 3]}..."


async def _on_dependency_unavailable(_request: Request, error: DependencyUnavailable) -> Response:
    detail = f"{error.dependency} is not available; try again in {RETRY_AFTER_S} seconds"
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=headers, dependency=error.dependency)


async def _on_http_error(_request: Request, error: HTTPException) -> Response:
    return problem(error.status_code, error.detail, headers=dict(error.headers or {}))
