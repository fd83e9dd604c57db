"""The dashboard's texts: all of them in all languages, none missing, none left over."""

import re
import string
from pathlib import Path

import pytest

from api.health import Health
from dashboard.api_client import Trouble
from dashboard.texts import LANGUAGES, Texts, language_of, texts_by_key
from models.recommendation import CandidateSource
from workers.dead_letters import Fate

PAGES = ("try", "members", "catalogue", "quality", "operations")
DASHBOARD = Path(__file__).parents[1] / "dashboard"
NAMED = ("health", "status", "outcome", "fate", "source", "cause", "feature")
"""Groups of names that come from the API."""
BUILT = {
    r'texts\(f"\{name\}\.name"\)': {
        f"{page}.name" for page in ("try", "members", "catalogue", "quality", "operations")
    },
    r"problem\.trouble": {f"problem.{each.value}" for each in Trouble},
    r'texts\(f"try\.\{verdict\}d"\)': {"try.liked", "try.disliked"},
    r'texts\(f"try\.\{verdict\}"\)': {"try.like", "try.dislike"},
    r'texts\("operations\.llm_elsewhere" if': {"operations.llm_elsewhere", "operations.no_llm"},
    r'texts\(f"quality\.\{_state': {"quality.active", "quality.previous", "quality.kept"},
    r'texts\.named\("operations", health\["status"\]\)': {f"operations.{each.value}" for each in Health},
    r'texts\(f"operations\.\{name\}"\)': {
        f"operations.{name}" for name in ("queue", "retrying", "in_flight", "dead", "mean", "replay", "replay_all")
    },
}
"""Keys that the pages put together, by what does so in their source."""


def source() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(DASHBOARD.rglob("*.py")))


def fields_of(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("key", texts_by_key())
def test_a_text_is_in_every_language_with_the_same_values_in_it(key: str) -> None:
    words = texts_by_key()[key]
    assert words.keys() == LANGUAGES.keys()
    assert all(text.strip() for text in words.values())
    assert len({frozenset(fields_of(text)) for text in words.values()}) == 1


def test_every_text_that_the_pages_ask_for_is_there_and_none_is_left_over() -> None:
    asked = set(re.findall(r'texts\(\s*"([a-z_]+\.[a-z_]+)"', source()))
    for pattern, keys in BUILT.items():
        assert re.search(pattern, source()), pattern
        asked |= keys
    known = {key for key in texts_by_key() if key.partition(".")[0] not in NAMED}
    assert asked == known


@pytest.mark.parametrize(
    ("group", "names"), [("source", CandidateSource), ("fate", [each for each in Fate if each is not Fate.PURGED])]
)
def test_names_that_the_api_sends_have_a_text(group: str, names: list[CandidateSource | Fate]) -> None:
    assert {f"{group}.{each.value}" for each in names} <= texts_by_key().keys()


def test_a_name_that_nobody_knows_is_shown_as_it_came() -> None:
    assert Texts("ko").named("source", "tarot") == "tarot"


def test_values_stand_in_their_text() -> None:
    assert Texts("en")("try.yours", n=5) == "Your songs: 5"
    assert Texts("ko")("try.yours", n=5) == "고른 노래 5곡"


@pytest.mark.parametrize(
    ("locale", "language"), [("ko-KR", "ko"), ("ja", "ja"), ("en-GB", "en"), ("fr-FR", "en"), (None, "en"), ("", "en")]
)
def test_the_browsers_locale_chooses_the_language_where_there_are_texts(locale: str | None, language: str) -> None:
    assert language_of(locale) == language
    assert Texts(language).language == language


def test_a_language_without_texts_is_english() -> None:
    assert Texts("tlh").language == "en"
