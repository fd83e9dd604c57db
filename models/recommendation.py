"""What comes out: candidates with their evidence, and the finished recommendation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from models.catalogue import Item


class RecommendationType(StrEnum):
    """Why an item is in the list, as the backend shows it."""

    SIMILAR = "similar"
    COLLABORATIVE = "collaborative"
    ARTIST = "artist"
    GENRE = "genre"
    HIDDEN_GEM = "hidden_gem"
    CROSSOVER = "crossover"
    POPULAR = "popular"


class CandidateSource(StrEnum):
    """What found a candidate; several may find the same one."""

    CONTENT = "content"
    COLLABORATIVE = "collaborative"
    POPULARITY = "popularity"
    SAME_CREATOR = "same_creator"
    WISH = "wish"


class Discovery(StrEnum):
    """How a candidate would widen the listener's taste."""

    HIDDEN_GEM = "hidden_gem"
    CROSSOVER = "crossover"
    NEW_CREATOR = "new_creator"


@dataclass(frozen=True, slots=True)
class WishedFor:
    """One thing that the listener wished for: a key such as ``mood:bright``, and its names by locale."""

    key: str
    labels: Mapping[str, str]

    def label(self, locale: str) -> str:
        """Its name in ``locale``, else in English, else in any language."""
        return self.labels.get(locale) or self.labels.get("en") or next(iter(self.labels.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The facts that speak for a candidate; every reason shown to a person must follow from them.

    ``similarity`` is the cosine to the nearest interest (-1 to 1); ``near`` the liked items it is close to, nearest
    first, and ``near_similarity`` the cosine to each of these; ``shared_genres``, ``shared_moods`` and ``same_creator``
    what it has in common with the likes. ``sources`` names what found it; ``collaborative`` is its score by the model
    of all listeners, None where that does not know it. ``discovery`` says how it would widen the taste, None where it
    would not. ``wish``: what it has of the wish of this job, by its tags or its measured features.
    """

    similarity: float
    near: tuple[Item, ...] = ()
    near_similarity: tuple[float, ...] = ()
    shared_genres: tuple[str, ...] = ()
    shared_moods: tuple[str, ...] = ()
    same_creator: bool = False
    popularity: float = 0.0
    sources: tuple[str, ...] = ()
    collaborative: float | None = None
    discovery: Discovery | None = None
    wish: tuple[WishedFor, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An eligible item with its first-stage score (higher is better; comparable within one list only)."""

    item: Item
    score: float
    kind: RecommendationType
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A candidate chosen for a group, with the sentence shown beside it."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A shelf of picks under a label and a tagline in the job's locale."""

    label: str
    tagline: str
    picks: tuple[Pick, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TasteSummary:
    """The preference document: what the member likes, in words."""

    preferred_genres: tuple[str, ...] = ()
    preferred_moods: tuple[str, ...] = ()
    overall_taste: str = ""
    favorite_creators: tuple[str, ...] = ()


def sum_usd(first: float | None, second: float | None) -> float | None:
    """Both costs together; None where one of them is not known."""
    return None if first is None or second is None else first + second


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """What the LLM calls of one job used; ``cost_usd`` is None where the price of one of them is not known."""

    n_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float | None = 0.0

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            n_calls=self.n_calls + other.n_calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cost_usd=sum_usd(self.cost_usd, other.cost_usd),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranked:
    """The second stage's outcome: groups in display order and the taste in words.

    ``reasons`` maps item ids to sentences for candidates outside the groups too. ``degraded`` names why the LLM's
    judgement is missing (``timeout``, ``refused``, ...), or is None where nothing is missing. ``dropped`` counts what
    the model's answer held that could not be used, by cause.
    """

    groups: tuple[Group, ...]
    taste: TasteSummary
    model: str
    usage: TokenUsage = field(default_factory=TokenUsage)
    degraded: str | None = None
    reasons: Mapping[int, str] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
