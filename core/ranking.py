"""The first stage: score what was retrieved, label why each item is there, and order it with diversity.

The order is maximal marginal relevance (Carbonell and Goldstein, "The use of MMR", SIGIR 1998) under a cap per
creator, with a share of places kept for discoveries, and every interest of the listener has its share of it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from core.discovery import DiscoveryPlaces, find_discoveries
from core.fusion import Signals, fuse, to_share
from core.interest_balance import InterestBalance
from core.ports.arrays import Floats
from core.retrieval import Retrieved
from core.wish import WishPlaces
from models.catalogue import Item, ItemFacts
from models.recommendation import Candidate, CandidateSource, Discovery, Evidence, RecommendationType, WishedFor

_N_NEAR_SHOWN = 2

_KINDS: Mapping[Discovery | None, RecommendationType] = {
    Discovery.CROSSOVER: RecommendationType.CROSSOVER,
    Discovery.HIDDEN_GEM: RecommendationType.HIDDEN_GEM,
}

_Near = tuple[tuple[int, ...], tuple[float, ...]]
"""Ids of likes, nearest first, and the cosines to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingConfig:
    """``diversity``, ``discovery_share`` and ``popularity_weight`` run from 0 to 1.

    ``discovery_mix`` weighs the kinds of discovery against each other; a kind that it lacks is kept no places for. A
    hidden gem is less popular than ``gem_popularity_quantile`` of the items it competes with. ``calibration``: by how
    much the scores of an interest's items rise with every place that it lacks of its share; 0 leaves shares to scores.
    """

    diversity: float = 0.3
    max_per_creator: int = 3
    discovery_share: float = 0.2
    discovery_mix: Mapping[Discovery, float] = field(default_factory=lambda: dict.fromkeys(Discovery, 1.0))
    popularity_weight: float = 0.1
    n_near: int = 3
    gem_popularity_quantile: float = 0.25
    calibration: float = 0.01

    def __post_init__(self) -> None:
        shares = (self.diversity, self.discovery_share, self.popularity_weight, self.gem_popularity_quantile)
        if not all(0 <= share <= 1 for share in shares) or self.max_per_creator < 1 or self.calibration < 0:
            raise ValueError(f"a ranking's config is out of range: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A candidate before its item is looked up.

    ``near_ids`` are the likes that it is closest to, nearest first, and ``near_similarity`` its cosines to them.
    """

    facts: ItemFacts
    score: float
    kind: RecommendationType
    similarity: float
    near_ids: tuple[int, ...]
    near_similarity: tuple[float, ...]
    shared_genres: tuple[str, ...]
    shared_moods: tuple[str, ...]
    same_creator: bool
    sources: tuple[str, ...] = ()
    collaborative: float | None = None
    discovery: Discovery | None = None
    wish: tuple[WishedFor, ...] = ()

    def candidate(self, items: Mapping[int, Item]) -> Candidate:
        """The candidate, its item and the likes near it taken from ``items``; raises ``KeyError`` without the item."""
        near = [pair for pair in zip(self.near_ids, self.near_similarity, strict=True) if pair[0] in items]
        evidence = Evidence(
            similarity=self.similarity,
            near=tuple(items[item_id] for item_id, _ in near),
            near_similarity=tuple(similarity for _, similarity in near),
            shared_genres=self.shared_genres,
            shared_moods=self.shared_moods,
            same_creator=self.same_creator,
            popularity=self.facts.popularity,
            sources=self.sources,
            collaborative=self.collaborative,
            discovery=self.discovery,
            wish=self.wish,
        )
        return Candidate(item=items[self.facts.item_id], score=self.score, kind=self.kind, evidence=evidence)


def rank(retrieved: Retrieved, n: int, config: RankingConfig) -> list[Ranked]:
    """The ``n`` best of ``retrieved``, best first, each item once."""
    if not retrieved.facts:
        return []
    taste = _Taste.of(retrieved.liked)
    scores = _scores(retrieved, taste, config)
    scores = retrieved.wish.blended(scores) if retrieved.wish else scores
    scores = scores if retrieved.damping is None else scores * retrieved.damping
    discoveries = find_discoveries(retrieved, scores, config.gem_popularity_quantile)
    chosen = _diversify(retrieved, discoveries, scores, n, config)
    return [
        _ranked(retrieved, place, near, float(scores[place]), discovery, taste)
        for (place, discovery), near in zip(chosen.items(), _nearest(retrieved, list(chosen)), strict=True)
    ]


def _nearest(retrieved: Retrieved, places: Sequence[int]) -> list[_Near]:
    """The likes that the candidates at ``places`` are closest to."""
    affinity = retrieved.affinity[places]
    columns = np.argsort(-affinity, axis=1, kind="stable")[:, :_N_NEAR_SHOWN]
    cosines = np.take_along_axis(affinity, columns, axis=1)
    ids = [facts.item_id for facts in retrieved.liked]
    return [
        (tuple(ids[column] for column in own), tuple(similarity))
        for own, similarity in zip(columns.tolist(), cosines.tolist(), strict=True)
    ]


def _scores(retrieved: Retrieved, taste: "_Taste", config: RankingConfig) -> Floats:
    """0 to 1: with a collaborative model all signals fused by its weights, else content with a little popularity."""
    popularity = np.array([facts.popularity for facts in retrieved.facts], dtype=np.float32)
    if retrieved.is_popular:
        return popularity
    match = _match(retrieved, config)
    if retrieved.collaborative is None or retrieved.fusion is None:
        share = config.popularity_weight
        return np.asarray((1 - share) * match + share * popularity, dtype=np.float32)
    same_creator = np.array([facts.creator in taste.creators for facts in retrieved.facts], dtype=np.float32)
    signals = Signals(
        content=match, collaborative=retrieved.collaborative, popularity=popularity, same_creator=same_creator
    )
    return to_share(fuse(signals, retrieved.fusion))


def _match(retrieved: Retrieved, config: RankingConfig) -> Floats:
    """Mean of the cosine to the nearest interest and to the nearest few likes; 0 to 1."""
    n_near = min(config.n_near, retrieved.affinity.shape[1])
    nearest = np.sort(retrieved.affinity, axis=1)[:, -n_near:].mean(axis=1)
    match: Floats = np.clip((retrieved.similarity + nearest) / 2, 0.0, 1.0)
    return match


@dataclass(frozen=True, slots=True)
class _Taste:
    genres: frozenset[str]
    moods: frozenset[str]
    creators: frozenset[str]

    @classmethod
    def of(cls, liked: Sequence[ItemFacts]) -> "_Taste":
        return cls(
            genres=frozenset(genre for facts in liked for genre in facts.genres),
            moods=frozenset(mood for facts in liked for mood in facts.moods),
            creators=frozenset(facts.creator for facts in liked if facts.creator is not None),
        )


def _kind(facts: ItemFacts, taste: _Taste, discovery: Discovery | None, sources: Sequence[str]) -> RecommendationType:
    """What speaks for the item, from the most telling to the most common."""
    if facts.creator in taste.creators:
        return RecommendationType.ARTIST
    if discovery in _KINDS:
        return _KINDS[discovery]
    if CandidateSource.COLLABORATIVE in sources and CandidateSource.CONTENT not in sources:
        return RecommendationType.COLLABORATIVE
    if not taste.genres.isdisjoint(facts.genres) and taste.moods.isdisjoint(facts.moods):
        return RecommendationType.GENRE
    return RecommendationType.SIMILAR


def _diversify(
    retrieved: Retrieved, discoveries: Sequence[Discovery | None], scores: Floats, n: int, config: RankingConfig
) -> dict[int, Discovery | None]:
    """Places in ``retrieved``, greedily by marginal relevance, and what each is labelled a discovery of.

    Discoveries come first where one is due. The cap per creator gives way only where the list would otherwise stay
    shorter than ``n``.
    """
    n = min(n, len(scores))
    places = DiscoveryPlaces.of(discoveries, n, config.discovery_share, config.discovery_mix)
    balance = _balance(retrieved, config.calibration)
    wished = WishPlaces(retrieved.wish)
    likeness = config.diversity * (retrieved.vectors @ retrieved.vectors.T)
    relevance = (1 - config.diversity) * scores
    redundancy = np.zeros_like(relevance)
    per_creator: Counter[str | None] = Counter()
    chosen: dict[int, Discovery | None] = {}
    over_cap: list[int] = []
    # What is due goes before all else by more than any marginal relevance.
    precedence = {kind: np.float32(1000) * np.array([each is kind for each in discoveries]) for kind in places.quotas}
    for _ in range(len(scores)):
        if len(chosen) == n:
            break
        gains = relevance - redundancy
        gains += balance.gains()
        if retrieved.wish:
            gains += wished.gains(len(chosen))
        for kind in places.due():
            gains += precedence[kind]
        place = int(gains.argmax())
        relevance[place] = -np.inf
        creator = retrieved.facts[place].creator
        if creator is not None and per_creator[creator] >= config.max_per_creator:
            over_cap.append(place)
            continue
        per_creator[creator] += 1
        chosen[place] = places.choose(discoveries[place])
        balance.choose(place)
        wished.choose(place)
        np.maximum(redundancy, likeness[place], out=redundancy)
    for place in over_cap[: n - len(chosen)]:
        chosen[place] = places.choose(discoveries[place])
    return chosen


def _balance(retrieved: Retrieved, strength: float) -> InterestBalance:
    """Of the listener's interests; a listener without any has one, which nothing changes for."""
    if retrieved.interests is None or retrieved.interest_weights is None:
        return InterestBalance(np.zeros(len(retrieved.facts), np.int64), np.ones(1, np.float32), strength)
    return InterestBalance(retrieved.interests, retrieved.interest_weights, strength)


def _ranked(
    retrieved: Retrieved, place: int, near: _Near, score: float, discovery: Discovery | None, taste: _Taste
) -> Ranked:
    facts = retrieved.facts[place]
    sources = retrieved.sources[place] if retrieved.sources else ()
    return Ranked(
        facts=facts,
        score=score,
        kind=RecommendationType.POPULAR
        if retrieved.is_popular and sources != (CandidateSource.WISH,)
        else _kind(facts, taste, discovery, sources),
        similarity=float(retrieved.similarity[place]),
        near_ids=near[0],
        near_similarity=near[1],
        shared_genres=tuple(genre for genre in facts.genres if genre in taste.genres),
        shared_moods=tuple(mood for mood in facts.moods if mood in taste.moods),
        same_creator=facts.creator in taste.creators,
        sources=sources,
        collaborative=_known(retrieved.collaborative, place),
        discovery=discovery,
        wish=retrieved.wish.met[place] if retrieved.wish else (),
    )


def _known(scores: Floats | None, place: int) -> float | None:
    """The score at ``place``, None where it is unknown."""
    return None if scores is None or np.isnan(scores[place]) else float(scores[place])
