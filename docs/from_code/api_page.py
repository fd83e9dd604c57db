"""The page of all HTTP routes, of the OpenAPI document that the application answers with."""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from api.app import create_app
from api.responses import PROBLEM_JSON
from docs.from_code.tables import code, codes, plain, table

Document = Mapping[str, Any]
_INTRODUCTION = """\
# Routes

What the worker and `main.py api` answer on `HTTP_PORT`; how they are meant: [The HTTP API](../api.md). For machines:
[`openapi.json`](openapi.json), which a running process answers at `/openapi.json`. Errors are problem documents (RFC
9457, `application/problem+json`): [one of each status](#refusals) is at the end. This page is made of that document.
"""


def document() -> Document:
    """The OpenAPI document of the application, of which nothing is run."""
    # It keeps what it is given for requests, of which none comes.
    absent = {
        name: None for name, each in inspect.signature(create_app).parameters.items() if each.default is each.empty
    }
    application: Any = create_app
    found: Document = application(**absent).openapi()
    return found


def page(document: Document) -> str:
    """The page."""
    tags = dict[str, list[str]]()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            [tag, *_] = operation.get("tags", ["others"])
            tags.setdefault(tag, []).append(_section(document, f"{method.upper()} {path}", operation))
    parts = [f"## {tag.capitalize()}\n\n" + "\n".join(sections) for tag, sections in tags.items()]
    return "\n".join([_INTRODUCTION, *parts, "## Refusals\n", *_refusals(document)])


def _section(document: Document, title: str, operation: Document) -> str:
    parts = [f"### {title}\n", operation.get("description", operation["summary"]) + "\n"]
    if parameters := operation.get("parameters"):
        rows = [_parameter(document, each) for each in parameters]
        parts.append(table(["parameter", "takes", "default", "meaning"], rows) + "\n")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts += _body(document, f"Body, {code(kind)}", content)
    for status, answer in sorted(operation["responses"].items()):
        for kind, content in answer.get("content", {}).items():
            if kind != PROBLEM_JSON:
                parts += _body(document, f"Answer {status}, {code(kind)}", content)
    answers = [
        f"{status} {plain(answer['description'].rstrip('.'))}"
        for status, answer in sorted(operation["responses"].items())
    ]
    return "\n".join([*parts, f"Answers: {', '.join(answers)}.\n"])


def _parameter(document: Document, parameter: Document) -> list[str]:
    schema = parameter["schema"]
    name = f"{code(parameter['name'])} ({parameter['in']})"
    default = "required" if parameter.get("required") else code(schema.get("default", ""))
    return [name, _takes(document, schema), default, plain(parameter.get("description", ""))]


def _body(document: Document, heading: str, content: Document) -> Iterator[str]:
    schema = _resolved(document, content.get("schema", {}))
    yield f"{heading}:\n"
    if properties := schema.get("properties"):
        required = schema.get("required", ())
        rows = [
            [code(name), _takes(document, each), "yes" if name in required else "", plain(each.get("description", ""))]
            for name, each in properties.items()
        ]
        yield table(["field", "takes", "always", "meaning"], rows) + "\n"
    for example in _examples(content) or _examples(schema):
        yield _shown(example)


def _examples(holder: Document) -> Sequence[object]:
    return [holder["example"]] if "example" in holder else holder.get("examples", ())


def _shown(example: object) -> str:
    if isinstance(example, str):
        return f"```text\n{example.rstrip()}\n```\n"
    return f"```json\n{json.dumps(example, ensure_ascii=False, indent=2)}\n```\n"


def _refusals(document: Document) -> Iterator[str]:
    """One of each status that any route is refused with; their ``detail`` differs from route to route."""
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    yield from _body(document, f"Answer, {code(PROBLEM_JSON)}", problem)
    told = dict[str, str]()
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if refusal := answer.get("content", {}).get(PROBLEM_JSON):
                    told.setdefault(status, f"{status} {answer['description']}:\n\n{_shown(refusal['example'])}")
    yield from (told[status] for status in sorted(told))


def _takes(document: Document, schema: Document) -> str:
    schema = _resolved(document, schema)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_takes(document, each) for each in schema["anyOf"]))
    if "enum" in schema:
        return codes(schema["enum"])
    if "const" in schema:
        return code(schema["const"] if isinstance(schema["const"], str) else json.dumps(schema["const"]))
    kind = str(schema.get("type", "any"))
    if kind == "object":
        return _object(document, schema)
    if kind == "array":
        return f"list of {_takes(document, schema.get('items', {}))}{_range(schema, 'Items')}"
    return kind + (_range(schema, "Length") if kind == "string" else _range(schema, "imum"))


def _object(document: Document, schema: Document) -> str:
    if "properties" in schema:
        return f"object of {codes(schema['properties'])}"
    values = schema.get("additionalProperties")
    return f"object, each value: {_takes(document, values)}" if isinstance(values, dict) and values else "object"


def _resolved(document: Document, schema: Document) -> Document:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _range(schema: Document, what: str) -> str:
    """Such as ", 1 to 100"; limits of 64 bits go without saying."""
    least, most = _told(schema.get("min" + what)), _told(schema.get("max" + what))
    if least is not None and most is not None:
        return f", {least} to {most}"
    if most is not None:
        return f", up to {most}"
    return f", from {least}" if least is not None else ""


def _told(limit: float | None) -> str | None:
    return None if limit is None or abs(limit) >= 2**63 - 1 else f"{limit:.15g}"
