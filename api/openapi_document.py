"""The OpenAPI document, with what FastAPI leaves out of it."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from api.access import needs_key
from api.refusals import PROBLEM_SCHEMA
from api.shapes import WireModel

DESCRIPTION = """\
Recommendations from a catalogue and from what members like. A list from chosen items comes at once; one of a member is
a job on a queue, which can be followed, and its result is kept.

Bodies are JSON (`Content-Type: application/json`). Errors are problem documents (RFC 9457, `application/problem+json`),
whose `detail` says what is wrong and what to do. Lists of recommendations stand best first: their order keeps variety,
and a score is the item's own match, so scores need not fall from item to item.
"""
TAGS = [
    {"name": "health", "description": "Probes of those who run it"},
    {"name": "metrics", "description": "What Prometheus scrapes"},
    {"name": "recommendations", "description": "Lists from chosen items, and jobs of members by the wire contract"},
    {"name": "catalogue", "description": "Items by name, by likeness, and all together"},
    {"name": "jobs", "description": "How a job stands, at one look or as it goes on"},
    {"name": "members", "description": "What is known of members, and the lists that are kept for them"},
    {"name": "events", "description": "What members did, which later lists follow"},
    {"name": "models", "description": "Versions of the fitted models and their figures"},
    {"name": "dead letters", "description": "Jobs that were given up, and how to send them back to work"},
]
SECURITY_SCHEMES = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "`API_KEY`, where it is set"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same key as `Authorization: Bearer KEY`"},
}


def complete_document(app: FastAPI, *, keyed: bool, keyed_reads: bool) -> dict[str, Any]:
    """The document, which ``app`` answers from now on: no route may be added after it.

    ``keyed``: whether there is a key; else the routes that would need it say that it may be left out.
    """
    document = app.openapi()  # made once, and kept by the application
    schemas = document["components"]["schemas"]
    schemas["Problem"] = PROBLEM_SCHEMA
    for model in _models(WireModel):
        extra = model.model_config.get("json_schema_extra")
        if model.__name__ in schemas and isinstance(extra, dict):
            schemas[model.__name__].update(extra)  # of examples, FastAPI keeps no null
    document["components"]["securitySchemes"] = SECURITY_SCHEMES
    ways: list[dict[str, list[str]]] = [{name: []} for name in SECURITY_SCHEMES]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if needs_key(method.upper(), path, keyed_reads=keyed_reads):
                operation["security"] = ways if keyed else [{}, *ways]
    return document


def _models(root: type[WireModel]) -> Iterator[type[WireModel]]:
    for model in root.__subclasses__():
        yield model
        yield from _models(model)
