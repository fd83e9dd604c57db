"""A catalogue profile: the declarative mapping of one domain's tables, columns and files, and its words.

A new domain is one TOML file and no Python. The services check it against the database at start; results, prompts,
embeddings and imports follow it. ``docs/catalogue-profiles.md`` explains every field.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from config.prompt_texts import ClaimWords, LocaleTexts, phrase_problem
from config.signal_strengths import SignalStrengths
from config.source_files import ItemFile, LikeFile, SourceMapping
from config.wish_table import WishTable

ColumnType = Literal["text", "long text", "integer", "number", "flag"]

PROFILES = Path(__file__).parent / "profiles"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureScale(_Section):
    """How a number is spread: normally about ``centre``; its logarithm is, where ``log_offset`` is added before."""

    centre: float
    spread: float = Field(gt=0)
    log_offset: float | None = None


class ItemTable(_Section):
    """The table of items. Columns may be NULL; ``active`` and ``modified_at`` are used where the table has them."""

    table: str
    id: str
    titles: dict[str, str] = Field(min_length=1, description="locale to column; the first is the last resort")
    creator: str | None = None
    creator_local: str | None = None
    genre: str | None = None
    mood: str | None = None
    language: str | None = None
    active: str | None = None
    modified_at: str | None = None
    passthrough: tuple[str, ...] = Field((), description="further columns that results carry as they stand")
    text: tuple[str, ...] = Field((), description="further text columns that the embedder reads")
    spellings: tuple[str, ...] = Field(
        (), exclude=True, description="columns of ``text`` or ``passthrough`` that search reads as further titles"
    )
    feature_weights: dict[str, float] = Field({}, description="what a number counts in embeddings where that is not 1")
    feature_scales: dict[str, FeatureScale] = Field(
        {}, exclude=True, description="how numbers are spread, where a catalogue is too small to tell"
    )
    frequent_words: tuple[str, ...] = Field(
        (), exclude=True, description="words of titles that tell nothing, there too"
    )
    types: dict[str, ColumnType] = Field(
        {}, exclude=True, description="of columns that are no short text, for tables that ingest makes"
    )

    @model_validator(mode="after")
    def _spellings_are_read(self) -> Self:
        if unread := sorted(set(self.spellings) - {*self.text, *self.passthrough}):
            raise ValueError(f"item.spellings: {', '.join(unread)} must be in item.text or item.passthrough too")
        return self


class InteractionTable(_Section):
    """A table that says which member has which item."""

    table: str
    member: str
    item: str
    created_at: str | None = None
    weight: float = 1.0


class JoinedInteractionTable(_Section):
    """Such a table at one remove: ``parent`` names the owner of the list that ``table`` holds items of."""

    table: str
    parent: str
    key: str
    member: str
    item: str
    weight: float = 0.5


class MemberTable(_Section):
    """The table of members, where made-up ones are told from real ones by the address in ``email``."""

    table: str
    id: str
    email: str


class Words(_Section):
    """The domain's nouns per locale, for prompts and explanations; ``creator`` is empty where items have none."""

    item: str
    items: str
    creator: str = ""


class ResultNames(_Section):
    """What results call things that every domain has."""

    items: str = Field("items", description="the list of items in each group")
    favorites: str = Field("favorite_item_ids", description="the ids of the likes that a result was made from")
    creators: str = Field("favorite_creators", description="creators of several likes, in the preference")
    creator: str = Field("creator", description="the recommendation type, and criterion, of a liked creator's items")


class Fitting(_Section):
    """How little `fit` learns from: below that there is no collaborative model."""

    min_items: int = Field(5, ge=2, description="likes of a member who counts as a listener")
    min_listeners: int = Field(100, ge=10)
    min_interactions: int = Field(1000, ge=20)


class VersionWords(_Section):
    """The words that tell versions of one item apart, in any language; what they mark is cut from titles to compare."""

    marks: tuple[str, ...] = Field((), description="mark a bracket, or what follows a dash, that holds one as a word")
    endings: tuple[str, ...] = Field((), description="mark it where they end a word, for languages of compounds")
    openings: tuple[str, ...] = Field((), description="mark it where they open it")
    tails: tuple[str, ...] = Field((), description="mark all that follows, without a bracket or dash too")


class CatalogueProfile(_Section):
    """One domain."""

    name: str
    item: ItemTable
    likes: InteractionTable
    lists: JoinedInteractionTable | None = None
    members: MemberTable | None = Field(None, exclude=True)
    words: dict[str, Words] = Field(min_length=1)
    phrases: dict[str, dict[str, str]] = Field(
        {}, description="by locale, those of config/prompts that are put otherwise"
    )
    versions: VersionWords = VersionWords()
    # Left out of dumps: what nobody wished for does not change an answer, so it has a version of its own.
    wishes: WishTable = Field(WishTable(), exclude=True)
    kinds: tuple[tuple[str, ...], ...] = Field((), description="genres that a sentence may name, each in all its names")
    group_fields: tuple[str, ...] = Field(description="fields of an item in a group of the result")
    candidate_fields: tuple[str, ...] = Field(description="fields of an item among the candidates of the result")
    id_field: str = Field(description="name of the item's id in results")
    claims: dict[str, ClaimWords] = Field({}, description="by locale, beside those of config/prompts")
    result: ResultNames = ResultNames()
    signals: SignalStrengths = SignalStrengths()
    fitting: Fitting = Field(Fitting(), exclude=True)
    item_files: tuple[ItemFile, ...] = Field((), exclude=True)
    like_files: tuple[LikeFile, ...] = Field((), exclude=True)
    track_files: bool = Field(False, exclude=True, description="ingest takes Spotify's two layouts of tracks too")

    @model_validator(mode="after")
    def _files_fill_the_tables(self) -> Self:
        if problem := next(self._problems(), None):
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        """What of one part does not go with another."""
        for locale, words in self.words.items():
            if bool(words.creator) != bool(self.item.creator):
                yield f"words.{locale}: creator is to be named just where there is item.creator"
        for locale, phrases in self.phrases.items():
            found = (phrase_problem(name, template) for name, template in phrases.items())
            yield from (f"phrases.{locale}.{problem}" for problem in found if problem)
        for file in self.item_files:
            yield from self._item_problems(file)
        for likes in self.like_files:
            yield from self._like_problems(likes)

    def _item_problems(self, file: ItemFile) -> Iterator[str]:
        for locale in sorted(file.titles.keys() - self.item.titles.keys()):
            yield f"item_files {file.source}: titles has {locale!r}, which item.titles has not"
        for name in ("creator", "creator_local", "genre", "mood", "language"):
            if getattr(file, name) and not getattr(self.item, name):
                yield f"item_files {file.source}: {name} has no column item.{name}"

    def _like_problems(self, file: LikeFile) -> Iterator[str]:
        if file.source not in {items.source for items in self.item_files}:
            yield f"like_files: there are no item_files of source {file.source!r}"
        yield from self._instant_problems(file)

    def _instant_problems(self, file: LikeFile) -> Iterator[str]:
        if file.liked_at and not self.likes.created_at:
            yield f"like_files {file.source}: liked_at has no column likes.created_at"

    def with_mapping(self, mapping: SourceMapping) -> "CatalogueProfile":
        """The same with more files; likes may be of items that another source brought. Raises ``ValueError``."""
        found = [problem for file in mapping.item_files for problem in self._item_problems(file)]
        found += [problem for file in mapping.like_files for problem in self._instant_problems(file)]
        if found:
            raise ValueError(found[0])
        return self.model_copy(update={"item_files": (*mapping.item_files, *self.item_files)})

    def claims_in(self, locale: str, spoken: LocaleTexts) -> ClaimWords:
        """What tells names and kinds from plain words in ``locale``, whose texts are ``spoken``."""
        return spoken.claims.with_more(self.claims.get(locale, ClaimWords()))

    def words_in(self, locale: str) -> Words:
        """The nouns of ``locale``, else English ones, else any."""
        return self.words.get(locale) or self.words.get("en") or next(iter(self.words.values()))


def load_profile(name_or_path: str) -> CatalogueProfile:
    """The profile of that name in ``config/profiles``, or at that path.

    Raises ``ValueError`` naming the file, and the field that is wrong in it.
    """
    path = PROFILES / f"{name_or_path}.toml"
    path = path if path.exists() else Path(name_or_path)
    try:
        return CatalogueProfile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.toml")))
        raise ValueError(f"catalogue_profile: no profile {name_or_path!r}; known are {known}") from error
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ValueError(f"catalogue_profile: {path}: {error}") from error
