"""What a listener's likes and reactions weigh now: what they are drawn to, and what they are averse to.

Two tastes steer: the long-term one, in which years count, and the recent one, of weeks. Recent interests get a share of
the whole, as far as there are enough of them to speak of.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from core.ports.arrays import Floats
from core.profile import ProfileConfig, interest_weights
from models.catalogue import Interest, Listener

_ENOUGH = 3.0
"""Recent interests, in likes of today, that get the whole of their share."""
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Taste:
    """``liked``: weight by item, above 0; ``averse``: how strongly an item speaks against what is like it, up to 1."""

    liked: Mapping[int, float]
    averse: Mapping[int, float]


def taste_of(listener: Listener, now_s: float, config: ProfileConfig) -> Taste:
    """What all of it weighs at ``now_s`` (seconds since the epoch)."""
    long_term = _summed(listener, interest_weights(listener.interests, now_s, config), now_s, config.half_life_days)
    recent = _recent(listener, now_s, config)
    liked = {item: weight for item, weight in long_term.items() if weight > 0 and item not in listener.disliked_ids}
    averse = {item: min(1.0, -weight) for item, weight in long_term.items() if weight < 0}
    return Taste(liked=_mixed(liked, recent, config.recent_share), averse=averse)


def _summed(
    listener: Listener, interests: Mapping[int, float], now_s: float, half_life_days: float
) -> Mapping[int, float]:
    weights = defaultdict(float, interests)
    for each in listener.reactions:
        weights[each.item_id] += each.weight * _decay(each, now_s, half_life_days)
    return weights


def _recent(listener: Listener, now_s: float, config: ProfileConfig) -> Mapping[int, float]:
    """Weight by item of what has a date, by the recent half-life; what is left against an item counts for nothing."""
    dated = [each for each in listener.interests[: config.max_likes] if each.occurred_at_s is not None]
    weights: defaultdict[int, float] = defaultdict(float)
    for each in (*dated, *listener.reactions):
        weights[each.item_id] += each.weight * _decay(each, now_s, config.recent_half_life_days)
    return {item: weight for item, weight in weights.items() if weight > 0}


def _mixed(long_term: Mapping[int, float], recent: Mapping[int, float], share: float) -> Mapping[int, float]:
    """As much as ``long_term`` in all, ``share`` of it given out by what is ``recent``."""
    recent = {item: weight for item, weight in recent.items() if item in long_term}
    n_recent, n_long = sum(recent.values()), sum(long_term.values())
    share *= min(1.0, n_recent / _ENOUGH)
    if not share:
        return long_term
    return {
        item: (1 - share) * weight + share * n_long * recent.get(item, 0.0) / n_recent
        for item, weight in long_term.items()
    }


def _decay(interest: Interest, now_s: float, half_life_days: float) -> float:
    if interest.occurred_at_s is None:
        return 1.0
    return float(0.5 ** (max(0.0, now_s - interest.occurred_at_s) / _DAY_S / half_life_days))


def with_dates(interests: Iterable[Interest], known: Sequence[Interest]) -> tuple[Interest, ...]:
    """``interests``, newest first: one that has no date gets that of the same item among ``known``, if it has any."""
    at_s = {each.item_id: each.occurred_at_s for each in known}
    dated = [
        Interest(each.item_id, each.weight, at_s.get(each.item_id)) if each.occurred_at_s is None else each
        for each in interests
    ]
    return tuple(
        sorted(dated, key=lambda each: -inf if each.occurred_at_s is None else each.occurred_at_s, reverse=True)
    )


def aversion_factors(vectors: Floats, averse_vectors: Floats, weights: Floats, strength: float) -> Floats:
    """What is left of the score of each item, float32 (n,), above ``1 - strength`` and up to 1, which is all of it.

    ``vectors`` (n, dim) and ``averse_vectors`` (m, dim): unit vectors; ``weights`` (m,) up to 1. An item loses by the
    square of the cosine to what it is most like of these: kinship, not a word in common, pulls it down.
    """
    if not len(averse_vectors) or not len(vectors):
        return np.ones(len(vectors), dtype=np.float32)
    likeness = np.square(np.clip(vectors @ averse_vectors.T, 0.0, 1.0)) * weights
    return np.asarray(1 - strength * likeness.max(axis=1), dtype=np.float32)


def drift(then: Floats, now: Floats) -> float:
    """1 less the cosine of two directions (dim,), 0 to 2; 0 where either is nothing at all."""
    lengths = float(np.linalg.norm(then) * np.linalg.norm(now))
    return 1.0 - float(then @ now) / lengths if lengths else 0.0
