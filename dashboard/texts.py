"""What the pages say, in three languages."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

LANGUAGES = {"ko": "한국어", "ja": "日本語", "en": "English"}
DEFAULT = "en"
TABLE = Path(__file__).with_name("texts.toml")


class Texts:
    """The texts in one of ``LANGUAGES``; call it with a key such as ``try.title`` and the values that stand in it."""

    def __init__(self, language: str) -> None:
        self.language = language if language in LANGUAGES else DEFAULT
        self._texts = _table(self.language)

    def __call__(self, key: str, **values: object) -> str:
        """The text; raises ``KeyError`` where there is none."""
        return self._texts[key].format(**values)

    def named(self, group: str, name: str) -> str:
        """The text of a name that comes from the API, such as a status; the name itself where none is known."""
        return self._texts.get(f"{group}.{name}", name)


def language_of(locale: str | None) -> str:
    """The language for a browser's locale, such as ``ko-KR``."""
    language = (locale or "").partition("-")[0].lower()
    return language if language in LANGUAGES else DEFAULT


@cache
def _table(language: str) -> Mapping[str, str]:
    return {key: words[language] for key, words in texts_by_key().items()}


def texts_by_key() -> Mapping[str, Mapping[str, str]]:
    """Every text by its key, and in it by language."""
    groups: dict[str, dict[str, Any]] = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {f"{group}.{name}": words for group, texts in groups.items() for name, words in texts.items()}
