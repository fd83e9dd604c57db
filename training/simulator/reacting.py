"""What a listener makes of plays and of a recommended list, given how much the items truly suit."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.simulator.assumptions import Assumptions
from training.simulator.happenings import DISLIKE, LIKE, PLAY, REPEAT, SKIP, UNLIKE, Happenings
from training.simulator.tastes import Tastes
from training.simulator.world import Doubles, Floats, Indices

_LISTS = 2
_VERDICT_AFTER_S = 1.0

Mask = npt.NDArray[np.bool_]

GAP_S = 4.0
"""Between one play and the next."""

N_DRAWS = 6
"""Numbers between 0 and 1 that a reaction takes."""


@dataclass(frozen=True, slots=True, eq=False)
class Reactions:
    """To n plays: ``seconds`` float64 listened; of ``completed`` and ``skipped`` one at the most; and verdicts."""

    seconds: Doubles
    completed: Mask
    skipped: Mask
    liked: Mask
    disliked: Mask


def react(affinity: Floats, lengths_s: Doubles, draws: Doubles, known: Assumptions) -> Reactions:
    """``draws`` are uniform on [0, 1), of shape (n, N_DRAWS); the others (n,)."""
    hears_out, leaves_soon, how_long, likes, dislikes, _ = draws.T
    completed = hears_out < known.completed_floor + known.completed_slope * affinity
    skipped = ~completed & (leaves_soon < known.skipped_share)
    soon_s = np.minimum(-np.log1p(-how_long) * known.skip_mean_s, np.minimum(known.skip_within_s, lengths_s))
    late_s = known.skip_within_s + how_long * np.maximum(lengths_s - known.skip_within_s, 0)
    return Reactions(
        seconds=np.where(completed, lengths_s, np.where(skipped, soon_s, np.minimum(late_s, lengths_s))),
        completed=completed,
        skipped=skipped,
        liked=completed & (likes < known.like_rate * affinity**2),
        disliked=skipped & (dislikes < known.dislike_rate * (1 - affinity) ** 2),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """n plays: ids of members and items, seconds since the first midnight, and whether it was asked for again."""

    members: Indices
    items: Indices
    ended_at_s: Doubles
    is_repeat: Mask

    def liked(self, found: Reactions) -> Indices:
        """The places of plays that end in a like: one for a pair of member and item."""
        places = np.flatnonzero(found.liked & ~self.is_repeat)
        _, first = np.unique(np.stack([self.members[places], self.items[places]]), axis=1, return_index=True)
        return np.asarray(places[np.sort(first)], np.int64)


def told(played: Played, found: Reactions, liked: Indices, unliked: Indices, unliked_at_s: Doubles) -> Happenings:
    """An event for each play, and verdicts a moment after it; ``liked`` and ``unliked`` are places of plays."""
    disliked = np.flatnonzero(found.disliked & ~played.is_repeat)
    verdicts = np.concatenate([liked, unliked, disliked])
    kinds = np.where(found.skipped, SKIP, np.where(played.is_repeat & found.completed, REPEAT, PLAY))
    at_s = played.ended_at_s + _VERDICT_AFTER_S
    return Happenings.in_order(
        members=np.concatenate([played.members, played.members[verdicts]]),
        items=np.concatenate([played.items, played.items[verdicts]]),
        kinds=np.concatenate([kinds, np.repeat((LIKE, UNLIKE, DISLIKE), (len(liked), len(unliked), len(disliked)))]),
        seconds=np.concatenate([found.seconds, np.full(len(verdicts), np.nan)]),
        completed=np.concatenate([found.completed, np.full(len(verdicts), -1)]),
        at_s=np.concatenate([played.ended_at_s, at_s[liked], unliked_at_s, at_s[disliked]]),
    )


def react_to_lists(tastes: Tastes, lists: Indices, at_s: float, n_round: int, seed: int) -> Happenings:
    """What members do with lists, (n_members, k) places in the world, -1 where a list has ended, shown at ``at_s``.

    The further down, the seldomer a place is looked at; what is looked at is tried the likelier the better it suits;
    and a play is a play. The same seed, member and round draw the same, whatever is on the list.
    """
    world, known, (n_members, length) = tastes.world, tastes.world.assumptions, lists.shape
    draws = np.stack(
        [
            np.random.default_rng([seed, _LISTS, member_id, n_round]).random((length, 2 + N_DRAWS))
            for member_id in tastes.member_ids.tolist()
        ]
    ).reshape(n_members * length, -1)
    rows, items = np.repeat(np.arange(n_members), length), np.maximum(lists.ravel(), 0)
    affinity = tastes.affinity(rows, items, at_s / 86_400)
    looked = draws[:, 0] < np.tile(np.arange(1, length + 1) ** -known.position_exponent, n_members)
    tried = looked & (draws[:, 1] < known.try_floor + known.try_slope * affinity) & (lists.ravel() >= 0)
    rows, items, affinity = rows[tried], items[tried], affinity[tried]
    found = react(affinity, world.lengths_s[items], draws[tried, 2:], known)
    spent_s = np.cumsum(found.seconds + GAP_S)
    before_s = np.concatenate([[0.0], spent_s])[np.searchsorted(rows, rows, "left")]
    played = Played(tastes.member_ids[rows], world.ids[items], at_s + spent_s - before_s, np.zeros(len(rows), np.bool_))
    nothing = np.zeros(0, np.int64)
    return told(played, found, played.liked(found), nothing, np.zeros(0))
