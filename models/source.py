"""What a file or a generator brings into a catalogue of ours, before it has ids there."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceItem:
    """One item under the id that its source knows it by.

    ``titles`` maps a locale (``ko``, ``en``, ``ja``) to the title in it; ``popularity`` runs from 0 to 1.
    """

    source_id: str
    titles: Mapping[str, str]
    creator: str | None = None
    genres: tuple[str, ...] = ()
    mood: str | None = None
    language: str | None = None
    features: Mapping[str, float] = field(default_factory=dict)
    popularity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceListener:
    """A member whom we made up: items that they like, oldest first, and items of their one playlist, in order."""

    member_id: int
    liked_ids: tuple[int, ...] = ()
    playlist_ids: tuple[int, ...] = ()
