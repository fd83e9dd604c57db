"""The OpenAPI document, with what FastAPI leaves out of it."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from api.access import needs_key
from api.refusals import PROBLEM_SCHEMA
from api.shapes import WireModel

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
