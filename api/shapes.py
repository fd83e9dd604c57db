"""What requests and answers look like: JSON in camelCase, with an example of each in the OpenAPI document."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from core.browsing import FoundItem, FoundPage
from models.catalogue import Item

MIN_SEEDS, MAX_SEEDS = 3, 10
IN_ORDER = "the order keeps variety, and a score is the item's own match: scores need not fall from item to item"

_DIGITS = re.compile(r"[0-9]{1,19}")
_INT64 = 2**63

EXAMPLE_ITEM: JsonDict = {
    "itemId": 4711,
    "titles": {"ko": "비틀비틀 짝짜꿍", "en": "Wobble Clap"},
    "creator": "YENA",
    "creatorLocal": "최예나",
    "genres": ["pop", "dance"],
    "moods": ["bright"],
    "language": "ko",
    "popularity": 0.62,
    "features": {"danceability": 0.81, "energy": 0.74, "valence": 0.68},
}


def digits_as_integer(value: object) -> object:
    """A string of digits as the integer that it says; raises ``ValueError`` for any other string."""
    if isinstance(value, str):
        if not _DIGITS.fullmatch(value):
            raise ValueError("must be an integer or a string of digits")
        return int(value)
    return value


Int64 = Annotated[int, Field(strict=True, ge=-_INT64, le=_INT64 - 1)]
MemberId = Annotated[Int64, BeforeValidator(digits_as_integer)]
IdInPath = Annotated[int, Path(ge=-_INT64, le=_INT64 - 1)]


class WireModel(BaseModel):
    """A body or a part of one, as it is on the wire, with an example for the OpenAPI document."""


class Shape(WireModel):
    """A part of an answer of ours, in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Body(Shape):
    """The body of a request, or a part of it: a field that it does not have is a slip, and refused by its name."""

    model_config = ConfigDict(extra="forbid")


class ItemShape(Shape):
    """An item of the catalogue; ``features`` are what was measured of it, ``popularity`` runs from 0 to 1."""

    item_id: int
    titles: Mapping[str, str]
    creator: str | None = None
    creator_local: str | None = None
    genres: Sequence[str] = ()
    moods: Sequence[str] = ()
    language: str | None = None
    popularity: float = 0.0
    features: Mapping[str, float] = {}

    model_config = ConfigDict(json_schema_extra={"example": EXAMPLE_ITEM})

    @classmethod
    def of(cls, item: Item) -> "ItemShape":
        """``item`` as answers show it."""
        return cls(
            item_id=item.item_id,
            titles=dict(item.titles),
            creator=item.creator,
            creator_local=item.creator_local,
            genres=item.genres,
            moods=item.moods,
            language=item.language,
            popularity=round(item.popularity, 4),
            features=dict(item.features),
        )


class FoundShape(Shape):
    """An item and how well it matches: of a search 0 to 104, of items like another the cosine, -1 to 1."""

    item: ItemShape
    score: float

    @classmethod
    def of(cls, found: FoundItem) -> "FoundShape":
        """``found`` as answers show it."""
        return cls(item=ItemShape.of(found.item), score=round(found.score, 4))


class FoundPageShape(Shape):
    """Some of what was found, best first; ``nextOffset`` is where the next page begins, null after the last one."""

    items: Sequence[FoundShape]
    next_offset: int | None = Field(None, examples=[20])

    model_config = ConfigDict(
        json_schema_extra={"example": {"items": [{"item": EXAMPLE_ITEM, "score": 96.5}], "nextOffset": 20}}
    )

    @classmethod
    def of(cls, page: FoundPage) -> "FoundPageShape":
        """``page`` as answers show it."""
        return cls(items=[FoundShape.of(found) for found in page.items], next_offset=page.next_offset)


def next_offset(limit: int, offset: int, n_known: int) -> int | None:
    """Where the next page begins, or None after the last one; ``n_known`` are all, or those of this page and more."""
    end = offset + limit
    return end if n_known > end else None
