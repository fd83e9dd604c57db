"""Songs as the pages write them."""

import re
from collections.abc import Sequence

from dashboard.shapes import Item, Point, Recommended
from dashboard.texts import Texts

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~$:<>=&])")
_MAGIC = re.compile(r"(?<=:)(?=//|[a-z])|(?<=@)(?=\w)|(?<=[Ww]{3})(?=\.)|(?<=[-<>=~])(?=[-<>=])")
"""Between what Streamlit makes links, pictures and arrows of after Markdown was read, where no backslash helps."""
_NOTHING = "\u2060"  # the word joiner: it has no width, and no line breaks there


def plain(text: str) -> str:
    """``text`` as Markdown shows it literally, in one line: titles, and what others wrote, may hold anything."""
    return _MARKDOWN.sub(r"\\\1", _MAGIC.sub(_NOTHING, " ".join(text.split())))


def title_of(item: Item | Point, language: str) -> str:
    """The title in that language, else in any there is, else the id."""
    return item["titles"].get(language) or next(iter(item["titles"].values()), str(item["itemId"]))


def creator_of(item: Item | Point, language: str) -> str:
    """The creator as readers of the language write the name."""
    local = item["creatorLocal"] if language == "ko" else None
    return local or item["creator"] or ""


def named(item: Item, language: str) -> str:
    """Title and creator in one line."""
    creator = creator_of(item, language)
    return f"{title_of(item, language)} — {creator}" if creator else title_of(item, language)


def headline(item: Item, language: str) -> str:
    """Title and creator, Markdown."""
    creator = creator_of(item, language)
    title = f"**{plain(title_of(item, language))}**"
    return f"{title} · {plain(creator)}" if creator else title


def sources_of(recommended: Recommended) -> list[str]:
    """What found it, such as ``content``."""
    if "evidence" in recommended:
        return list(recommended["evidence"]["sources"])
    return [each.partition(":")[2] for each in recommended.get("criteria", []) if each.startswith("source:")]


def evidence_line(recommended: Recommended, texts: Texts) -> str:
    """Score, genres and what found it, Markdown."""
    score = texts("song.score", score=round(recommended["score"]))
    genres = ", ".join(recommended["item"]["genres"])
    found = ", ".join(texts.named("source", source) for source in sources_of(recommended))
    found_by = texts("song.found_by", sources=found) if found else ""
    return " · ".join(plain(part) for part in (score, genres, found_by) if part)


def places(ids: Sequence[int]) -> dict[int, int]:
    """The place of each, from 0."""
    return {item_id: place for place, item_id in enumerate(ids)}


def moved(item_id: int, place: int, before: Sequence[int], texts: Texts) -> str:
    """What became of its place since the list ``before``: new, up, down, or nothing to say."""
    if not before:
        return ""
    was = places(before).get(item_id)
    if was is None:
        return texts("song.new")
    if was == place:
        return ""
    return f"▲ {was - place}" if was > place else f"▼ {place - was}"
