"""How good a ranking is: measures of one listener each, and what of a difference may be chance.

Measures per listener stay arrays until the end, so that two methods can be compared listener by listener.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from core.collaborative import Doubles, Floats, Indices, Likes

_N_RESAMPLES = 2000
_N_COVERAGE_RESAMPLES = 500
_CHUNK = 200


@dataclass(frozen=True, slots=True)
class Quality:
    """What the first ``k`` of each list are worth: arrays float64 (n_listeners,), over listeners that have targets.

    ``recall`` is hits / targets, ``precision`` hits / k, ``hit_rate`` whether there is any hit. ``average_precision``
    and ``ndcg`` are binary, their ideal cut at min(k, targets).
    """

    hits: Doubles
    targets: Doubles
    recall: Doubles
    precision: Doubles
    hit_rate: Doubles
    average_precision: Doubles
    ndcg: Doubles


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the bounds of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


Statistic = Callable[[Quality], tuple[Doubles, Doubles]]


def pooled_recall(quality: Quality) -> tuple[Doubles, Doubles]:
    """All hits by all targets, as a ratio of sums."""
    return quality.hits, quality.targets


def mean_of(name: str) -> Statistic:
    """The mean over listeners of the measure ``name``."""

    def statistic(quality: Quality) -> tuple[Doubles, Doubles]:
        values: Doubles = getattr(quality, name)
        return values, np.ones(len(values))

    return statistic


def quality_at(top: Indices, targets: Likes, k: int) -> Quality:
    """Judge lists of item indices, (n_listeners, at least k or all there are), by what each listener went on to like.

    An index of -1 is an empty place. Listeners without targets are left out.
    """
    hit = hits_at(top, targets, k)
    asked = targets.counts > 0
    hit, n_targets = hit[asked].astype(np.float64), targets.counts[asked].astype(np.float64)
    places = np.arange(1, hit.shape[1] + 1)
    discounts, ideal = 1 / np.log2(places + 1), np.minimum(n_targets, k)
    best = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    n_hits = hit.sum(1)
    return Quality(
        hits=n_hits,
        targets=n_targets,
        recall=n_hits / n_targets,
        precision=n_hits / k,
        hit_rate=(n_hits > 0).astype(np.float64),
        average_precision=(hit * np.cumsum(hit, axis=1) / places).sum(1) / ideal,
        ndcg=(hit * discounts).sum(1) / best[ideal.astype(np.int64)],
    )


def hits_at(top: Indices, targets: Likes, k: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which of the first ``k`` places of each list hold a target, shape (n_listeners, min(k, places))."""
    top = top[:, :k]
    width = int(max(top.max(initial=0), targets.items.max(initial=0))) + 2
    wanted = targets.owners() * width + targets.items
    offered = np.arange(len(top))[:, None] * width + np.where(top < 0, width - 1, top)
    return np.isin(offered, wanted)


def coverage(top: Indices, n_items: int) -> float:
    """The share of the catalogue that stands on any list."""
    return len(np.unique(top[top >= 0])) / max(n_items, 1)


def novelty(top: Indices, popularity: Doubles, n_users: int) -> Doubles:
    """Mean self-information of each list, in bits (Vargas and Castells 2011), shape (n_lists,).

    What nobody has counts as had by one; a list of nothing says 0.
    """
    bits = -np.log2(np.maximum(popularity[np.maximum(top, 0)], 1.0) / max(n_users, 1))
    filled = top >= 0
    return np.asarray((bits * filled).sum(1) / np.maximum(filled.sum(1), 1))


def intra_list_diversity(top: Indices, vectors: Floats) -> Doubles:
    """1 minus the mean cosine of pairs on a list, (n_lists,); ``vectors`` (n_items, dim) of any length.

    A list of fewer than two items says 0.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    parts = [_diversity(top[start : start + _CHUNK], units) for start in range(0, len(top), _CHUNK)]
    return np.concatenate(parts) if parts else np.empty(0)


def _diversity(top: Indices, units: Floats) -> Doubles:
    filled = top >= 0
    listed = units[np.maximum(top, 0)] * filled[:, :, None]
    n_pairs = filled.sum(1) * (filled.sum(1) - 1)
    similar = (listed.sum(1) ** 2).sum(1) - (listed**2).sum((1, 2))
    return np.asarray(np.where(n_pairs > 0, 1 - similar / np.maximum(n_pairs, 1), 0.0), np.float64)


def bootstrap_mean(values: Doubles, *, seed: int = 0) -> Interval:
    """The mean of a figure per list, with the interval that resampling lists gives."""
    return _interval(float(values.mean()), _resampled(values, np.ones(len(values)), seed))


def bootstrap_coverage(top: Indices, n_items: int, *, seed: int = 0) -> Interval:
    """``coverage`` with the interval that resampling lists gives.

    A resample holds but 63 % of the lists and so covers less; its spread is what counts, moved to the figure.
    """
    chance, n_lists = np.random.default_rng(seed), len(top)
    draws = (top[chance.integers(0, n_lists, n_lists)] for _ in range(_N_COVERAGE_RESAMPLES))
    resampled = np.array([coverage(drawn, n_items) for drawn in draws])
    value = coverage(top, n_items)
    low, high = np.clip(np.quantile(resampled - resampled.mean(), (0.025, 0.975)) + value, 0, 1)
    return Interval(value, min(float(low), value), max(float(high), value))


def bootstrap(quality: Quality, statistic: Statistic, *, seed: int = 0) -> Interval:
    """The statistic with the interval that resampling listeners gives."""
    above, below = statistic(quality)
    return _interval(float(above.sum() / below.sum()), _resampled(above, below, seed))


def paired_bootstrap(ours: Quality, theirs: Quality, statistic: Statistic, *, seed: int = 0) -> Interval:
    """How much higher ``ours`` is than ``theirs`` on the same listeners, resampled together."""
    (above, below), (their_above, their_below) = statistic(ours), statistic(theirs)
    if len(above) != len(their_above):
        raise ValueError(f"the same listeners are needed on both sides, got {len(above)} and {len(their_above)}")
    difference = above.sum() / below.sum() - their_above.sum() / their_below.sum()
    resampled = _resampled(above, below, seed) - _resampled(their_above, their_below, seed)
    return _interval(float(difference), resampled)


def _resampled(above: Doubles, below: Doubles, seed: int) -> Doubles:
    chance, n = np.random.default_rng(seed), len(above)
    values = np.empty(_N_RESAMPLES)
    for start in range(0, _N_RESAMPLES, _CHUNK):
        drawn = chance.integers(0, n, (min(_CHUNK, _N_RESAMPLES - start), n))
        values[start : start + len(drawn)] = above[drawn].sum(1) / below[drawn].sum(1)
    return values


def _interval(value: float, resampled: Doubles) -> Interval:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(value, float(low), float(high))
