"""Divides interactions into what a model may see and what it is asked for; the same seed divides alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.collaborative import Doubles, Indices

Mask = npt.NDArray[np.bool_]

# Of fewer users than these nothing is learnt; then users of fewer pairs are asked too.
_SOME_USERS = 50
_LEAST_PAIRS = 2


@dataclass(frozen=True, slots=True)
class Interactions:
    """Distinct pairs: ``users`` and ``items`` int64 (n,), indices of ``user_ids`` and ``item_ids``.

    ``weights`` float64 (n,), above 0; ``times_s`` float64 (n,), seconds since 1970, or None where they are unknown.
    ``confidences`` float32 (n,), above 0 and about 1, is what models are fit with; None is 1 for every pair.
    """

    users: Indices
    items: Indices
    weights: Doubles
    times_s: Doubles | None
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    confidences: npt.NDArray[np.float32] | None = None

    def only(self, mask: Mask) -> "Interactions":
        """The pairs that ``mask`` keeps, of the same users and items."""
        times = None if self.times_s is None else self.times_s[mask]
        confidences = None if self.confidences is None else self.confidences[mask]
        kept = (self.users[mask], self.items[mask], self.weights[mask])
        return Interactions(*kept, times, self.user_ids, self.item_ids, confidences)


@dataclass(frozen=True, slots=True)
class Split:
    """Masks over the interactions: ``train`` is fit on, ``inputs`` is what is told of those asked for, ``targets``."""

    train: Mask
    inputs: Mask
    targets: Mask


def hold_out_per_user(data: Interactions, *, share: float = 0.2, min_pairs: int = 5, seed: int = 0) -> Split:
    """Known listeners: a random share of each user's items is asked for, of users with at least ``min_pairs``."""
    targets = _share_of_each_user(data, share, seed) & _with_enough(data, min_pairs)
    return Split(~targets, ~targets & np.isin(data.users, data.users[targets]), targets)


def hold_out_users(
    data: Interactions, *, share: float = 0.2, asked: float = 0.2, min_pairs: int = 5, seed: int = 0
) -> Split:
    """New listeners: a share of the users is kept from training, and a part of their items asked for."""
    candidates = np.unique(data.users[_with_enough(data, min_pairs)])
    n_held = min(max(round(share * len(candidates)), 1), len(candidates))
    held = np.random.default_rng(seed).choice(candidates, n_held, replace=False)
    theirs = np.isin(data.users, held)
    targets = theirs & _share_of_each_user(data, asked, seed + 1)
    return Split(~theirs, theirs & ~targets, targets)


def hold_out_items(data: Interactions, *, share: float = 0.1, seed: int = 0) -> Split:
    """Cold items: nobody's interaction with them is in training, and they are what is asked for."""
    items = np.unique(data.items)
    n_cold = min(max(round(share * len(items)), 1), len(items))
    targets = np.isin(data.items, np.random.default_rng(seed).choice(items, n_cold, replace=False))
    return Split(~targets, ~targets & np.isin(data.users, data.users[targets]), targets)


def split_by_time(data: Interactions, *, share: float = 0.2) -> Split:
    """The last share of all interactions is asked for, of users who were there before; raises where no times are."""
    if data.times_s is None:
        raise ValueError("a split by time needs times")
    late = data.times_s > np.quantile(data.times_s, 1 - share)
    targets = late & np.isin(data.users, data.users[~late])
    return Split(~late, ~late & np.isin(data.users, data.users[targets]), targets)


def _with_enough(data: Interactions, min_pairs: int) -> Mask:
    """The pairs of users with ``min_pairs``; where few users have as many, with as many as ``_SOME_USERS`` have."""
    if not len(data.users):
        return np.zeros(0, np.bool_)
    counts = np.bincount(data.users)
    some = np.sort(counts)[::-1][:_SOME_USERS][-1]
    return np.asarray(counts[data.users] >= max(min(min_pairs, int(some)), _LEAST_PAIRS))


def _share_of_each_user(data: Interactions, share: float, seed: int) -> Mask:
    """At least one pair of each user, at most all but one; users of one pair are left whole."""
    shuffled = np.lexsort((np.random.default_rng(seed).random(len(data.users)), data.users))
    counts = np.bincount(data.users) if len(data.users) else np.zeros(0, np.int64)
    starts = np.cumsum(counts) - counts
    n_taken = np.minimum(np.maximum(np.round(share * counts), 1), counts - 1)
    taken = np.zeros(len(data.users), np.bool_)
    sorted_users = data.users[shuffled]
    taken[shuffled] = np.arange(len(shuffled)) - starts[sorted_users] < n_taken[sorted_users]
    return taken
