"""What of the chat API an endpoint takes: compatible servers each refuse another part of it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import openai

from core.ports.language_model import Prompt

Method = Literal["json_schema", "function_calling", "json_mode", "none"]
METHODS: tuple[Method, ...] = get_args(Method)

# llama.cpp answers 500 where a template knows no tools.
_REFUSALS = frozenset({400, 404, 405, 415, 422, 500, 501})
_OTHER_TROUBLE = frozenset({"model_not_found", "context_length_exceeded", "content_filter"})
_MAX_CHARS = 2000
_FORMAT = re.compile(
    r"response.?format|json.?schema|json.?object|json.?mode|structured.?output|guided|grammar|requested parameters"
)
_TOOLS = re.compile(r"\btools?\b|tool_|\bfunctions?\b|function.call|requested parameters")
_JSON_ONLY = "Answer with one JSON object and nothing else, by this JSON schema:"


@dataclass(frozen=True, slots=True)
class Dialect:
    """The parts that requests are made of. ``method`` is how the endpoint is told to answer by the schema."""

    method: Method = "json_schema"
    length_limit: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    temperature: bool = True
    stream_usage: bool = True

    def system(self, prompt: Prompt) -> str:
        """The instructions; where nothing else says it, the schema too, and the word JSON that json_mode insists on."""
        if self.method in ("json_schema", "function_calling"):
            return prompt.system
        return f"{prompt.system}\n{_JSON_ONLY} {json.dumps(prompt.schema, separators=(',', ':'))}"

    def parameters(self, prompt: Prompt, temperature: float | None) -> dict[str, object]:
        """The body of the request beside model and messages."""
        body: dict[str, object] = {self.length_limit: prompt.max_output_tokens, **self._format(prompt)}
        if self.temperature and temperature is not None:
            body["temperature"] = temperature
        return body

    def _format(self, prompt: Prompt) -> Mapping[str, object]:
        name, schema = prompt.schema_name, prompt.schema
        match self.method:
            case "json_schema":
                spec = {"name": name, "schema": schema, "strict": True}
                return {"response_format": {"type": "json_schema", "json_schema": spec}}
            case "function_calling":
                function = {"name": name, "parameters": schema, "strict": True}
                choice = {"type": "function", "function": {"name": name}}
                return {"tools": [{"type": "function", "function": function}], "tool_choice": choice}
            case "json_mode":
                return {"response_format": {"type": "json_object"}}
            case _:
                return {}

    def without(self, part: str) -> "Dialect":
        """The next dialect to try where the endpoint refuses ``part``, one of what ``refused_part`` names."""
        match part:
            case "temperature":
                return replace(self, temperature=False)
            case "stream_options":
                return replace(self, stream_usage=False)
            case "length_limit":
                older = self.length_limit == "max_completion_tokens"
                return replace(self, length_limit="max_tokens" if older else "max_completion_tokens")
            case _:
                return replace(self, method=METHODS[min(METHODS.index(self.method) + 1, len(METHODS) - 1)])


def refused_part(error: openai.APIStatusError, dialect: Dialect) -> str | None:
    """The part of a request in ``dialect`` that ``error`` says the endpoint does not take.

    ``response_format`` (also for tools), ``length_limit``, ``temperature`` or ``stream_options``; None for what is
    wrong otherwise. Servers agree on no code for this, so it is read from their words.
    """
    if error.status_code not in _REFUSALS or error.code in _OTHER_TROUBLE:
        return None
    said = f"{error.body}".lower()[:_MAX_CHARS]
    if "stream_options" in said or "include_usage" in said:
        return "stream_options"
    if _speaks_of_method(said, dialect.method):
        return "response_format"
    if "max_tokens" in said or "max_completion_tokens" in said:
        return "length_limit"
    return "temperature" if "temperature" in said else None


def _speaks_of_method(said: str, method: Method) -> bool:
    if method == "none":
        return False
    return bool((_TOOLS if method == "function_calling" else _FORMAT).search(said))
