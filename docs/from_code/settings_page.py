"""The page of all settings, of ``config/settings.py`` and of the headings in ``.env.example``."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from config.settings import Settings
from docs.from_code.tables import code, codes, plain, table

_HEADING = re.compile(r"# --- (.*) ---")
_NAME = re.compile(r"([A-Z0-9_]+)=(.*)")
_INTRODUCTION = """\
# Settings

Environment variables, or lines of a file `.env` in the working directory; a variable of the environment comes first.
All have a default, and with the defaults alone everything runs in one process. A value that is out of range is refused
at start, with the variable's name. This page is made of `config/settings.py`.
"""


def page(example: Path) -> str:
    """The page; ``example`` is ``.env.example``, which names each setting under its heading with its default."""
    properties = Settings.model_json_schema()["properties"]
    parts = [_INTRODUCTION]
    for heading, defaults in _groups(example):
        rows = [_row(name, default, properties[name.lower()]) for name, default in defaults.items()]
        parts.append(f"## {heading}\n\n{table(['variable', 'default', 'takes', 'meaning'], rows)}\n")
    return "\n".join(parts)


def _groups(example: Path) -> Iterator[tuple[str, dict[str, str]]]:
    heading, defaults = "", dict[str, str]()
    for line in example.read_text(encoding="utf-8").splitlines():
        if found := _HEADING.fullmatch(line):
            if defaults:
                yield heading, defaults
            heading, defaults = found[1], {}
        elif named := _NAME.fullmatch(line):
            defaults[named[1]] = named[2]
    yield heading, defaults


def _row(name: str, default: str, schema: Mapping[str, Any]) -> list[str]:
    anchor = f'<a id="{name.lower()}"></a>'
    return [f"{anchor}`{name}`", code(default.strip("'\"")), _takes(name, schema), plain(schema["description"])]


def _takes(name: str, schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return codes(schema["enum"])
    if schema.get("type") in ("number", "integer"):
        kind = "number" if schema["type"] == "number" else "whole number"
        return f"{kind}{_range(schema)}"
    if schema.get("type") == "boolean":
        return codes(("true", "false"))
    if schema.get("type") == "array":
        return "list, comma-separated"
    if schema.get("type") == "string":
        return "secret" if Settings.model_fields[name.lower()].annotation is SecretStr else "text"
    return "JSON"


def _range(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f", {least:g} to {most:g}"
    if most is not None:
        return f", up to {most:g}"
    if least is not None:
        return f", from {least:g}"
    return f", above {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else ""
