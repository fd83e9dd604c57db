"""The first stage: score what was retrieved, label why each item is there, and order it with diversity.

The order is maximal marginal relevance (Carbonell and Goldstein, "The use of MMR", SIGIR 1998) under a cap per
creator, with a share of places kept for discoveries.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.ports import Floats
from core.retrieval import Retrieved
from models.catalogue import Item, ItemFacts
from models.recommendation import Candidate, Evidence, RecommendationType

_N_NEAR_SHOWN = 2
_DISCOVERIES = frozenset({RecommendationType.HIDDEN_GEM, RecommendationType.CROSSOVER})


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingConfig:
    """``diversity``, ``discovery_share`` and ``popularity_weight`` run from 0 to 1.

    A hidden gem is less popular than ``gem_popularity_quantile`` of the items it competes with.
    """

    diversity: float = 0.3
    max_per_creator: int = 3
    discovery_share: float = 0.2
    popularity_weight: float = 0.1
    n_near: int = 3
    gem_popularity_quantile: float = 0.25

    def __post_init__(self) -> None:
        if not (0 <= self.diversity <= 1 and 0 <= self.discovery_share <= 1 and self.max_per_creator >= 1):
            raise ValueError(f"a ranking's config is out of range: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A candidate before its item is looked up; ``near_ids`` are the likes it is closest to, nearest first."""

    facts: ItemFacts
    score: float
    kind: RecommendationType
    similarity: float
    near_ids: tuple[int, ...]
    shared_genres: tuple[str, ...]
    shared_moods: tuple[str, ...]
    same_creator: bool
    sources: tuple[str, ...] = ()
    collaborative: float | None = None

    def candidate(self, items: Mapping[int, Item]) -> Candidate:
        """The candidate, its item and the likes near it taken from ``items``; raises ``KeyError`` without the item."""
        evidence = Evidence(
            similarity=self.similarity,
            near=tuple(items[item_id] for item_id in self.near_ids if item_id in items),
            shared_genres=self.shared_genres,
            shared_moods=self.shared_moods,
            same_creator=self.same_creator,
            popularity=self.facts.popularity,
            sources=self.sources,
            collaborative=self.collaborative,
        )
        return Candidate(item=items[self.facts.item_id], score=self.score, kind=self.kind, evidence=evidence)


def rank(retrieved: Retrieved, n: int, config: RankingConfig) -> list[Ranked]:
    """The ``n`` best of ``retrieved``, best first, each item once."""
    if not retrieved.facts:
        return []
    scores = _scores(retrieved, config)
    taste = _Taste.of(retrieved.liked)
    kinds = _kinds(retrieved, scores, taste, config)
    order = _diversify(retrieved, kinds, scores, n, config)
    return [_ranked(retrieved, place, float(scores[place]), kinds[place], taste) for place in order]


def _scores(retrieved: Retrieved, config: RankingConfig) -> Floats:
    """Mean of the cosine to the nearest interest and to the nearest few likes, with a little popularity; 0 to 1."""
    popularity = np.array([facts.popularity for facts in retrieved.facts], dtype=np.float32)
    if retrieved.is_popular:
        return popularity
    n_near = min(config.n_near, retrieved.affinity.shape[1])
    nearest = np.sort(retrieved.affinity, axis=1)[:, -n_near:].mean(axis=1)
    match = np.clip((retrieved.similarity + nearest) / 2, 0.0, 1.0)
    scores: Floats = ((1 - config.popularity_weight) * match + config.popularity_weight * popularity).astype(np.float32)
    return scores


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


def _kinds(retrieved: Retrieved, scores: Floats, taste: _Taste, config: RankingConfig) -> list[RecommendationType]:
    if retrieved.is_popular:
        return [RecommendationType.POPULAR] * len(retrieved.facts)
    popularity = [facts.popularity for facts in retrieved.facts]
    is_gem = (np.array(popularity) < np.quantile(popularity, config.gem_popularity_quantile)) & (
        scores >= np.median(scores)
    )
    return [_kind(facts, taste, is_gem=gem) for facts, gem in zip(retrieved.facts, is_gem.tolist(), strict=True)]


def _kind(facts: ItemFacts, taste: _Taste, *, is_gem: bool) -> RecommendationType:
    """What speaks for the item, from the most telling to the most common."""
    if facts.creator in taste.creators:
        return RecommendationType.ARTIST
    if taste.genres.isdisjoint(facts.genres):
        return RecommendationType.CROSSOVER
    if is_gem:
        return RecommendationType.HIDDEN_GEM
    return RecommendationType.GENRE if taste.moods.isdisjoint(facts.moods) else RecommendationType.SIMILAR


def _diversify(
    retrieved: Retrieved, kinds: Sequence[RecommendationType], scores: Floats, n: int, config: RankingConfig
) -> list[int]:
    """Places in ``retrieved``, greedily by marginal relevance; discoveries come first until their share is met.

    The cap per creator gives way only where the list would otherwise stay shorter than ``n``.
    """
    likeness = config.diversity * (retrieved.vectors @ retrieved.vectors.T)
    relevance = (1 - config.diversity) * scores
    redundancy = np.zeros_like(relevance)
    is_discovery = np.array([kind in _DISCOVERIES for kind in kinds])
    # What is no discovery stands back by more than any marginal relevance while one is due.
    waiting = np.where(is_discovery, np.float32(0), np.float32(10))
    per_creator: Counter[str | None] = Counter()
    chosen: list[int] = []
    over_cap: list[int] = []
    n_discoveries = 0
    for _ in range(len(scores)):
        if len(chosen) == n:
            break
        is_due = int(config.discovery_share * (len(chosen) + 1)) > n_discoveries
        gain = relevance - redundancy
        place = int(np.argmax(gain - waiting if is_due else gain))
        relevance[place] = -np.inf
        creator = retrieved.facts[place].creator
        if creator is not None and per_creator[creator] >= config.max_per_creator:
            over_cap.append(place)
            continue
        per_creator[creator] += 1
        n_discoveries += bool(is_discovery[place])
        chosen.append(place)
        np.maximum(redundancy, likeness[place], out=redundancy)
    return chosen + over_cap[: n - len(chosen)]


def _ranked(retrieved: Retrieved, place: int, score: float, kind: RecommendationType, taste: _Taste) -> Ranked:
    facts = retrieved.facts[place]
    nearest = np.argsort(-retrieved.affinity[place], kind="stable")[:_N_NEAR_SHOWN]
    return Ranked(
        facts=facts,
        score=score,
        kind=kind,
        similarity=float(retrieved.similarity[place]),
        near_ids=tuple(retrieved.liked[column].item_id for column in nearest.tolist()),
        shared_genres=tuple(genre for genre in facts.genres if genre in taste.genres),
        shared_moods=tuple(mood for mood in facts.moods if mood in taste.moods),
        same_creator=facts.creator in taste.creators,
        sources=retrieved.sources[place] if retrieved.sources else (),
        collaborative=_known(retrieved.collaborative, place),
    )


def _known(scores: Floats | None, place: int) -> float | None:
    """The score at ``place``, None where it is unknown."""
    return None if scores is None or np.isnan(scores[place]) else float(scores[place])
