"""Latent tastes: the truth that a recommender never sees. Seed and member id say all of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.simulator.world import Doubles, Floats, Indices, World

_N_LIVES = 4
_TASTE, _SPREAD = 0, 1
_CELLS_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Tastes:
    """Of m members, each with up to s interests at a time, each of which is replaced up to three times.

    ``begins`` float64 (m, s, 4): the day from which on it is that one's turn, infinity where there is no such interest;
    ``centres`` float32 (m, s, 4, dim); ``shares`` float64 (m, s): of a member's time, adding up to 1.
    """

    world: World
    member_ids: Indices
    begins: Doubles
    centres: Floats
    shares: Doubles

    @classmethod
    def of(cls, world: World, member_ids: Sequence[int] | Indices, seed: int) -> "Tastes":
        """A member's taste depends on the seed, the id and the catalogue alone."""
        known, chances = world.assumptions, np.cumsum(world.appeal)
        n, n_slots, dim = len(member_ids), known.max_interests, world.places.shape[1]
        begins = np.full((n, n_slots, _N_LIVES), np.inf)
        shares = np.zeros((n, n_slots))
        anchors = np.zeros((n, n_slots, _N_LIVES), np.int64)
        centres = np.empty((n, n_slots, _N_LIVES, dim), np.float32)
        spread = np.float32(known.interest_spread / np.sqrt(dim))
        for row, member_id in enumerate(np.asarray(member_ids, np.int64).tolist()):
            chance = np.random.default_rng([seed, _TASTE, member_id])
            n_own = int(chance.integers(known.min_interests, known.max_interests + 1))
            lives = chance.exponential(known.interest_life_days, (n_slots, _N_LIVES - 1))
            begins[row, :n_own, 0] = -np.inf
            begins[row, :n_own, 1:] = np.cumsum(lives[:n_own], axis=1)
            weights = chance.gamma(known.interest_evenness, size=n_slots)[:n_own]
            shares[row, :n_own] = weights / weights.sum()
            draws = chance.random((n_slots, _N_LIVES)) * chances[-1]
            anchors[row] = np.minimum(np.searchsorted(chances, draws, "right"), len(chances) - 1)
            centres[row] = chance.standard_normal(centres.shape[1:], np.float32) * spread
        centres += world.places[anchors]
        return cls(world, np.asarray(member_ids, np.int64), begins, centres, shares)

    def lives_at(self, rows: Indices, days: Doubles) -> Indices:
        """Which of its interests each slot has on that day, (n, s); -1 where the slot is not used."""
        return np.asarray((self.begins[rows] <= days[:, None, None]).sum(axis=2) - 1, np.int64)

    def affinity(self, rows: Indices, items: Indices, days: Doubles | float) -> Floats:
        """How much each member (a row) takes to an item (its place in the world) on a day, (n,), 0 to 1.

        An item that suits one interest suits: the nearest one counts.
        """
        days = np.broadcast_to(np.asarray(days, np.float64), rows.shape)
        found = np.empty(len(rows), np.float32)
        step = max(_CELLS_AT_ONCE // (self.centres.shape[1] * self.centres.shape[3]), 1)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            found[part] = self._affinity(rows[part], items[part], days[part])
        return found

    def _affinity(self, rows: Indices, items: Indices, days: Doubles) -> Floats:
        lives = self.lives_at(rows, days)
        centres = self.centres[rows[:, None], np.arange(lives.shape[1]), lives]
        offset = centres - self.world.places[items][:, None, :]
        squared = np.where(lives >= 0, np.einsum("nsd,nsd->ns", offset, offset), np.inf)
        return self.world.affinities(squared.min(axis=1))

    def affinities(self, row: int, day: float) -> Floats:
        """To every item of the world, (n_items,)."""
        items = np.arange(len(self.world.ids))
        return self.affinity(np.full(len(items), row), items, day)
