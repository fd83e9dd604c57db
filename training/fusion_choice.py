"""Chooses what each source of candidates weighs in the first stage, on listeners whose further likes are known.

The first stage is done here as serving does it: candidates by content and by the collaborative model, the signals of
each candidate, and their fusion by ``core.fusion`` itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np

from core.collaborative import Doubles, Floats, Indices, Likes
from core.evaluation import Quality, quality_at
from core.fusion import Signals, fuse
from core.ports.collaborative import FusionWeights
from training.tuning import is_beyond_noise

K = 20
# As many of each source as serving asks for.
_N_CANDIDATES = 300
_N_NEAR = 3
_LISTENERS_AT_ONCE = 100
# Only what weights are to each other matters: the collaborative one stays 1. The most telling comes first.
_GRID = {
    "content": (0.0, 0.1, 0.2, 0.4, 0.7, 1.5, 3.0),
    "same_creator": (0.1, 0.25, 0.5, 1.0),
    "popularity": (0.0, 0.05, 0.2, 0.4, 0.8),
}
_N_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class ItemSignals:
    """What n items are besides likes: ``vectors`` float32 (n, dim), unit; ``popularity`` float32 (n,), any scale.

    ``creators`` int64 (n,): a number for each creator, -1 where nobody knows.
    """

    vectors: Floats
    popularity: Floats
    creators: Indices


@dataclass(frozen=True, slots=True)
class Candidates:
    """Of one listener: ``items``, indices int64 (n,), and what speaks for each."""

    items: Indices
    signals: Signals

    def top(self, weights: FusionWeights, n: int) -> Indices:
        """The ``n`` best, int64 (n,), filled up with -1."""
        best = np.argsort(-fuse(self.signals, weights), kind="stable")[:n]
        return np.pad(self.items[best], (0, n - len(best)), constant_values=-1)

    def without(self, items: Indices) -> "Candidates":
        """The others, as if ``items`` had not been found."""
        kept = ~np.isin(self.items, items)
        signals = Signals(**{each.name: getattr(self.signals, each.name)[kept] for each in fields(Signals)})
        return Candidates(self.items[kept], signals)


class Scorer(Protocol):
    """A collaborative model, or what stands for one."""

    def scores(self, likes: Likes) -> Floats:
        """Of every item, (likes.n_rows, n_items); NaN where it is not known."""


def candidates_of(model: Scorer, likes: Likes, items: ItemSignals) -> Iterator[Candidates]:
    """One for each list, without what is on it."""
    for start in range(0, likes.n_rows, _LISTENERS_AT_ONCE):
        part = likes.rows(start, start + _LISTENERS_AT_ONCE)
        for row, scores in enumerate(model.scores(part)):
            liked = part.items[part.starts[row] : part.starts[row + 1]]
            yield _candidates(scores, liked, items)


def _candidates(collaborative: Floats, liked: Indices, items: ItemSignals) -> Candidates:
    content = _nearness(items.vectors, liked)
    found = np.union1d(_best(content, liked), _best(collaborative, liked))
    creators = items.creators[liked]
    same_creator = np.isin(items.creators[found], creators[creators >= 0]).astype(np.float32)
    signals = Signals(
        content=content[found],
        collaborative=collaborative[found],
        popularity=items.popularity[found],
        same_creator=same_creator,
    )
    return Candidates(found, signals)


def _nearness(vectors: Floats, liked: Indices) -> Floats:
    """Mean of each item's cosines to the nearest few of what is liked, (n_items,)."""
    cosines = vectors @ vectors[liked].T
    n_near = min(_N_NEAR, len(liked))
    nearest = np.partition(cosines, len(liked) - n_near, axis=1)[:, len(liked) - n_near :]
    return np.asarray(nearest.mean(axis=1) if n_near else np.zeros(len(vectors)), np.float32)


def _best(scores: Floats, liked: Indices) -> Indices:
    """The indices of the highest known scores but those of ``liked``, in no order."""
    others = np.delete(np.arange(len(scores)), liked)
    others = others[np.isfinite(scores[others])]
    n = min(_N_CANDIDATES, len(others))
    return others[np.argpartition(-scores[others], n - 1)[:n]] if n else others


def quality_of(candidates: Sequence[Candidates], targets: Likes, weights: FusionWeights) -> Quality:
    """What the first ``K`` of the fused lists are worth."""
    return quality_at(np.stack([each.top(weights, K) for each in candidates]), targets, K)


def choose_weights(
    candidates: Sequence[Candidates], targets: Likes, *, tell: Callable[[str], None] = lambda _: None
) -> FusionWeights:
    """The defaults, and what is better than them beyond noise: one weight at a time, by Recall@20 + NDCG@20."""
    known: dict[FusionWeights, Doubles] = {}

    def figures(weights: FusionWeights) -> Doubles:
        if weights not in known:
            quality = quality_of(candidates, targets, weights)
            known[weights] = quality.recall + quality.ndcg
        return known[weights]

    best = FusionWeights()
    for n_rounds in range(_N_ROUNDS):
        before = best
        for n, (name, values) in enumerate(_GRID.items(), n_rounds * len(_GRID) + 1):
            tried = max((replace(best, **{name: value}) for value in values), key=lambda each: figures(each).mean())
            if is_beyond_noise(figures(tried) - figures(best)):
                best = tried
            tell(
                f"fusion, {n} of {_N_ROUNDS * len(_GRID)} at most: {name} {getattr(best, name):g}, "
                f"Recall@{K} + NDCG@{K} {figures(best).mean():.4f}"
            )
        if best == before:
            break
    return best
