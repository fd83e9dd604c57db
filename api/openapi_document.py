"""The OpenAPI document, with what FastAPI leaves out of it."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from api.refusals import PROBLEM_SCHEMA
from api.shapes import WireModel


def complete_document(app: FastAPI) -> dict[str, Any]:
    """The document, which ``app`` answers from now on: no route may be added after it."""
    document = app.openapi()  # made once, and kept by the application
    schemas = document["components"]["schemas"]
    schemas["Problem"] = PROBLEM_SCHEMA
    for model in _models(WireModel):
        extra = model.model_config.get("json_schema_extra")
        if model.__name__ in schemas and isinstance(extra, dict):
            schemas[model.__name__].update(extra)  # of examples, FastAPI keeps no null
    return document


def _models(root: type[WireModel]) -> Iterator[type[WireModel]]:
    for model in root.__subclasses__():
        yield model
        yield from _models(model)
