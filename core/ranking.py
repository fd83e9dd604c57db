"""The first stage: score what was retrieved, label why each item is there, and order it with diversity.

The order is maximal marginal relevance (Carbonell and Goldstein, "The use of MMR", SIGIR 1998) under a cap per
creator, with a share of places kept for discoveries.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from core.ports import Floats
from core.retrieval import Retrieved
from models.catalogue import Item
from models.recommendation import Candidate, Evidence, RecommendationType

DISCOVERIES = frozenset({RecommendationType.HIDDEN_GEM, RecommendationType.CROSSOVER})


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


def rank(
    retrieved: Retrieved, items: Mapping[int, Item], liked: Mapping[int, Item], n: int, config: RankingConfig
) -> list[Candidate]:
    """The ``n`` best of ``retrieved``, best first, each item once.

    ``items`` holds the retrieved items that are (still) eligible, ``liked`` the liked items that are known, by id.
    """
    eligible = retrieved.only(items.keys())
    if not len(eligible.ids):
        return []
    present = [items[item_id] for item_id in eligible.ids.tolist()]
    scores = _scores(eligible, present, config)
    candidates = _label(eligible, present, scores, liked, config)
    return [candidates[place] for place in _diversify(candidates, eligible.vectors, scores, n, config)]


def _scores(retrieved: Retrieved, items: Sequence[Item], config: RankingConfig) -> Floats:
    """Mean of the cosine to the nearest interest and to the nearest few likes, with a little popularity; 0 to 1."""
    popularity = np.array([item.popularity for item in items], dtype=np.float32)
    if retrieved.is_popular:
        return popularity
    n_near = min(config.n_near, retrieved.affinity.shape[1])
    nearest = np.sort(retrieved.affinity, axis=1)[:, -n_near:].mean(axis=1)
    match = np.clip((retrieved.similarity + nearest) / 2, 0.0, 1.0)
    scores: Floats = ((1 - config.popularity_weight) * match + config.popularity_weight * popularity).astype(np.float32)
    return scores


def _label(
    retrieved: Retrieved,
    items: Sequence[Item],
    scores: Floats,
    liked: Mapping[int, Item],
    config: RankingConfig,
) -> list[Candidate]:
    taste = _Taste.of(liked.values())
    obscure = float(np.quantile([item.popularity for item in items], config.gem_popularity_quantile))
    close = float(np.median(scores))
    candidates = []
    for position, (item, score) in enumerate(zip(items, scores.tolist(), strict=True)):
        evidence = Evidence(
            similarity=float(retrieved.similarity[position]),
            near=_nearest_likes(retrieved, position, liked),
            shared_genres=tuple(genre for genre in item.genres if genre in taste.genres),
            shared_moods=tuple(mood for mood in item.moods if mood in taste.moods),
            same_creator=item.creator is not None and item.creator in taste.creators,
            popularity=item.popularity,
        )
        is_gem = item.popularity < obscure and score >= close
        kind = _kind(evidence, is_gem=is_gem, is_popular=retrieved.is_popular)
        candidates.append(Candidate(item=item, score=score, kind=kind, evidence=evidence))
    return candidates


def _nearest_likes(retrieved: Retrieved, position: int, liked: Mapping[int, Item], n: int = 2) -> tuple[Item, ...]:
    order = np.argsort(-retrieved.affinity[position], kind="stable")
    known = (liked.get(int(retrieved.liked_ids[column])) for column in order)
    return tuple(islice((item for item in known if item is not None), n))


@dataclass(frozen=True, slots=True)
class _Taste:
    genres: frozenset[str]
    moods: frozenset[str]
    creators: frozenset[str]

    @classmethod
    def of(cls, liked: Collection[Item]) -> "_Taste":
        return cls(
            genres=frozenset(genre for item in liked for genre in item.genres),
            moods=frozenset(mood for item in liked for mood in item.moods),
            creators=frozenset(item.creator for item in liked if item.creator is not None),
        )


def _kind(evidence: Evidence, *, is_gem: bool, is_popular: bool) -> RecommendationType:
    if is_popular:
        return RecommendationType.POPULAR
    if evidence.same_creator:
        return RecommendationType.ARTIST
    if not evidence.shared_genres:
        return RecommendationType.CROSSOVER
    if is_gem:
        return RecommendationType.HIDDEN_GEM
    return RecommendationType.SIMILAR if evidence.shared_moods else RecommendationType.GENRE


def _diversify(
    candidates: Sequence[Candidate], vectors: Floats, scores: Floats, n: int, config: RankingConfig
) -> list[int]:
    """Places in ``candidates``, greedily by marginal relevance; discoveries come first until their share is met.

    The cap per creator gives way only where the list would otherwise stay shorter than ``n``.
    """
    is_open = np.ones(len(candidates), dtype=bool)
    is_discovery = np.array([candidate.kind in DISCOVERIES for candidate in candidates])
    redundancy = np.zeros(len(candidates), dtype=np.float32)
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
        creator = candidates[place].item.creator
        if creator is not None and per_creator[creator] >= config.max_per_creator:
            over_cap.append(place)
            continue
        per_creator[creator] += 1
        chosen.append(place)
        redundancy = np.maximum(redundancy, vectors @ vectors[place])
    return chosen + over_cap[: n - len(chosen)]
