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

    def candidate(self, items: Mapping[int, Item]) -> Candidate:
        """The candidate, its item and the likes near it taken from ``items``; raises ``KeyError`` without the item."""
        evidence = Evidence(
            similarity=self.similarity,
            near=tuple(items[item_id] for item_id in self.near_ids if item_id in items),
            shared_genres=self.shared_genres,
            shared_moods=self.shared_moods,
            same_creator=self.same_creator,
            popularity=self.facts.popularity,
        )
        return Candidate(item=items[self.facts.item_id], score=self.score, kind=self.kind, evidence=evidence)


def rank(retrieved: Retrieved, n: int, config: RankingConfig) -> list[Ranked]:
    """The ``n`` best of ``retrieved``, best first, each item once."""
    if not retrieved.facts:
        return []
    scores = _scores(retrieved, config)
    labelled = _label(retrieved, scores, config)
    return [labelled[place] for place in _diversify(labelled, retrieved.vectors, scores, n, config)]


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


def _label(retrieved: Retrieved, scores: Floats, config: RankingConfig) -> list[Ranked]:
    taste = _Taste.of(retrieved.liked)
    obscure = float(np.quantile([facts.popularity for facts in retrieved.facts], config.gem_popularity_quantile))
    is_close = scores >= np.median(scores)
    nearest = np.argsort(-retrieved.affinity, axis=1, kind="stable")[:, :_N_NEAR_SHOWN].tolist()
    labelled = []
    for place, facts in enumerate(retrieved.facts):
        shared_genres = tuple(genre for genre in facts.genres if genre in taste.genres)
        shared_moods = tuple(mood for mood in facts.moods if mood in taste.moods)
        same_creator = facts.creator is not None and facts.creator in taste.creators
        kind = _kind(
            is_popular=retrieved.is_popular,
            same_creator=same_creator,
            is_foreign=not shared_genres,
            is_gem=bool(facts.popularity < obscure and is_close[place]),
            same_mood=bool(shared_moods),
        )
        labelled.append(
            Ranked(
                facts=facts,
                score=float(scores[place]),
                kind=kind,
                similarity=float(retrieved.similarity[place]),
                near_ids=tuple(retrieved.liked[column].item_id for column in nearest[place]),
                shared_genres=shared_genres,
                shared_moods=shared_moods,
                same_creator=same_creator,
            )
        )
    return labelled


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


def _kind(
    *, is_popular: bool, same_creator: bool, is_foreign: bool, is_gem: bool, same_mood: bool
) -> RecommendationType:
    """The first that applies, from the most telling to the most common."""
    rules = (
        (is_popular, RecommendationType.POPULAR),
        (same_creator, RecommendationType.ARTIST),
        (is_foreign, RecommendationType.CROSSOVER),
        (is_gem, RecommendationType.HIDDEN_GEM),
        (same_mood, RecommendationType.SIMILAR),
    )
    return next((kind for applies, kind in rules if applies), RecommendationType.GENRE)


def _diversify(labelled: Sequence[Ranked], vectors: Floats, scores: Floats, n: int, config: RankingConfig) -> list[int]:
    """Places in ``labelled``, greedily by marginal relevance; discoveries come first until their share is met.

    The cap per creator gives way only where the list would otherwise stay shorter than ``n``.
    """
    is_open = np.ones(len(labelled), dtype=bool)
    is_discovery = np.array([each.kind in _DISCOVERIES for each in labelled])
    redundancy = np.zeros(len(labelled), dtype=np.float32)
    per_creator: Counter[str | None] = Counter()
    chosen: list[int] = []
    over_cap: list[int] = []
    while len(chosen) < n and is_open.any():
        wanted = int(config.discovery_share * (len(chosen) + 1)) - int(is_discovery[chosen].sum())
        pool = is_open & is_discovery if wanted > 0 else is_open
        pool = pool if pool.any() else is_open
        gain = np.where(pool, (1 - config.diversity) * scores - config.diversity * redundancy, -np.inf)
        place = int(np.argmax(gain))
        is_open[place] = False
        creator = labelled[place].facts.creator
        if creator is not None and per_creator[creator] >= config.max_per_creator:
            over_cap.append(place)
            continue
        per_creator[creator] += 1
        chosen.append(place)
        redundancy = np.maximum(redundancy, vectors @ vectors[place])
    return chosen + over_cap[: n - len(chosen)]
