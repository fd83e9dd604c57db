"""How members listen by themselves over some days: sessions, what is chosen in them, and what comes of it.

Everything about a member is drawn from generators of their own, so that a listener does not depend on how many others
there are. What takes long is done for a group of members at once; groups are always the same, whatever is asked for,
since a matrix product may differ in its last bit with the size of the matrix.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.simulator.happenings import Happenings
from training.simulator.reacting import GAP_S, N_DRAWS, Mask, Played, Reactions, react, told
from training.simulator.tastes import Tastes
from training.simulator.world import Doubles, Floats, Indices, World

GROUP_SIZE = 64
DAY_S = 86_400.0

_HISTORY = 1
_CELLS_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """``happenings`` of a group of members, and when their sessions began: ids and seconds, both (n_sessions,)."""

    happenings: Happenings
    session_members: Indices
    session_at_s: Doubles


def histories(
    world: World, n_members: int, n_days: int, seed: int, *, first_member: int = 1, first_group: int = 0
) -> Iterator[Past]:
    """Group by group; ``first_group`` leaves out as many as are there already."""
    for start in range(first_group * GROUP_SIZE, n_members, GROUP_SIZE):
        ids = np.arange(first_member + start, first_member + start + GROUP_SIZE, dtype=np.int64)
        yield _Group(Tastes.of(world, ids, seed), n_days, seed).past(min(GROUP_SIZE, n_members - start))


@dataclass(frozen=True, slots=True, eq=False)
class _Plays:
    """Of all members of a group: ``rows`` (n,) says whose, ``sessions`` (n,) in which; ``draws`` (n, many)."""

    rows: Indices
    sessions: Indices
    session_rows: Indices
    session_at_s: Doubles
    session_slots: Doubles
    draws: Doubles


class _Group:
    """A whole group is played through, and cut at the end."""

    def __init__(self, tastes: Tastes, n_days: int, seed: int) -> None:
        self._tastes, self._world, self._known = tastes, tastes.world, tastes.world.assumptions
        self._n_days, self._seed = n_days, seed

    def past(self, n_members: int) -> Past:
        """Of the first ``n_members``."""
        plays = self._drawn()
        items, is_repeat, affinity = self._chosen(plays)
        reactions = react(affinity, self._world.lengths_s[items], plays.draws[:, -N_DRAWS:], self._known)
        happenings = self._happenings(plays, items, is_repeat, reactions)
        ids, last = self._tastes.member_ids[plays.session_rows], self._tastes.member_ids[n_members - 1]
        return Past(happenings.only(happenings.members <= last), ids[ids <= last], plays.session_at_s[ids <= last])

    # --- when ---

    def _drawn(self) -> _Plays:
        """All that is drawn from the members' own generators."""
        n_draws = 4 + N_DRAWS
        own = [self._sessions(member_id) for member_id in self._tastes.member_ids.tolist()]
        lengths = np.concatenate([plays for _, _, plays, _ in own])
        session_rows = np.repeat(np.arange(len(own)), [len(at_s) for at_s, _, _, _ in own])
        sessions = np.repeat(np.arange(len(lengths)), lengths)
        draws = [chance.random((int(plays.sum()), n_draws)) for _, _, plays, chance in own]
        return _Plays(
            rows=session_rows[sessions],
            sessions=sessions,
            session_rows=session_rows,
            session_at_s=np.concatenate([at_s for at_s, _, _, _ in own]),
            session_slots=np.concatenate([slots for _, slots, _, _ in own]),
            draws=np.concatenate(draws),
        )

    def _sessions(self, member_id: int) -> tuple[Doubles, Doubles, Indices, np.random.Generator]:
        """Seconds at which sessions begin, in order; a number that decides on the interest; and how many plays."""
        known, chance = self._known, np.random.default_rng([self._seed, _HISTORY, member_id])
        rate = known.sessions_per_day * np.exp(known.sessions_spread * chance.standard_normal())
        shift_h = known.early_or_late_h * chance.standard_normal()
        n = int(chance.poisson(rate * self._n_days))
        hours, days = np.cumsum(known.hours), chance.integers(0, self._n_days, n)
        hour = np.searchsorted(hours, chance.random(n) * hours[-1], "right") + chance.random(n)
        at_s = (days + ((hour + shift_h) % 24) / 24) * DAY_S
        return (
            np.sort(at_s),
            chance.random(n),
            chance.geometric(1 / known.plays_per_session, n).astype(np.int64),
            chance,
        )

    # --- what ---

    def _chosen(self, plays: _Plays) -> tuple[Indices, Mask, Floats]:
        """Which item each play is of, whether it was asked for again, and how much it suits."""
        charted, chosen, again, which = plays.draws[:, :4].T
        days = plays.session_at_s[plays.sessions] / DAY_S
        items = self._by_interest(plays, chosen)
        chart = np.cumsum(self._world.appeal)
        items = np.where(charted < self._known.chart_share, _places(chart, chosen), items)
        affinity = self._tastes.affinity(plays.rows, items, days)
        sources = self._sources(plays.rows, which)
        wants = (again < self._known.repeat_share) & (sources < np.arange(len(sources)))
        wants &= affinity[sources] >= self._known.min_repeat_affinity
        sources = _followed(np.where(wants, sources, np.arange(len(sources))))
        items = items[sources]
        return items, wants, self._tastes.affinity(plays.rows, items, days)

    def _sources(self, rows: Indices, which: Doubles) -> Indices:
        """For each play an earlier one of the same member, or itself where it is the first."""
        starts = np.searchsorted(rows, rows, "left")
        return np.asarray(starts + (which * (np.arange(len(rows)) - starts)).astype(np.int64), np.int64)

    def _by_interest(self, plays: _Plays, chosen: Doubles) -> Indices:
        """A session follows one interest: near it, and popular."""
        slots = (plays.session_slots[:, None] >= np.cumsum(self._tastes.shares, axis=1)[plays.session_rows]).sum(axis=1)
        slots = np.minimum(slots, self._tastes.shares.shape[1] - 1)
        lives = self._tastes.lives_at(plays.session_rows, plays.session_at_s / DAY_S)
        # Rounding may point beyond the last of the interests.
        slots = np.minimum(slots, (lives >= 0).sum(axis=1) - 1)
        life = lives[np.arange(len(slots)), slots]
        n_slots, n_lives = self._tastes.begins.shape[1:]
        keys = ((plays.session_rows * n_slots + slots) * n_lives + life)[plays.sessions]
        interests, of_play = np.unique(keys, return_inverse=True)
        centres = self._tastes.centres.reshape(-1, self._world.places.shape[1])[interests]
        return self._drawn_near(centres, of_play, chosen)

    def _drawn_near(
        self, centres: np.ndarray[tuple[int, ...], np.dtype[np.float32]], of_play: Indices, chosen: Doubles
    ) -> Indices:
        world, items = self._world, np.empty(len(of_play), np.int64)
        order = np.argsort(of_play, kind="stable")
        bounds = np.searchsorted(of_play[order], np.arange(len(centres) + 1))
        lengths = (world.places**2).sum(axis=1)
        step = max(_CELLS_AT_ONCE // len(lengths), 1)
        for start in range(0, len(centres), step):
            part = centres[start : start + step]
            squared = np.maximum((part**2).sum(axis=1)[:, None] + lengths - 2 * (part @ world.places.T), 0)
            appeal = world.affinities(self._known.choice_sharpness * squared) * world.appeal
            sums = np.cumsum(appeal, axis=1)
            for row, own in enumerate(sums, start):
                mine = order[bounds[row] : bounds[row + 1]]
                items[mine] = _places(own, chosen[mine])
        return items

    # --- what comes of it ---

    def _happenings(self, plays: _Plays, items: Indices, is_repeat: Mask, found: Reactions) -> Happenings:
        heard_s = np.cumsum(found.seconds + GAP_S)
        starts = np.searchsorted(plays.sessions, plays.sessions, "left")
        at_s = plays.session_at_s[plays.sessions] + heard_s - (heard_s - found.seconds - GAP_S)[starts]
        played = Played(self._tastes.member_ids[plays.rows], self._world.ids[items], at_s, is_repeat)
        liked = played.liked(found)
        return told(played, found, liked, *self._taken_back(plays, items, liked, at_s))

    def _taken_back(self, plays: _Plays, items: Indices, liked: Indices, at_s: Doubles) -> tuple[Indices, Doubles]:
        """Likes that no longer suit at the end, and when between they were taken back."""
        now = self._tastes.affinity(plays.rows[liked], items[liked], float(self._n_days))
        draws = plays.draws[liked, -1]
        rate = self._known.unlike_rate * (1 - now)
        taken = liked[draws < rate]
        share = draws[draws < rate] / rate[draws < rate]
        return taken, at_s[taken] + 2 + share * np.maximum(self._n_days * DAY_S - at_s[taken], 0)


def _places(sums: Doubles, draws: Doubles) -> Indices:
    """Where draws from [0, 1) fall among cumulated weights."""
    return np.asarray(np.minimum(np.searchsorted(sums, draws * sums[-1], "right"), len(sums) - 1), np.int64)


def _followed(sources: Indices) -> Indices:
    """What was played because of an earlier play, which was because of an earlier one, and so on: the first."""
    while not np.array_equal(further := sources[sources], sources):
        sources = further
    return sources
