"""What can be recommended: an item of a catalogue, whatever the domain calls it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item as the catalogue holds it.

    ``columns`` are the source columns that the catalogue profile passes through to results, by column name;
    ``titles`` maps a locale to the item's title in it (only titles that exist); ``features`` are numeric attributes
    (audio features of a song) by name; ``popularity`` runs from 0 to 1.
    """

    item_id: int
    titles: Mapping[str, str]
    creator: str | None = None
    creator_local: str | None = None
    genres: tuple[str, ...] = ()
    moods: tuple[str, ...] = ()
    language: str | None = None
    features: Mapping[str, float] = field(default_factory=dict)
    popularity: float = 0.0
    columns: Mapping[str, Scalar] = field(default_factory=dict)

    def title(self, locale: str) -> str:
        """The title in ``locale``, else in any language there is, else the id: never empty."""
        return self.titles.get(locale) or next(iter(self.titles.values()), str(self.item_id))

    def creator_in(self, locale: str) -> str:
        """The creator's name as readers of ``locale`` write it, or an empty string."""
        local = self.creator_local if locale == "ko" else None
        return local or self.creator or ""


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """The little of an item that the first stage ranks by; ``popularity`` runs from 0 to 1."""

    item_id: int
    creator: str | None = None
    genres: tuple[str, ...] = ()
    moods: tuple[str, ...] = ()
    popularity: float = 0.0


@dataclass(frozen=True, slots=True)
class Interest:
    """What a member has shown to think of an item: how strongly, and when (seconds since the epoch, or None)."""

    item_id: int
    weight: float = 1.0
    occurred_at_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """What is known of a member: interests (likes, then playlist items), and the item ids to leave out.

    ``seen_ids`` holds all that the member already has (likes and playlists); ``disliked_ids`` what they refused.
    ``reactions``: what else they did, an item once; weights below 0 speak against it, as for all that is disliked.
    """

    member_id: int
    interests: tuple[Interest, ...] = ()
    seen_ids: frozenset[int] = frozenset()
    disliked_ids: frozenset[int] = frozenset()
    reactions: tuple[Interest, ...] = ()
