"""What servers really say when they refuse a part of a request, and what they say of other trouble."""

import httpx2
import openai
import pytest

from services.llm_dialect import METHODS, Dialect, Method, refused_part


def said(status: int, body: object) -> openai.APIStatusError:
    response = httpx2.Response(status, request=httpx2.Request("POST", "http://server/v1/chat/completions"))
    return openai.APIStatusError("refused", response=response, body=body)


REFUSALS: list[tuple[Method, int, str, str]] = [
    ("json_schema", 400, "Invalid schema for response_format 'recommendation': ...", "response_format"),
    (
        "json_schema",
        400,
        "response_format value as json_schema is enabled only for api versions ...",
        "response_format",
    ),
    ("json_schema", 400, "This model does not support structured outputs", "response_format"),
    ("json_schema", 404, "No endpoints found that can handle the requested parameters.", "response_format"),
    ("json_schema", 500, "failed to parse grammar", "response_format"),
    ("function_calling", 400, '"auto" tool choice requires --enable-auto-tool-choice', "response_format"),
    ("function_calling", 404, "No endpoints found that support tool use.", "response_format"),
    ("function_calling", 500, "tools param requires --jinja flag", "response_format"),
    ("function_calling", 400, "phi3 does not support tools", "response_format"),
    ("json_mode", 400, "'response_format.type' must be 'json_schema' or 'text'", "response_format"),
    ("json_schema", 400, "Unrecognized request argument supplied: max_completion_tokens", "length_limit"),
    ("json_schema", 400, "'max_tokens' is not supported with this model.", "length_limit"),
    ("none", 400, "temperature does not support 0.2 with this model", "temperature"),
    ("none", 422, "stream_options: Extra inputs are not permitted", "stream_options"),
]


@pytest.mark.parametrize(("method", "status", "words", "part"), REFUSALS)
def test_the_part_that_is_refused_is_read_from_the_words(method: Method, status: int, words: str, part: str) -> None:
    for body in ({"message": words}, {"detail": [{"msg": words}]}, words):
        assert refused_part(said(status, body), Dialect(method=method)) == part


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"message": "maximum context length is 8192 tokens (functions)", "code": "context_length_exceeded"}),
        (404, {"message": "The model `functions` does not exist", "code": "model_not_found"}),
        (400, {"message": "the prompt about tools was filtered", "code": "content_filter"}),
        (401, {"message": "Incorrect API key for response_format"}),
        (429, {"message": "Limit reached for tools"}),
        (400, {"message": "messages must not be empty"}),
        (500, None),
        (400, [1, 2]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", METHODS)
def test_other_trouble_is_no_refusal(status: int, body: object, method: Method) -> None:
    assert refused_part(said(status, body), Dialect(method=method)) is None


def test_each_refusal_leads_on_and_the_last_method_nowhere() -> None:
    dialect, seen = Dialect(), []
    for _ in METHODS:
        seen.append(dialect.method)
        dialect = dialect.without("response_format")
    assert tuple(seen) == METHODS
    assert dialect == Dialect(method="none")
    assert Dialect().without("length_limit").without("length_limit") == Dialect()
