"""How files of a domain's items, and of what members like, are laid out: parts of its profile."""

import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not low < high:
        raise ValueError(f"the range {low:g} to {high:g} holds nothing")
    return bounds


Range = Annotated[tuple[float, float], AfterValidator(_rising)]


class Popularity(_Section):
    """A number that says how popular an item is; ``range`` is where it runs from and to."""

    column: str
    range: Range


class ItemFile(_Section):
    """Columns of a CSV file of items; other columns are passed over.

    An item that stands in several rows has the genres of all of them, and all else of its first good one. An empty cell
    is unknown; a number beyond its range makes the row a bad one.
    """

    source: str = Field(min_length=1, max_length=64, description="the name that ids of such files are known under")
    id: str
    keeps_ids: bool = Field(False, description="ids are whole numbers, and those of the table too; else it has its own")
    titles: dict[str, str] = Field(min_length=1, description="locale to column")
    creator: str | None = None
    creator_local: str | None = None
    genre: str | None = None
    mood: str | None = None
    language: str | None = None
    separator: str = Field(",", min_length=1, description="what stands between several genres, or moods, in one cell")
    features: dict[str, Range] = Field({}, description="columns of numbers that embeddings read, and their ranges")
    popularity: Popularity | None = None
    columns: dict[str, str] = Field({}, description="further columns of the table, and the file's that fill them")

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that a file must have to be of this layout."""
        singles = (self.id, self.creator, self.creator_local, self.genre, self.mood, self.language)
        popularity = [self.popularity.column] if self.popularity else []
        named = [*singles, *self.titles.values(), *self.features, *popularity, *self.columns.values()]
        return tuple(dict.fromkeys(name for name in named if name))


class LikeFile(_Section):
    """Columns of a CSV file that says who likes, picked or owns what; ``item`` holds ids of ``source``."""

    source: str = Field(min_length=1, max_length=64, description="whose ids the items have: that of a file of items")
    member: str = Field(description="whole numbers")
    item: str
    liked_at: str | None = Field(None, description="instants, as ISO 8601 or as seconds since 1970")

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that a file must have to be of this layout."""
        return tuple(name for name in (self.member, self.item, self.liked_at) if name)

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if len(set(self.needed)) < len(self.needed):
            raise ValueError("one column cannot be two things")
        return self


class SourceMapping(_Section):
    """A mapping file: the same parts outside a profile, for files of one import."""

    item_files: tuple[ItemFile, ...] = ()
    like_files: tuple[LikeFile, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.item_files and not self.like_files:
            raise ValueError("there is neither an [[item_files]] nor a [[like_files]]")
        return self


def load_mapping(path: Path) -> SourceMapping:
    """The mapping file at ``path``; raises ``ValueError`` naming it, and the field that is wrong in it."""
    try:
        return SourceMapping.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ValueError(f"{path}: {error}") from error
