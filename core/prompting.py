"""The question to the language model: static instructions first, this listener's data last.

Providers cache the longest common prefix of prompts, so nothing of a listener stands before what all of one locale
share. Catalogue texts are data: stripped of control characters and of our delimiters, cut, and fenced.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from itertools import accumulate
from random import Random
from string import Template
from typing import TypeVar

from config.catalogue_profile import CatalogueProfile, Words
from config.llm_strategies import DEFAULT_STRATEGIES, StrategyLimits
from config.prompt_texts import LocaleTexts, PromptTexts
from core.explanation import MAX_GROUPS, MIN_GROUPS
from core.handles import Handles
from core.plain_text import clipped, plain_line
from core.ports.language_model import Prompt
from core.token_estimate import rough_tokens
from models.catalogue import Item
from models.recommendation import Candidate

T = TypeVar("T")

_ITEMS_PER_GROUP = 5
_CEILING_BASE = 64
_TOKENS_PER_HANDLE = 4
# What frames two messages and the response format, and what the delimiters of the blocks take.
_FRAME_TOKENS = 30
_LEAST_CHARS_PER_TOKEN = 3.5  # of a schema
_LEAST_CHARS_PER_WORD_TOKEN = 4  # of instructions, which are English


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
    _Detail(40, 20, 0, 0, 0),
    _Detail(16, 8, 0, 0, 0),
    _Detail(12, 6, 0, 0, 0),
    _Detail(9, 5, 0, 0, 0),
)


def _strict_object(**properties: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}
_HANDLE = {"type": "integer"}
_PICK = _strict_object(h=_HANDLE, r=_TEXT)
_GROUP = _strict_object(label=_TEXT, tagline=_TEXT, picks={"type": "array", "items": _PICK})
# The taste comes first so that a truncated answer still has it.
ANSWER_SCHEMA: Mapping[str, object] = _strict_object(taste=_TEXT, groups={"type": "array", "items": _GROUP})
SCREENING_SCHEMA: Mapping[str, object] = _strict_object(picks={"type": "array", "items": _HANDLE})


class Wanted(StrEnum):
    """What is asked of the model, by the name of its schema: picks in groups with reasons, or their handles alone."""

    REASONS = "recommendation"
    HANDLES = "choice"


def build_prompt(
    candidates: Sequence[Candidate],
    liked: Sequence[Item],
    *,
    locale: str,
    profile: CatalogueProfile,
    texts: PromptTexts,
    n_picks: int,
    wanted: Wanted = Wanted.REASONS,
    limits: StrategyLimits = DEFAULT_STRATEGIES.default,
    seed: str | None = None,
) -> tuple[Prompt, Handles]:
    """The prompt that asks for ``n_picks`` of ``candidates`` (given best first), and the handles of its answer, from 1.

    ``locale`` is one of ``texts.locales``. Within ``limits`` lines are shortened first, then the last candidates left
    out. ``seed``: see ``shuffled``.
    """
    spoken, words = texts.locales[locale], profile.words_in("en")
    has_reasons = wanted is Wanted.REASONS
    template, schema = (texts.instructions, ANSWER_SCHEMA) if has_reasons else (texts.screening, SCREENING_SCHEMA)
    system = _instructions(template, words, spoken, n_picks)
    room = _room(system, schema, limits)
    user, shown = _Data(candidates, liked, locale, limits, has_creators=bool(words.creator)).within(room, seed)
    if len(shown) < n_picks:
        n_picks = len(shown)
        system = _instructions(template, words, spoken, n_picks)
    prompt = Prompt(
        system=system,
        user=user,
        schema_name=wanted.value,
        schema=schema,
        max_output_tokens=_max_output_tokens(spoken, n_picks) if has_reasons else _max_handle_tokens(limits, n_picks),
    )
    return prompt, dict(enumerate(shown, start=1))


def affordable_picks(n_picks: int, spoken: LocaleTexts, limits: StrategyLimits) -> int:
    """As many of ``n_picks`` as ``limits`` let a model explain without being cut short, but at least one."""
    most = min(n_picks, limits.n_explained)
    return next((n for n in range(most, 1, -1) if _max_output_tokens(spoken, n) <= limits.max_completion_tokens), 1)


def shuffled(candidates: Sequence[T], seed: str | None) -> Sequence[T]:
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


def _instructions(template: str, words: Words, spoken: LocaleTexts, n_picks: int) -> str:
    return Template(template).substitute(
        item=words.item,
        items=words.items,
        creator_cell=f" | {words.creator}" if words.creator else "",
        creators=f"{words.creator}s, " if words.creator else "",
        language=spoken.language,
        label_words=spoken.label_words,
        tagline_words=spoken.tagline_words,
        reason_words=spoken.reason_words,
        taste_words=spoken.taste_words,
        n_picks=n_picks,
        n_groups=expected_groups(n_picks),
    )


def _room(system: str, schema: Mapping[str, object], limits: StrategyLimits) -> float:
    """Tokens that are left for the data."""
    format_tokens = len(json.dumps(schema, separators=(",", ":"))) / _LEAST_CHARS_PER_TOKEN
    return limits.max_prompt_tokens - _FRAME_TOKENS - format_tokens - len(system) / _LEAST_CHARS_PER_WORD_TOKEN


class _Data:
    """Both blocks, in as much detail and with as many candidates as their tokens allow."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        liked: Sequence[Item],
        locale: str,
        limits: StrategyLimits,
        *,
        has_creators: bool,
    ) -> None:
        liked = liked[: limits.n_likes]
        keys = {item.item_id: _key(place) for place, item in enumerate(liked)}
        self._candidates = candidates[: limits.n_candidates]
        row = partial(_Row.of, locale=locale, has_creators=has_creators)
        self._rows = [row(each.item, near=_near(each, keys)) for each in self._candidates]
        self._likes = [(keys[item.item_id], row(item)) for item in liked]

    def within(self, max_tokens: float, seed: str | None) -> tuple[str, Sequence[Candidate]]:
        """The text, and the candidates in the order in which it shows them.

        Where the shortest lines are too long, likes leave half of the room to candidates, and the last ones go.
        """
        # One after the other: most often all there is has room, and each look costs a millisecond.
        for detail in _DETAILS:
            shown, liked = self._lines(detail)
            if rough_tokens(_numbered(shown)) + rough_tokens(liked) <= max_tokens:
                break
        else:
            liked = _first_within(liked, max_tokens / 2)
            shown = shown[: len(_first_within(_numbered(shown), max_tokens - rough_tokens(liked)))]
        places = shuffled(range(len(shown)), seed)
        lines = _numbered([shown[place] for place in places])
        lines = ["<candidates>", *lines, "</candidates>", "<likes>", *liked, "</likes>"]
        return "\n".join(lines), [self._candidates[place] for place in places]

    def _lines(self, detail: _Detail) -> tuple[list[str], list[str]]:
        """Candidates, before they are shuffled and numbered, and likes."""
        return [row.shown(detail) for row in self._rows], [row.liked(key, detail) for key, row in self._likes]


def _numbered(lines: Sequence[str]) -> list[str]:
    return [f"{handle} {line}" for handle, line in enumerate(lines, 1)]


def _first_within(lines: Sequence[str], max_tokens: float) -> list[str]:
    tokens = accumulate(rough_tokens([line]) for line in lines)
    return [line for line, so_far in zip(lines, tokens, strict=True) if so_far <= max_tokens]


def _key(place: int) -> str:
    """``A`` to ``Z``, then ``AA``, ``AB``, ...: a key can not be taken for a handle."""
    first, last = divmod(place, 26)
    return (chr(64 + first) if first else "") + chr(65 + last)


def _near(shown: Candidate, keys: Mapping[int, str]) -> str:
    return next((keys[liked.item_id] for liked in shown.evidence.near if liked.item_id in keys), "-")


@dataclass(frozen=True, slots=True)
class _Row:
    """The cells of a line, cleaned but for their length; ``creator`` is None in a domain that knows none."""

    title: str
    creator: str | None
    genres: tuple[str, ...]
    moods: tuple[str, ...]
    near: str

    @classmethod
    def of(cls, item: Item, *, locale: str, has_creators: bool, near: str = "-") -> "_Row":
        return cls(
            _cell(item.title(locale)),
            _cell(item.creator_in(locale)) if has_creators else None,
            tuple(map(_cell, item.genres[:2])),
            tuple(map(_cell, item.moods[:1])),
            near,
        )

    def shown(self, detail: _Detail) -> str:
        traits = ", ".join([*self.genres[: detail.n_genres], *self.moods[: detail.n_moods]])
        return f"{self._named(detail)} | {clipped(traits, detail.title)} | {self.near}"

    def liked(self, key: str, detail: _Detail) -> str:
        genres = [f" | {clipped(genre, detail.title)}" for genre in self.genres[: detail.n_like_genres]]
        return f"{key} {self._named(detail)}{''.join(genres)}"

    def _named(self, detail: _Detail) -> str:
        creator = "" if self.creator is None else f" | {clipped(self.creator, detail.creator)}"
        return f"{clipped(self.title, detail.title)}{creator}"


@lru_cache(maxsize=16_384)
def _cell(text: str) -> str:
    return plain_line(text.replace("|", "/").replace("<", "(").replace(">", ")"), _DETAILS[0].title)


def _max_handle_tokens(limits: StrategyLimits, n_picks: int) -> int:
    return min(_CEILING_BASE + _TOKENS_PER_HANDLE * n_picks, limits.max_completion_tokens)


def _max_output_tokens(spoken: LocaleTexts, n_picks: int) -> int:
    """A ceiling well above the longest answer that keeps to the instructions, so that none of those is truncated."""
    tokens = spoken.tokens
    return math.ceil(_CEILING_BASE + tokens.taste + MAX_GROUPS * tokens.per_group + n_picks * tokens.per_pick)
