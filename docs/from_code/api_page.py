"""The page of all HTTP routes, of the OpenAPI document that the application answers with."""

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from api.app import create_app
from docs.from_code.tables import code, codes, plain, table

Document = Mapping[str, Any]
_INTRODUCTION = """\
# Routes

What the worker and `main.py api` answer on `HTTP_PORT`; how they are meant: [The HTTP API](../api.md). For machines:
[`openapi.json`](openapi.json), which a running process answers at `/openapi.json`. Errors are problem documents (RFC
9457, `application/problem+json`) with `title`, `status` and `detail`. This page is made of the OpenAPI document.
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
    return "\n".join([_INTRODUCTION, *parts])


def _section(document: Document, title: str, operation: Document) -> str:
    parts = [f"### {title}\n", operation.get("description", operation["summary"]) + "\n"]
    if parameters := operation.get("parameters"):
        rows = [_parameter(document, each) for each in parameters]
        parts.append(table(["parameter", "takes", "default", "meaning"], rows) + "\n")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts += _body(document, f"Body, {code(kind)}", content)
    for kind, content in operation["responses"].get("200", {}).get("content", {}).items():
        parts += _body(document, f"Answer, {code(kind)}", content)
    answers = [
        f"{status} {plain(answer['description'].rstrip('.'))}" for status, answer in operation["responses"].items()
    ]
    return "\n".join([*parts, f"Answers: {', '.join(answers)}.\n"])


def _parameter(document: Document, parameter: Document) -> list[str]:
    schema = parameter["schema"]
    name = f"{code(parameter['name'])} ({parameter['in']})"
    default = "required" if parameter.get("required") else code(schema.get("default", ""))
    return [name, _takes(document, schema), default, plain(parameter.get("description", ""))]


def _body(document: Document, heading: str, content: Document) -> Iterator[str]:
    schema = _resolved(document, content.get("schema", {}))
    if not (properties := schema.get("properties")):
        return
    required = schema.get("required", ())
    rows = [
        [code(name), _takes(document, each), "yes" if name in required else "", plain(each.get("description", ""))]
        for name, each in properties.items()
    ]
    yield f"{heading}:\n"
    yield table(["field", "takes", "always", "meaning"], rows) + "\n"
    example = schema.get("example", next(iter(schema.get("examples", ())), None))
    if example is not None:
        yield f"```json\n{json.dumps(example, ensure_ascii=False, indent=2)}\n```\n"


def _takes(document: Document, schema: Document) -> str:
    schema = _resolved(document, schema)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_takes(document, each) for each in schema["anyOf"]))
    if "enum" in schema:
        return codes(schema["enum"])
    if "const" in schema:
        return code(schema["const"])
    kind = str(schema.get("type", "any"))
    if "properties" in schema:
        return f"object of {codes(schema['properties'])}"
    if kind == "array":
        return f"list of {_takes(document, schema.get('items', {}))}{_range(schema, 'Items')}"
    return kind + (_range(schema, "Length") if kind == "string" else _range(schema, "imum"))


def _resolved(document: Document, schema: Document) -> Document:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _range(schema: Document, what: str) -> str:
    """Such as ", 1 to 100"; limits of 64 bits go without saying."""
    least, most = (
        None if abs(at or 0) >= 2**63 - 1 else at for at in (schema.get("min" + what), schema.get("max" + what))
    )
    if least is not None and most is not None:
        return f", {least} to {most}"
    if most is not None:
        return f", up to {most}"
    return f", from {least}" if least is not None else ""
