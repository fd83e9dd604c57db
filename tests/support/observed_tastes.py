"""Listeners with planted tastes, as ``training.observations`` would read them: no database, and the truth is known."""

from collections.abc import Sequence

import numpy as np

from core.splits import Interactions
from training.interaction_files import ItemTable
from training.item_content import content_of
from training.observations import Observed

N_ITEMS, N_TASTES, DAY_S = 120, 6, 86_400.0
BEGAN_S = 1_767_225_600.0

Pair = tuple[int, int, float]
"""Member, item, and the day on which it was liked."""


def taste_of(item: int) -> int:
    return item % N_TASTES


def listeners(n: int = 240, n_likes: int = 16, *, seed: int = 0, first: int = 0) -> list[Pair]:
    """Each likes items of one taste, one a day, and now and then another."""
    chance = np.random.default_rng(seed)
    pairs: list[Pair] = []
    for member in range(first, first + n):
        own = [item for item in range(N_ITEMS) if taste_of(item) == member % N_TASTES]
        liked = [*chance.permutation(own)[: n_likes - 2], *chance.integers(0, N_ITEMS, 2)]
        pairs += [(member, int(item), float(day)) for day, item in enumerate(dict.fromkeys(liked))]
    return pairs


def bots(n: int, day: float, *, first: int = 10_000, n_likes: int = 30) -> list[Pair]:
    """Each likes items of all tastes, the same few of each: what they tell of is not taste."""
    chance = np.random.default_rng(first)
    return [
        (first + bot, int(item), day) for bot in range(n) for item in chance.choice(N_ITEMS, n_likes, replace=False)
    ]


def observed_of(pairs: Sequence[Pair], *, timed: bool = True, n_items: int = N_ITEMS) -> Observed:
    """``pairs`` of items up to ``n_items``, whose content says nothing of taste."""
    pairs = [pair for pair in pairs if pair[1] < n_items]
    member_ids = sorted({member for member, _, _ in pairs})
    places = {member: place for place, member in enumerate(member_ids)}
    users = np.array([places[member] for member, _, _ in pairs], np.int64)
    items = np.array([item for _, item, _ in pairs], np.int64)
    times = np.array([BEGAN_S + day * DAY_S for _, _, day in pairs]) if timed else np.full(len(pairs), -np.inf)
    names = [str(item + 1) for item in range(n_items)]
    vectors = np.random.default_rng(5).normal(size=(n_items, 8)).astype(np.float32)
    table = ItemTable(names, {"genre": ["pop"] * n_items}, {})
    return Observed(
        data=Interactions(users, items, np.ones(len(pairs)), None, [str(each) for each in member_ids], names),
        item_ids=np.arange(1, n_items + 1, dtype=np.int64),
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        creators=np.full(n_items, -1, np.int64),
        content=content_of(table, {name: place for place, name in enumerate(names)}, n_items),
        times_s=times,
        first_s=times,
    )
