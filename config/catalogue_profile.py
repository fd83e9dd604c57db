"""A catalogue profile: the declarative mapping of one domain's tables and columns, and its words.

A new domain is one TOML file in ``config/profiles`` and no Python. The services check it against the database at
start; results, prompts and embeddings follow it.
"""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config.wish_table import WishTable

PROFILES = Path(__file__).parent / "profiles"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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
    feature_weights: dict[str, float] = Field({}, description="what a number counts in embeddings where that is not 1")


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


class Words(_Section):
    """The domain's nouns per locale, for prompts and explanations."""

    item: str
    items: str
    creator: str


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
    words: dict[str, Words] = Field(min_length=1)
    versions: VersionWords = VersionWords()
    # Left out of dumps: what nobody wished for does not change an answer, so it has a version of its own.
    wishes: WishTable = Field(WishTable(), exclude=True)
    kinds: tuple[tuple[str, ...], ...] = Field((), description="genres that a sentence may name, each in all its names")
    group_fields: tuple[str, ...] = Field(description="fields of an item in a group of the result")
    candidate_fields: tuple[str, ...] = Field(description="fields of an item among the candidates of the result")
    id_field: str = Field(description="name of the item's id in results")

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
