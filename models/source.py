"""What a file or a generator brings into a catalogue of ours, before it has ids there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from models.catalogue import Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceItem:
    """One item under the id that its source knows it by.

    ``titles`` maps a locale (``ko``, ``en``, ``ja``) to the title in it; ``popularity`` runs from 0 to 1. ``item_id``
    is that of the catalogue too, None where it numbers its items itself; ``columns`` are further ones of its table.
    """

    source_id: str
    titles: Mapping[str, str]
    item_id: int | None = None
    creator: str | None = None
    creator_local: str | None = None
    genres: tuple[str, ...] = ()
    mood: str | None = None
    language: str | None = None
    features: Mapping[str, float] = field(default_factory=dict)
    popularity: float | None = None
    columns: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLike:
    """That a member likes an item, known by the id of its source; ``liked_at`` is naive, in UTC."""

    member_id: int
    source_id: str
    liked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceListener:
    """A member whom we made up: items that they like, oldest first, and items of their one playlist, in order."""

    member_id: int
    liked_ids: tuple[int, ...] = ()
    playlist_ids: tuple[int, ...] = ()
