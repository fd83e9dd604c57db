"""The question to the language model: static instructions first, this listener's data last.

Providers cache the longest common prefix of prompts, so nothing of a listener stands before what all of one locale
share. Catalogue texts are data: stripped of control characters and of our delimiters, cut, and fenced.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from string import Template

from config.catalogue_profile import CatalogueProfile
from config.prompt_texts import LocaleTexts, PromptTexts
from core.explanation import MAX_GROUPS, MIN_GROUPS
from core.plain_text import clipped, plain_line
from core.ports import Prompt
from models.catalogue import Item
from models.recommendation import Candidate

MAX_LIKES = 30

_ITEMS_PER_GROUP = 5
_CEILING_BASE = 64
_TOKENS_PER_CANDIDATE = 18.3
_TOKENS_PER_LIKE = 12.5
# Tokens per character, by the last character of each range of Unicode.
_WEIGHTS_UP_TO = (
    (" ", 0.10),
    ("/", 1.65),
    ("9", 0.31),
    ("@", 1.65),
    ("Z", 0.31),
    ("`", 1.65),
    ("z", 0.10),
    ("~", 1.65),
    ("\u303f", 1.2),
    ("\u30ff", 0.40),
    ("\u9fff", 1.12),
    ("\uabff", 1.2),
    ("\ud7a3", 0.71),
    ("\uffff", 1.2),
    ("\U0010ffff", 3.5),
)


@dataclass(frozen=True, slots=True)
class _Detail:
    """How much lines show: longest title and creator in characters, and how many genres and moods."""

    title: int
    creator: int
    n_genres: int
    n_moods: int
    n_like_genres: int


_DETAILS = (
    _Detail(60, 30, 2, 1, 1),
    _Detail(60, 30, 1, 1, 1),
    _Detail(60, 30, 1, 1, 0),
    _Detail(60, 30, 1, 0, 0),
    _Detail(40, 20, 1, 0, 0),
    _Detail(26, 14, 1, 0, 0),
    _Detail(16, 8, 1, 0, 0),
    _Detail(9, 5, 0, 0, 0),
)

Handles = Mapping[int, Candidate]


def _strict_object(**properties: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}
_PICK = _strict_object(h={"type": "integer"}, r=_TEXT)
_GROUP = _strict_object(label=_TEXT, tagline=_TEXT, picks={"type": "array", "items": _PICK})
# The taste comes first so that a truncated answer still has it.
ANSWER_SCHEMA: Mapping[str, object] = _strict_object(taste=_TEXT, groups={"type": "array", "items": _GROUP})


def build_prompt(
    candidates: Sequence[Candidate],
    liked: Sequence[Item],
    *,
    locale: str,
    profile: CatalogueProfile,
    texts: PromptTexts,
    n_picks: int,
) -> tuple[Prompt, Handles]:
    """The prompt that shows ``candidates`` in the given order, and the handles (from 1) by which they are answered.

    ``locale`` is one of ``texts.locales``; of ``liked`` the first ``MAX_LIKES`` are shown.
    """
    spoken = texts.locales[locale]
    n_groups = expected_groups(n_picks)
    prompt = Prompt(
        system=_instructions(texts, spoken, profile, n_picks, n_groups),
        user=_data(candidates, liked[:MAX_LIKES], locale),
        schema_name="recommendation",
        schema=ANSWER_SCHEMA,
        max_output_tokens=_max_output_tokens(spoken, n_picks),
    )
    return prompt, dict(enumerate(candidates, start=1))


def shuffled(candidates: Sequence[Candidate], seed: str | None) -> Sequence[Candidate]:
    """``candidates`` in an order that follows from ``seed`` alone, as they are where there is none.

    Language models favour places in a list (Hou et al., "Large Language Models are Zero-Shot Rankers for Recommender
    Systems", 2024); over many jobs a shuffle favours nobody, and the first stage's order is fused in afterwards.
    """
    if seed is None:
        return candidates
    order = list(candidates)
    Random(seed).shuffle(order)
    return order


def expected_groups(n_picks: int) -> int:
    """How many groups read well for so many picks: 2 to 6."""
    return max(MIN_GROUPS, min(MAX_GROUPS, n_picks // _ITEMS_PER_GROUP))


def _instructions(
    texts: PromptTexts, spoken: LocaleTexts, profile: CatalogueProfile, n_picks: int, n_groups: int
) -> str:
    words = profile.words_in("en")
    return Template(texts.instructions).substitute(
        item=words.item,
        items=words.items,
        creator=words.creator,
        language=spoken.language,
        label_words=spoken.label_words,
        tagline_words=spoken.tagline_words,
        reason_words=spoken.reason_words,
        taste_words=spoken.taste_words,
        n_picks=n_picks,
        n_groups=n_groups,
    )


def _data(candidates: Sequence[Candidate], liked: Sequence[Item], locale: str) -> str:
    """Both blocks, in as much detail as their tokens allow."""
    budget = _TOKENS_PER_CANDIDATE * len(candidates) + _TOKENS_PER_LIKE * len(liked)
    keys = {item.item_id: _key(place) for place, item in enumerate(liked)}
    likes = [_Row.of(item, locale, keys[item.item_id]) for item in liked]
    rows = [_Row.of(shown.item, locale, str(handle), _near(shown, keys)) for handle, shown in enumerate(candidates, 1)]

    def lines(detail: _Detail) -> tuple[list[str], list[str]]:
        return [row.candidate(detail) for row in rows], [row.like(detail) for row in likes]

    def fits(detail: _Detail) -> bool:
        shown, liked_lines = lines(detail)
        return rough_tokens([*shown, *liked_lines]) <= budget

    place = min(bisect_left(_DETAILS, True, key=fits), len(_DETAILS) - 1)
    shown, liked_lines = lines(_DETAILS[place])
    return "\n".join(["<candidates>", *shown, "</candidates>", "<likes>", *liked_lines, "</likes>"])


def _key(place: int) -> str:
    """``A`` to ``Z``, then ``AA``, ``AB``, ...: a key can not be taken for a handle."""
    first, last = divmod(place, 26)
    return (chr(64 + first) if first else "") + chr(65 + last)


def _near(shown: Candidate, keys: Mapping[int, str]) -> str:
    return next((keys[liked.item_id] for liked in shown.evidence.near if liked.item_id in keys), "-")


@dataclass(frozen=True, slots=True)
class _Row:
    """The cells of a line, cleaned but for their length."""

    key: str
    title: str
    creator: str
    genres: tuple[str, ...]
    moods: tuple[str, ...]
    near: str

    @classmethod
    def of(cls, item: Item, locale: str, key: str, near: str = "-") -> "_Row":
        return cls(
            key,
            _cell(item.title(locale)),
            _cell(item.creator_in(locale)),
            tuple(map(_cell, item.genres[:2])),
            tuple(map(_cell, item.moods[:1])),
            near,
        )

    def candidate(self, detail: _Detail) -> str:
        traits = ", ".join([*self.genres[: detail.n_genres], *self.moods[: detail.n_moods]])
        return f"{self._named(detail)} | {clipped(traits, detail.title)} | {self.near}"

    def like(self, detail: _Detail) -> str:
        genres = [f" | {clipped(genre, detail.title)}" for genre in self.genres[: detail.n_like_genres]]
        return f"{self._named(detail)}{''.join(genres)}"

    def _named(self, detail: _Detail) -> str:
        return f"{self.key} {clipped(self.title, detail.title)} | {clipped(self.creator, detail.creator)}"


def _cell(text: str) -> str:
    return plain_line(text.replace("|", "/").replace("<", "(").replace(">", ")"), _DETAILS[0].title)


def rough_tokens(lines: Sequence[str]) -> float:
    """An estimate of the o200k_base tokens of data lines without its table.

    The weights are a least-squares fit over real English titles and typical Korean and Japanese ones (within 4 %),
    raised by that; tests hold them against the real count.
    """
    counts = Counter("".join(lines))
    weights = (count * _rough_weight(char) for char, count in counts.items())
    return 1.04 * (2.67 * len(lines) + sum(weights))


@lru_cache(maxsize=4096)
def _rough_weight(char: str) -> float:
    return next(weight for last, weight in _WEIGHTS_UP_TO if char <= last)


def _max_output_tokens(spoken: LocaleTexts, n_picks: int) -> int:
    """A ceiling well above the longest answer that keeps to the instructions, so that none of those is truncated."""
    tokens = spoken.tokens
    return math.ceil(_CEILING_BASE + tokens.taste + MAX_GROUPS * tokens.per_group + n_picks * tokens.per_pick)
