"""Names what goes wrong with a call: the closed list of ``core.errors.LANGUAGE_MODEL_FAILURES``."""

import math
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import aiohttp
import openai

_MAX_CODE = 60
_LIMITED, _NO_CREDIT = 429, 402
_NO_ACCESS = frozenset({401, 403, 404})
_RETRIED = frozenset({408, 409})
_QUOTA = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_hard_limit",
        "billing_not_active",
        "quota_exceeded",
        "402",
    }
)
_LIMIT = frozenset({"rate_limit_exceeded", "429"})
_FILTER = frozenset({"content_filter", "content_policy_violation"})
_NO_JSON = frozenset({"json_validate_failed", "tool_use_failed"})  # Groq: what the model wrote did not fit


class AnswerTooLong(Exception):
    """More came than any answer is: it is read no further."""


class Named(NamedTuple):
    """Why a request failed, and what that was; messages stay out of it, for they may hold prompts or parts of keys."""

    reason: str
    problem: str


def named(error: Exception) -> Named:
    """``error`` by its name."""
    if any(isinstance(each, AnswerTooLong) for each in _chain(error)):
        return Named("malformed", "an answer that is too long")
    if isinstance(error, openai.APIStatusError):
        return Named(_reason(_said(error), error.status_code), f"status {error.status_code}, code {_code(error)}")
    if isinstance(error, openai.APIError) and _code(error):  # said in the middle of a stream
        return Named(_reason(_said(error), None), f"code {_code(error)}")
    if isinstance(error, openai.OpenAIError | aiohttp.ClientError):
        # The SDK's transport lets some of aiohttp's own through: what is not HTTP, too long a header.
        return Named("unavailable", type(error).__name__)
    if isinstance(error, ValueError) and error.args and isinstance(body := error.args[0], dict):
        # LangChain's, for a body that holds an error although its status is 200 (OpenRouter).
        said = {str(body.get("code")), str(body.get("type"))}
        return Named(_reason(said, None), "an error in the body of an answer")
    # The SDK and LangChain trip over a body that is no chat completion in as many ways as there are such bodies.
    return Named("malformed", type(error).__name__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """``error`` and what it was raised from: the SDK wraps whatever its transport raises."""
    while error is not None:
        yield error
        error = error.__cause__


def _code(error: openai.APIError) -> str | None:
    code = error.code or error.type
    return str(code)[:_MAX_CODE] if code else None


def _said(error: openai.APIError) -> set[str]:
    return {str(error.code), str(error.type)}


def _reason(said: set[str], status: int | None) -> str:
    if said & _QUOTA or status == _NO_CREDIT:
        return "quota_exhausted"
    if status == _LIMITED or said & _LIMIT:
        return "rate_limited"
    if said & _FILTER:
        return "filtered"
    return "malformed" if said & _NO_JSON else "unavailable"


def no_access(error: Exception) -> int | None:
    """The status where the endpoint does not let us in or does not know the model: a matter for its operator."""
    if isinstance(error, openai.APIStatusError) and error.status_code in _NO_ACCESS:
        return error.status_code
    return None


def may_be_paid(error: Exception) -> bool:
    """Whether the provider may want to be paid for the request that ended with ``error``.

    Not without a connection, nor where it says 4xx, a limit or a quota: then no model was asked. A 5xx may come of a
    gateway that has lost its patience with a model at work, and whatever breaks off had begun.
    """
    if any(isinstance(each, aiohttp.ClientConnectorError) for each in _chain(error)):
        return False
    if isinstance(error, openai.APIStatusError):
        return error.status_code >= 500  # noqa: PLR2004
    return named(error).reason not in ("rate_limited", "quota_exhausted")


def may_be_retried(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    if named(error).reason not in ("rate_limited", "unavailable"):
        return False
    if isinstance(error, openai.APIStatusError):
        if (told := error.response.headers.get("x-should-retry")) in ("true", "false"):
            return told == "true"
        return error.status_code in _RETRIED or error.status_code == _LIMITED or error.status_code >= 500  # noqa: PLR2004
    return True


def retry_after_s(error: Exception, now: datetime) -> float | None:
    """The seconds that the server asks to wait (RFC 9110, section 10.2.3, or ``retry-after-ms``), or None."""
    if not isinstance(error, openai.APIStatusError):
        return None
    headers = error.response.headers
    if (told_ms := _number(headers.get("retry-after-ms"))) is not None:
        return told_ms / 1000
    told = headers.get("retry-after")
    if (seconds := _number(told)) is not None:
        return seconds
    try:
        at = parsedate_to_datetime(told or "")
        # A zone of -0000 gives a naive instant, which is UTC all the same.
        return max(0.0, (at.replace(tzinfo=at.tzinfo or now.tzinfo) - now).total_seconds())
    except (ValueError, OverflowError):
        return None


def _number(header: str | None) -> float | None:
    try:
        value = float(header or "")
    except ValueError:
        return None
    return None if math.isnan(value) else max(0.0, value)
