"""The words that are sent to the language model, and those of explanations made without it: data in ``config/prompts``.

``rerank.md`` and ``screen.md`` hold the instructions; one TOML file per locale holds what differs by language. A new
wording is a new ``PromptTexts.version`` and so a new answer for everyone.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from pydantic import BaseModel, ConfigDict, ValidationError, field_serializer

from config.wish_texts import WishTexts, load_wish_texts

PROMPTS = Path(__file__).parent / "prompts"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenCeilings(_Section):
    """Tokens (o200k_base) that the longest sensible part of an answer takes in this language."""

    per_pick: int
    per_group: int
    taste: int


class Phrases(_Section):
    """Templates for ``str.format``; the facts that fill them are those of the evidence."""

    work: str
    work_alone: str

    reason_creator: str
    reason_creator_near: str
    reason_near_genre: str
    reason_near_mood: str
    reason_near: str
    reason_genre_mood: str
    reason_genre: str
    reason_mood: str
    reason_gem: str
    reason_crossover: str
    reason_new_creator: str
    reason_collaborative: str
    reason_popular_genre: str
    reason_popular: str
    reason_plain: str

    label_creator: str
    tagline_creator: str
    label_gem: str
    tagline_gem: str
    label_crossover: str
    tagline_crossover: str
    label_new_creator: str
    tagline_new_creator: str
    label_collaborative: str
    tagline_collaborative: str
    label_genre: str
    tagline_genre: str
    label_popular: str
    tagline_popular: str
    label_best: str
    tagline_best: str
    label_more: str
    tagline_more: str

    taste_genres_creators: str
    taste_genres: str
    taste_creators: str
    taste_mixed: str
    taste_unknown: str


_NOUNS = frozenset({"item", "items", "creator_word"})
_PLACEHOLDERS: Mapping[str, frozenset[str]] = {
    "work": frozenset({"title", "creator"}),
    "reason": _NOUNS | {"creator", "title", "work", "genre", "mood"},
    "label": _NOUNS | {"genre"},
    "tagline": _NOUNS | {"genre"},
    "taste": _NOUNS | {"genres", "creators"},
}


def phrase_problem(name: str, template: str) -> str | None:
    """What is wrong with ``template`` in the place of the phrase ``name``, if anything is."""
    if name not in Phrases.model_fields:
        return f"there is no phrase {name!r}"
    allowed = _PLACEHOLDERS[name.partition("_")[0]]
    try:
        used = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        return f"{name}: {error}"
    unknown = sorted(used - allowed)
    return f"{name}: {{{unknown[0]}}} is none of {', '.join(sorted(allowed))}" if unknown else None


class ClaimWords(_Section):
    """What tells names and kinds from plain words of the language; spaces count, all is in lower case.

    ``names_after`` and ``names_before`` stand right before and after a name, and make one of a word that may be plain.
    ``plain`` words are no names though capitalised. A mood before one of ``scenes`` is that of the moment, not of the
    item; a kind among ``plain_kinds`` is one only before ``kind_nouns``. Moods among ``plain_moods`` are said of
    too much to be claims. ``boasts`` are prizes and charts, of which the data tells nothing. Those of one domain stand
    in its catalogue profile.
    """

    names_after: tuple[str, ...] = ()
    names_before: tuple[str, ...] = ()
    plain: frozenset[str] = frozenset()
    scenes: tuple[str, ...] = ()
    plain_kinds: frozenset[str] = frozenset()
    kind_nouns: tuple[str, ...] = ()
    plain_moods: frozenset[str] = frozenset()
    boasts: tuple[str, ...] = ()

    def with_more(self, further: "ClaimWords") -> "ClaimWords":
        """These and ``further`` ones."""
        return ClaimWords(
            names_after=self.names_after + further.names_after,
            names_before=self.names_before + further.names_before,
            plain=self.plain | further.plain,
            scenes=self.scenes + further.scenes,
            plain_kinds=self.plain_kinds | further.plain_kinds,
            kind_nouns=self.kind_nouns + further.kind_nouns,
            plain_moods=self.plain_moods | further.plain_moods,
            boasts=self.boasts + further.boasts,
        )

    @field_serializer("plain", "plain_kinds", "plain_moods")
    def _sorted(self, words: frozenset[str]) -> list[str]:
        # A dump must be the same in every process: versions of answers are digests of it.
        return sorted(words)


class LocaleTexts(_Section):
    """One language: ``letters`` are the characters, as in a regular expression's set, that its sentences consist of.

    Each has one of ``telling_letters``, which no other language has; empty where any of ``letters`` will do.
    """

    language: str
    letters: str
    telling_letters: str = ""
    label_words: str
    tagline_words: str
    reason_words: str
    taste_words: str
    separator: str
    tokens: TokenCeilings
    phrases: Phrases
    claims: ClaimWords = ClaimWords()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTexts:
    """All texts; ``version`` is a digest of them, but for ``wishes``, which have their own."""

    instructions: str
    screening: str
    locales: Mapping[str, LocaleTexts]
    version: str
    wishes: WishTexts


def load_prompt_texts(directory: Path = PROMPTS) -> PromptTexts:
    """The texts of ``directory``. Raises ``ValueError`` naming the file, and what is wrong in it."""
    files = [directory / "rerank.md", directory / "screen.md", *sorted(directory.glob("*.toml"))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return PromptTexts(
        instructions=files[0].read_text(encoding="utf-8"),
        screening=files[1].read_text(encoding="utf-8"),
        locales={file.stem: _load_locale(file) for file in files[2:]},
        version=digest.hexdigest()[:12],
        wishes=load_wish_texts(),
    )


def _load_locale(file: Path) -> LocaleTexts:
    try:
        return LocaleTexts.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ValueError(f"prompts: {file}: {error}") from error
