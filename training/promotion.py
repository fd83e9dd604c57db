"""Whether a newly fitted version may take the place of the active one: both judged on what neither was fitted on.

Held out is what came last, where instants are known: what members first did anything with after a cut, of members who
were there before. What they had before and came back to is no question: a stored model may have seen it.
Where they are not, it is a seeded share of each listener's items. The new version's recipe (its parameters, chosen by
itself) sees only the rest, and so does what it is fitted by here; on everything it is fitted afterwards. Where it is
not better than the active version's recipe beyond noise, that one stays, and only the data are new.

Who stands for the active version depends on what that has seen. Where its data ended before the cut, it is asked as it
is stored and served: then data that went bad since count against the new one. The cut is put where they ended if
enough came since. Else the stored model has seen the answers, and would win by memory alone: its recipe is fitted on
the same rest as the new one instead, so that the two differ by their recipes and by nothing else.

Members like more of what they are shown, and the active version chose what they were shown: likes of those items would
speak for it whatever it is worth. So both are judged by what a listener liked of items that were not recommended to
them, and neither may list the others (on such bias: Schnabel et al., "Recommendations as treatments", 2016; leaving
out what was shown needs no propensities, which lists without chance do not have).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from core.collaborative import Floats, Indices, Likes
from core.evaluation import Interval, Quality, mean_of, paired_bootstrap
from core.fitted_collaborative import FittedCollaborative
from core.ports.arrays import Ids
from core.splits import Mask, Split, hold_out_per_user
from training.fusion_choice import K, Scorer, quality_of
from training.observations import MIN_ITEMS, Observed, Tell
from training.recipe import Asked, Recipe, means_of
from training.tuning import is_beyond_noise

MEASURES = ("recall", "ndcg")
_SHOWN = {"recall": f"Recall@{K}", "ndcg": f"NDCG@{K}"}
_LATE_SHARE = 0.2
# Fewer say nothing: the interval would hold any difference.
_MIN_ASKED = 50

ShownTo = Callable[[Sequence[int]], Mapping[int, Collection[int]]]
"""The ids of the items that members, by id, were recommended lately; who is not there was recommended nothing."""

Contender = Literal["as it is stored", "its recipe, fitted anew", "the default recipe with its mixture"]


@dataclass(frozen=True, slots=True)
class ActiveVersion:
    """The version in force; ``fitted`` is None where it cannot be read: it serves nobody, and any other is better.

    ``recipe`` is None where it is not known, ``until_s`` where no instant of its data is.
    """

    version: str
    fitted: FittedCollaborative | None
    recipe: Recipe | None = None
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Holdout:
    """What is held out; ``cut_s`` is the instant after which it came, or None where it is a share of each list."""

    split: Split
    cut_s: float | None

    def __str__(self) -> str:
        if self.cut_s is None:
            return "a seeded fifth of each listener's items (too few instants are known)"
        return f"what was liked after {datetime.fromtimestamp(self.cut_s, UTC):%Y-%m-%d %H:%M} UTC"


def hold_out(observed: Observed, active_until_s: float | None, *, seed: int) -> Holdout:
    """By time where enough listeners have items on both sides of a cut, else by a share of each listener's items."""
    known = observed.first_s[np.isfinite(observed.first_s)]
    cuts = [float(np.quantile(known, 1 - _LATE_SHARE))] if len(known) else []
    if active_until_s is not None:
        cuts = [max(active_until_s, *cuts), *cuts] if cuts else []
    for cut_s in cuts:
        split = _split_at(observed, cut_s)
        if _n_asked(observed, split) >= _MIN_ASKED:
            return Holdout(split, cut_s)
    return Holdout(hold_out_per_user(observed.data, share=_LATE_SHARE, min_pairs=MIN_ITEMS, seed=seed), None)


def _split_at(observed: Observed, cut_s: float) -> Split:
    """What nobody knows the instant of counts as known before."""
    late, users = observed.first_s > cut_s, observed.data.users
    n_before = np.bincount(users[~late], minlength=len(observed.data.user_ids))
    targets = late & (n_before[users] >= MIN_ITEMS)
    return Split(~late, ~late & np.isin(users, users[targets]), targets)


def _n_asked(observed: Observed, split: Split) -> int:
    return len(np.unique(observed.data.users[split.targets]))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both versions on the same listeners; ``differences`` are new minus active, with 95 % paired bootstrap intervals.

    Where no version is in force that can be read there is nothing to compare with: ``contender`` is None then, and
    ``active`` empty.
    """

    held_out: str
    n_listeners: int
    active_version: str | None
    contender: Contender | None
    new: Mapping[str, float]
    active: Mapping[str, float]
    differences: Mapping[str, Interval]

    @property
    def worse_in(self) -> list[str]:
        """Measures in which the new version is worse beyond what may be chance."""
        return [name for name, difference in self.differences.items() if difference.high < 0]

    @property
    def reason(self) -> str:
        """The verdict, with its figures."""
        if self.active_version is None:
            return "no version was in force"
        if self.contender is None:
            return f"{self.active_version}, which was in force, cannot be read"
        figures = "; ".join(self._figures())
        verdict = "worse than" if self.worse_in else "not worse than"
        return f"{verdict} {self.active_version} ({self.contender}) on {self.n_listeners} listeners: {figures}"

    def _figures(self) -> Iterator[str]:
        for name in self.worse_in or self.differences:
            gain = self.differences[name]
            yield (
                f"{_SHOWN[name]} {self.new[name]:.4f} against {self.active[name]:.4f}, "
                f"difference {gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
            )

    def metrics(self) -> Iterator[tuple[str, float]]:
        """As numbers by name, to be kept beside the model."""
        yield "holdout_listeners", float(self.n_listeners)
        for name, value in self.new.items():
            yield f"holdout_{name}", value
        for name, gain in self.differences.items():
            yield f"holdout_{name}_of_active", self.active[name]
            yield f"holdout_{name}_gain", gain.value
            yield f"holdout_{name}_gain_low", gain.low
            yield f"holdout_{name}_gain_high", gain.high


def nothing_shown(_member_ids: Sequence[int]) -> Mapping[int, Collection[int]]:
    """A ``ShownTo`` where nothing was recommended, or nobody knows what."""
    return {}


class Trial:
    """What was held out, asked of models that were fitted on the rest; each recipe is fitted once."""

    def __init__(
        self,
        observed: Observed,
        holdout: Holdout,
        *,
        seed: int,
        tell: Tell = lambda _: None,
        shown_to: ShownTo = nothing_shown,
    ) -> None:
        self._observed, self._holdout, self._seed, self._tell = observed, holdout, seed, tell
        self._asked, self._held_out = _asked(observed, holdout, shown_to)
        self._known: dict[Recipe, Quality] = {}
        tell(f"judging by {self._held_out}: {np.count_nonzero(self._asked.targets.counts)} listeners")

    def settled(self, chosen: Recipe, active: ActiveVersion | None) -> Recipe:
        """The active version's recipe, unless ``chosen`` is better than that beyond noise on what is held out.

        ``chosen`` is the best of many on a split at random, which holds what members were led to by recommendations and
        what they came back to. So it may have won by luck or by that, and would change from fit to fit.
        """
        before = active.recipe if active and active.fitted else None
        if before is None or before == chosen:
            return chosen
        ours, theirs = self._quality(chosen), self._quality(before)
        if is_beyond_noise(ours.recall + ours.ndcg - theirs.recall - theirs.ndcg):
            return chosen
        self._tell(f"the active version's recipe stays: {chosen} is not better beyond noise")
        return before

    def compare(self, recipe: Recipe, active: ActiveVersion | None) -> Comparison:
        """``recipe`` beside what stands for the active version."""
        ours = self._quality(recipe)
        version = active.version if active else None
        comparison = Comparison(self._held_out, len(ours.recall), version, None, dict(means_of("", ours)), {}, {})
        if active is None or active.fitted is None:
            return comparison
        contender, theirs_by = _standing_for(active, active.fitted, self._holdout)
        if contender == "as it is stored":
            stored = AsStored(active.fitted, self._observed.item_ids)
            theirs = _quality(stored, theirs_by, self._asked)
        else:
            theirs = self._quality(theirs_by)
        return replace(
            comparison,
            contender=contender,
            active=dict(means_of("", theirs)),
            differences={name: paired_bootstrap(ours, theirs, mean_of(name), seed=self._seed) for name in MEASURES},
        )

    def _quality(self, recipe: Recipe) -> Quality:
        if recipe not in self._known:
            self._tell("fitting without what is held out")
            model = recipe.fitted(self._observed, self._holdout.split.train, seed=self._seed)
            self._known[recipe] = _quality(model, recipe, self._asked)
        return self._known[recipe]


def _asked(observed: Observed, holdout: Holdout, shown_to: ShownTo) -> tuple[Asked, str]:
    """Listeners asked for what they had not been shown, if that leaves enough of them; and what that is in words."""
    asked = Asked.of(observed, observed.data, holdout.split)
    member_ids = [int(observed.data.user_ids[user]) for user in asked.users.tolist()]
    shown = shown_to(member_ids)
    unshown = asked.passing_over([_among(observed.item_ids, shown.get(each, ())) for each in member_ids])
    n_left_out = len(asked.targets.items) - len(unshown.targets.items)
    if np.count_nonzero(unshown.targets.counts) >= min(_MIN_ASKED, asked.targets.n_rows):
        note = f", but the {n_left_out:,} of {len(asked.targets.items):,} likes of items that had been recommended"
        return unshown, f"{holdout}{note if n_left_out else ''}"
    return asked, f"{holdout}, of items that had been recommended too, for too few likes are of others"


def _among(item_ids: Ids, wanted: Collection[int]) -> Indices:
    """The places of those of ``wanted`` that are there, int64 (k,)."""
    return np.flatnonzero(np.isin(item_ids, np.fromiter(wanted, np.int64, len(wanted))))


def _standing_for(active: ActiveVersion, fitted: FittedCollaborative, holdout: Holdout) -> tuple[Contender, Recipe]:
    known = active.recipe or Recipe(weights=fitted.weights)
    if holdout.cut_s is not None and active.until_s is not None and active.until_s <= holdout.cut_s:
        return "as it is stored", known
    return ("its recipe, fitted anew" if active.recipe else "the default recipe with its mixture"), known


def _quality(model: Scorer, recipe: Recipe, asked: Asked) -> Quality:
    return quality_of(asked.candidates(model), asked.targets, recipe.weights)


class AsStored:
    """A stored model over the items of today: what it does not know has no score, as in serving."""

    def __init__(self, fitted: FittedCollaborative, item_ids: Ids) -> None:
        self._model = fitted.model
        self._places, self._known = _places(fitted.item_ids, item_ids)

    def scores(self, likes: Likes) -> Floats:
        """Of every item of today, float32 (n_rows, n_items); NaN where it knows neither the item nor any like."""
        known = self._known[likes.items]
        starts = np.concatenate([[0], np.cumsum(known)])[likes.starts].astype(np.int64)
        translated = Likes(starts, self._places[likes.items[known]], likes.weights[known])
        scores = np.full((likes.n_rows, len(self._known)), np.nan, np.float32)
        rows = np.flatnonzero(translated.counts)
        found = self._model.scores(translated)
        scores[np.ix_(rows, np.flatnonzero(self._known))] = found[np.ix_(rows, self._places[self._known])]
        return scores


def _places(stored: Ids, today: Ids) -> tuple[Indices, Mask]:
    """Where each item of today stands in what is stored, and whether it does."""
    places = np.minimum(np.searchsorted(stored, today), len(stored) - 1)
    return places, stored[places] == today
