"""Says what is wrong with settings, for people: variable, part, problem and value, and never a secret."""

import json
import re
from collections import Counter
from collections.abc import Iterator

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsError

MAX_SHOWN_CHARS = 60
MAX_PROBLEM_CHARS = 300
MAX_PROBLEMS_EACH = 3
HIDDEN = "a value that is not shown"

# What stands in the wrong variable may be a key or a URL with a password all the same.
_SECRET_LOOKING = re.compile(r"sk-|://[^/\s]*@|password|secret|BEGIN [A-Z ]*PRIVATE KEY", re.IGNORECASE)
_FIELD = re.compile(r'field "(\w+)"')


def setting_problems(
    error: ValidationError | SettingsError | UnicodeDecodeError, settings: type[BaseSettings]
) -> list[str]:
    """Sentences such as ``CONCURRENCY: must be a valid integer, ..., got 'many'``, three of one setting at the most."""
    if isinstance(error, ValidationError):
        return list(_invalid(error, settings))
    if isinstance(error, SettingsError):
        return [_unreadable(error, settings)]
    return [f".env: must be UTF-8 ({error.reason} at byte {error.start})"]


def _invalid(error: ValidationError, settings: type[BaseSettings]) -> Iterator[str]:
    n_told = Counter[str]()
    for detail in error.errors():
        problem = _shortened(detail["msg"].removeprefix("Value error, ").replace("Input should", "must", 1))
        name, *part = map(str, detail["loc"] or ("",))
        if not name:
            yield problem  # about several settings at once, which it names; its input holds all secrets
            continue
        n_told[name] += 1
        if n_told[name] > MAX_PROBLEMS_EACH:
            continue
        place = ".".join(part)[:MAX_SHOWN_CHARS]
        where = "".join(f"{each}: " for each in (name.upper(), place) if each)
        yield f"{where}{problem}, got {_shown(name, detail['input'], settings)}"


def _unreadable(error: SettingsError, settings: type[BaseSettings]) -> str:
    found = _FIELD.search(str(error))
    name, cause = found[1] if found else "", error.__cause__
    if not isinstance(cause, json.JSONDecodeError):
        return f"{name.upper()}: {error}" if name else str(error)
    return (
        f"{name.upper()}: must be JSON ({cause.msg} at character {cause.pos}), got {_shown(name, cause.doc, settings)}"
    )


def _shown(name: str, value: object, settings: type[BaseSettings]) -> str:
    field = settings.model_fields.get(name)
    shown = repr(value)
    if isinstance(value, SecretStr) or field is None or field.annotation is SecretStr or _SECRET_LOOKING.search(shown):
        return HIDDEN
    return shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[: MAX_SHOWN_CHARS - 3]}..."


def _shortened(problem: str) -> str:
    """A validator of ours may say the value in its sentence."""
    return problem if len(problem) <= MAX_PROBLEM_CHARS else f"{problem[: MAX_PROBLEM_CHARS - 3]}..."
