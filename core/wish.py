"""A wish: what a job's context asks for, in terms of the catalogue, and how far an item fulfils it.

Words of the profile's table, in any language, become traits: tags and ranges of features. What is left of the words is
searched for as text. Where a trait is denied ("not sad") it is not sought; the opposite is not either.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from config.wish_table import Trait, WishTable
from core.denials import Denials
from core.ports.arrays import Floats
from core.ports.index import Predicate
from core.wish_words import Lexicon, folded
from models.catalogue import Item, ItemFacts
from models.job import JobContext
from models.recommendation import WishedFor

GENRE, MOOD, ACTIVITY, TIME = "genre", "mood", "activity", "time"

MAX_PARTS = 6
_REQUIRED_FROM = 0.5
_TEXT_ALONE = 0.5
_TEXT_BESIDE = 0.2
_MAX_CATALOGUE_GENRES = 2000
_MAX_GENRE_CHARS = 40


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that is wished for; ``key`` is such as ``mood:bright``, ``tags`` are casefolded."""

    key: str
    trait: Trait
    tags: frozenset[str]

    @property
    def kind(self) -> str:
        """``genre``, ``mood``, ``activity`` or ``time``."""
        return self.key.split(":", 1)[0]

    @property
    def wished_for(self) -> WishedFor:
        """It, as evidence tells of it."""
        return WishedFor(self.key, self.trait.labels)

    @property
    def is_required(self) -> bool:
        """Whether what lacks it does not fulfil the wish; else it only tilts the order."""
        return self.kind != TIME and self.trait.weight >= _REQUIRED_FROM

    def degrees(self, facts: Sequence[ItemFacts], features: Mapping[int, Mapping[str, float]]) -> Floats:
        """How far each item has it, 0 to 1, float32 (n,); NaN where neither tags nor features can tell."""
        return np.array([self._degree(each, features.get(each.item_id, {})) for each in facts], dtype=np.float32)

    def _degree(self, facts: ItemFacts, features: Mapping[str, float]) -> float:
        tags = facts.genres if self.kind == GENRE else facts.moods
        if any(tag.casefold() in self.tags for tag in tags):
            return 1.0
        if self.kind == GENRE:
            return 0.0
        known = [_within(features[name], *bounds) for name, bounds in self.trait.features.items() if name in features]
        # All of its ranges must be known: half a proof is none.
        return sum(known) / len(known) if known and len(known) == len(self.trait.features) else float("nan")


def _within(value: float, low: float, high: float) -> float:
    """1 in the range, falling to 0 at half the range's width beyond it."""
    return max(0.0, 1.0 - max(low - value, value - high, 0.0) / (0.5 * (high - low)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """``parts``: the weightiest first; ``rest``: the words that named none of them; ``text``: all of them.

    ``sought``: the text, folded, without what it denies.
    """

    parts: tuple[Part, ...]
    rest: str
    text: str
    sought: str
    context: JobContext

    @property
    def strength(self) -> float:
        """How much it counts against the taste, 0 to 1."""
        return max([part.trait.weight for part in self.parts] + [_TEXT_ALONE if self.rest else 0.0])

    @property
    def is_stated(self) -> bool:
        """Whether the listener said something, rather than a clock."""
        return bool(self.text)

    @property
    def is_required(self) -> bool:
        """Whether there is anything that an item can be said to fulfil."""
        return any(part.is_required for part in self.parts)

    @property
    def required_keys(self) -> frozenset[str]:
        """The keys of all that an item must have to fulfil it."""
        return frozenset(part.key for part in self.parts if part.is_required)

    @property
    def predicates(self) -> list[Predicate]:
        """Filters by tags, the strictest first; what they leave too few of is sought without them."""
        genres, moods = self._tags(GENRE), self._tags(MOOD)
        if genres and moods:
            return [Predicate(genres=genres, moods=moods), Predicate(genres=genres), Predicate(moods=moods)]
        return [Predicate(genres=genres, moods=moods)] if genres or moods else []

    def as_item(self) -> Item:
        """The item that would fulfil it, for embedders that read items."""
        features: dict[str, float] = {}
        for part in self.parts:
            for name, (low, high) in part.trait.features.items():
                features.setdefault(name, (low + high) / 2)
        return Item(
            item_id=0,
            titles={"": self.rest} if self.rest else {},
            genres=tuple(sorted(self._tags(GENRE))),
            moods=tuple(sorted(self._tags(MOOD))),
            features=features,
        )

    def asked(self) -> dict[str, str]:
        """All that the answer depends on, for the fingerprint: the clock only by the part of the day."""
        told = {"query": self.context.query, "mood": self.context.mood, "activity": self.context.activity}
        time = {part.kind: part.key for part in self.parts if part.kind == TIME}
        return {name: text for name, text in told.items() if text} | time

    def _tags(self, kind: str) -> frozenset[str]:
        return frozenset(tag for part in self.parts if part.kind == kind for tag in part.tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What of a wish can be searched for: its vector, float32 (dim,), None where it has none, and its filters."""

    vector: Floats | None
    predicates: Sequence[Predicate]

    def steered(self, centroids: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Queries, float32 (k, dim), and the share of each, (k,): the wish, and interests half-way turned to it.

        Without a vector the interests as they are, without interests the wish alone.
        """
        if self.vector is None:
            return centroids, weights
        own = self.vector[None, :]
        if not len(centroids):
            return own, np.ones(1, dtype=np.float32)
        return np.vstack([own, centroids + own]), np.concatenate([[0.5], 0.5 * weights]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class WishFit:
    """How far each of n items fulfils a wish.

    ``scores`` float32 (n,), 0 to 1; ``met``: what each item has of the wish; ``is_met`` bool (n,): has all that is
    required. ``weight``: what the scores count against those of the taste; ``share`` of a list that must be met, as far
    as there are enough.
    """

    scores: Floats
    met: Sequence[tuple[WishedFor, ...]]
    is_met: np.typing.NDArray[np.bool_]
    weight: float
    share: float

    def blended(self, scores: Floats) -> Floats:
        """``scores`` of the taste, float32 (n,), 0 to 1, with the wish in them."""
        return np.asarray((1 - self.weight) * scores + self.weight * self.scores, dtype=np.float32)


class WishPlaces:
    """Which items the next place of a list should go to, so that every beginning of it has the share that is met."""

    # Above every other precedence: a list that the listener wished for is theirs first.
    _PRECEDENCE = np.float32(10_000)

    def __init__(self, fit: WishFit | None) -> None:
        self._share = fit.share if fit else 0.0
        self._is_met = fit.is_met if fit else np.zeros(0, dtype=np.bool_)
        self._gains = self._PRECEDENCE * self._is_met
        self._n_met = 0

    def gains(self, n_chosen: int) -> Floats | float:
        """What to add to each item's relevance after so many were chosen, float32 (n,), or 0."""
        return self._gains if self._n_met < int(self._share * (n_chosen + 1)) else 0.0

    def choose(self, place: int) -> None:
        """Take the item at ``place`` into the list."""
        self._n_met += bool(self._share and self._is_met[place])


@dataclass(frozen=True, slots=True, kw_only=True)
class WishConfig:
    """``weight``: of a wish against the taste; ``share`` of the list that must fulfil it; both from 0 to 1."""

    weight: float = 0.5
    share: float = 0.7

    def __post_init__(self) -> None:
        if not (0 <= self.weight <= 1 and 0 <= self.share <= 1):
            raise ValueError(f"a wish's config is out of range: {self}")


def measure(
    wish: Wish,
    facts: Sequence[ItemFacts],
    features: Mapping[int, Mapping[str, float]],
    likeness: Floats | None,
    config: WishConfig,
) -> WishFit:
    """``features``: those of the items that are known, by id; ``likeness`` float32 (n,): cosines to the wish's vector.

    What cannot be told of an item counts as the middle, and as not met.
    """
    n = len(facts)
    degrees = [part.degrees(facts, features) for part in wish.parts]
    required = [of_part for part, of_part in zip(wish.parts, degrees, strict=True) if part.is_required]
    is_met = np.all([of_part >= 1 for of_part in required], axis=0) if required else np.zeros(n, dtype=np.bool_)
    stated = [
        (part.wished_for, (of_part >= 1).tolist())
        for part, of_part in zip(wish.parts, degrees, strict=True)
        if part.kind != TIME
    ]
    return WishFit(
        scores=_scores(wish, degrees, likeness, n),
        met=[tuple(wished for wished, has in stated if has[place]) for place in range(n)],
        is_met=is_met,
        weight=config.weight * wish.strength,
        share=config.share if required else 0.0,
    )


def _scores(wish: Wish, degrees: Sequence[Floats], likeness: Floats | None, n: int) -> Floats:
    """The mean of the parts by their weights, with a little of the text's likeness; that alone where there are none."""
    near = _spread(likeness) if likeness is not None and wish.is_stated else None
    if not degrees:
        return near if near is not None else np.full(n, 0.5, dtype=np.float32)
    weights = np.array([part.trait.weight for part in wish.parts])
    known = np.array([np.where(np.isnan(of_part), 0.5, of_part) for of_part in degrees])
    mean = weights @ known / weights.sum()
    if near is None:
        return np.asarray(mean, dtype=np.float32)
    return np.asarray((1 - _TEXT_BESIDE) * mean + _TEXT_BESIDE * near, dtype=np.float32)


def _spread(values: Floats) -> Floats:
    """0 for the least and 1 for the greatest; 0.5 for all where they do not differ."""
    if not len(values) or (span := float(np.ptp(values))) <= 0:
        return np.full(len(values), 0.5, dtype=np.float32)
    return np.asarray((values - values.min()) / span, dtype=np.float32)


# --- reading ---


class WishReader:
    """Reads contexts by a profile's table; the catalogue's own genres count as words too."""

    def __init__(self, table: WishTable) -> None:
        self._table = table
        self._denials = Denials(table)
        self._lexicon = lru_cache(maxsize=4)(self._lexicon_with)

    @property
    def version(self) -> str:
        """A digest of the table."""
        return blake2b(self._table.model_dump_json().encode(), digest_size=6).hexdigest()

    def read(self, context: JobContext | None, genres: Iterable[str] = ()) -> Wish | None:
        """The wish of ``context``, or None where it asks for nothing; ``genres``: the catalogue's own."""
        if not context:
            return None
        lexicon = self._lexicon(genres if isinstance(genres, frozenset) else frozenset(genres))
        texts = [text for text in (context.query, context.mood, context.activity) if text]
        found: dict[str, Part] = {}
        taken = [self._take(text, lexicon, found) for text in texts]
        if context.local_time and (named := self._table.part_of_day(context.local_time)):
            found[f"{TIME}:{named[0]}"] = Part(f"{TIME}:{named[0]}", named[1], frozenset())
        parts = sorted(found.values(), key=lambda part: -part.trait.weight)[:MAX_PARTS]
        if not parts and not texts:
            return None
        rest, sought = (" ".join(filter(None, words)) for words in zip(*taken, strict=True)) if taken else ("", "")
        return Wish(parts=tuple(parts), rest=rest, text=" ".join(texts), sought=sought, context=context)

    def _take(self, text: str, lexicon: Lexicon[Part | None], named: dict[str, Part]) -> tuple[str, str]:
        """Add what ``text`` names to ``named``; the words that are left, and all words without what is denied."""
        line = folded(text)
        places = list(lexicon.find(line))
        known = [found for found in places if found.value]
        denials = self._denials.ends(line, known, [bool(each.value and each.value.kind == GENRE) for each in known])
        denied = {known[place].start: end for place, end in denials.items()}
        left, sought, end = list[str](), list[str](), 0
        for found in places:
            left.append(line[end : found.start])
            sought.append(line[end : found.start] if found.start in denied else line[end : found.ending])
            end = max(end, found.ending, denied.get(found.start, 0))
            if found.value and found.start not in denied:
                named.setdefault(found.value.key, found.value)
        rest = "".join([*left, " ", line[end:]]).split()
        return (
            " ".join(word for word in rest if any(char.isalnum() for char in word)),
            " ".join("".join([*sought, line[end:]]).split()),
        )

    def _lexicon_with(self, genres: frozenset[str]) -> Lexicon[Part | None]:
        table, lexicon = self._table, Lexicon[Part | None]()
        for kind, key, trait in table.worded():
            part = Part(f"{kind}:{key}", trait, frozenset(map(folded, trait.words)))
            for word in trait.words:
                lexicon.add(word, part)
        for genre in sorted(genres)[:_MAX_CATALOGUE_GENRES]:
            name = folded(genre)
            if 1 < len(name) <= _MAX_GENRE_CHARS:
                lexicon.add(genre, Part(f"{GENRE}:{name}", Trait(labels={"en": genre}), frozenset({name})))
        for word in (*table.fillers, *table.not_before, *table.not_after):
            lexicon.add(word, None)
        return lexicon
