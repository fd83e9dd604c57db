"""Discoveries: which candidates would widen a taste, and how many places of a list are theirs."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from core.ports.arrays import Floats
from core.retrieval import Retrieved
from models.catalogue import ItemFacts
from models.recommendation import CandidateSource, Discovery

Flags = npt.NDArray[np.bool_]

_MIN_LIKES_OF_LOVED = 2


def find_discoveries(retrieved: Retrieved, scores: Floats, gem_popularity_quantile: float) -> list[Discovery | None]:
    """What each candidate would be a discovery of, if any, by ``scores`` float32 (n,).

    By a creator whom the listener likes nothing of it is a crossover, where it has none of the likes' genres; else a
    hidden gem, where it is less popular than that quantile of the candidates; else a new creator like the loved ones,
    where the like it is nearest to is by one of these, or listeners of a like taste found it. The latter two must be
    among the better half of the candidates.
    """
    if retrieved.is_popular:
        return [None] * len(retrieved.facts)
    genres = {genre for facts in retrieved.liked for genre in facts.genres}
    known = {facts.creator for facts in retrieved.liked}
    popularity = np.array([facts.popularity for facts in retrieved.facts])
    is_match = scores >= np.median(scores)
    is_gem = is_match & (popularity < np.quantile(popularity, gem_popularity_quantile))
    is_like_loved = is_match & (_is_near_loved(retrieved) | _is_collaborative(retrieved))
    return [
        None if facts.creator in known and facts.creator is not None else _discovery(facts, genres, gem, like_loved)
        for facts, gem, like_loved in zip(retrieved.facts, is_gem.tolist(), is_like_loved.tolist(), strict=True)
    ]


def _discovery(facts: ItemFacts, liked_genres: set[str], is_gem: bool, is_like_loved: bool) -> Discovery | None:
    if facts.genres and liked_genres and liked_genres.isdisjoint(facts.genres):
        return Discovery.CROSSOVER
    if is_gem:
        return Discovery.HIDDEN_GEM
    return Discovery.NEW_CREATOR if is_like_loved and facts.creator is not None else None


def _is_near_loved(retrieved: Retrieved) -> Flags:
    """Whether the nearest like is by a creator of several likes, or by any where there is none of several; (n,)."""
    n_likes = Counter(facts.creator for facts in retrieved.liked if facts.creator is not None)
    n_needed = min(_MIN_LIKES_OF_LOVED, max(n_likes.values(), default=0))
    loved = {creator for creator, n in n_likes.items() if n >= n_needed}
    is_loved = np.array([facts.creator in loved for facts in retrieved.liked], dtype=np.bool_)
    if not len(is_loved):
        return np.zeros(len(retrieved.facts), dtype=bool)
    return np.asarray(is_loved[np.argmax(retrieved.affinity, axis=1)])


def _is_collaborative(retrieved: Retrieved) -> Flags:
    if not retrieved.sources:
        return np.zeros(len(retrieved.facts), dtype=bool)
    return np.array([CandidateSource.COLLABORATIVE in sources for sources in retrieved.sources], dtype=bool)


class DiscoveryPlaces:
    """How many of the first ``n`` places each kind of discovery has a right to, and what became of it so far.

    Gems and crossovers are few, but half of the candidates may be by new creators: only so many of them are called so
    as they have places, spread over the list. The others stand where their scores put them.
    """

    def __init__(self, n: int, quotas: Mapping[Discovery, int], n_found: Mapping[Discovery, int]) -> None:
        self.quotas = quotas
        self._n, self._n_chosen = n, 0
        self._unmet = {kind: quota for kind, quota in quotas.items() if quota}
        self._n_unmet = sum(self._unmet.values())
        # So many by new creators may stand in the list without being called so: the others are needed for the quota.
        self._n_spare_new = n_found.get(Discovery.NEW_CREATOR, 0) - quotas.get(Discovery.NEW_CREATOR, 0)

    @classmethod
    def of(
        cls, found: Sequence[Discovery | None], n: int, share: float, mix: Mapping[Discovery, float]
    ) -> "DiscoveryPlaces":
        """``share`` of ``n`` places, split as ``mix`` weighs; what a kind has too few for goes to the others."""
        available = Counter(kind for kind in found if kind is not None)
        wanted = {kind: weight for kind, weight in mix.items() if weight > 0}
        quotas = dict.fromkeys(wanted, 0)
        for _ in range(int(share * n)):
            open_kinds = [kind for kind in wanted if quotas[kind] < available[kind]]
            if not open_kinds:
                break
            # The highest averages method (Webster, 1832): seats by weight, one after the other.
            quotas[max(open_kinds, key=lambda kind: wanted[kind] / (2 * quotas[kind] + 1))] += 1
        return cls(n, quotas, available)

    def due(self) -> frozenset[Discovery]:
        """Kinds that the next place should go to, so that they are spread over all places."""
        if self._n_unmet >= self._n - self._n_chosen:
            return frozenset(self._unmet)
        return frozenset(kind for kind, n_unmet in self._unmet.items() if self._is_late(kind, n_unmet))

    def _is_late(self, kind: Discovery, n_unmet: int) -> bool:
        quota = self.quotas[kind]
        return quota - n_unmet < quota * (self._n_chosen + 1) // self._n

    def choose(self, discovery: Discovery | None) -> Discovery | None:
        """A candidate that is such a discovery takes the next place; what it is labelled there."""
        label = discovery
        if discovery is Discovery.NEW_CREATOR and not self._is_called_new():
            label = None
            self._n_spare_new -= 1
        if label in self._unmet:
            self._meet(label)
        self._n_chosen += 1
        return label

    def _meet(self, kind: Discovery) -> None:
        self._n_unmet -= 1
        self._unmet[kind] -= 1
        if not self._unmet[kind]:
            del self._unmet[kind]

    def _is_called_new(self) -> bool:
        n_unmet = self._unmet.get(Discovery.NEW_CREATOR, 0)
        if not n_unmet:
            return False
        quota = self.quotas[Discovery.NEW_CREATOR]
        is_early = (quota - n_unmet) * self._n >= quota * (self._n_chosen + 1)
        return not is_early or self._n_spare_new <= 0 or Discovery.NEW_CREATOR in self.due()
