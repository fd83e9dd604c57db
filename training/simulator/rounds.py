"""The loop, closed: recommend, see what listeners do with it, learn, and recommend again.

Arms are sites of their own that begin with the same members, the same past and the same fit. What differs is whether a
site hears what its listeners do, with its lists and by themselves, and whether it fits again. Listeners draw the same
luck in every arm, and whatever they do, their tastes go the same way.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import numpy as np

from core.errors import ConfigurationError
from core.evaluation import Interval, bootstrap_mean
from models.event import Event
from training.simulator.as_events import events_of, run_prefix
from training.simulator.happenings import Happenings
from training.simulator.history import DAY_S, histories
from training.simulator.reacting import react_to_lists
from training.simulator.tastes import Tastes
from training.simulator.world import Doubles, Indices, World

Tell = Callable[[str], None]

ROUND_DAYS = 3
# When lists are looked at: in the evening.
_SHOWN_AT_S = 19 * 3600.0


class Site(Protocol):
    """A recommender with its own database. Every other method may raise ``DependencyUnavailable``."""

    def go_to(self, now: datetime) -> None:
        """It is that instant for the site from now on: a run comes out alike whenever it is made, and how fast."""

    async def hear(self, events: Sequence[Event]) -> None:
        """Keep what members did."""

    async def refit(self) -> str:
        """Fit on all that was heard, put it in force unless it is worse, and say what became of it.

        Raises ``ConfigurationError`` where too little was heard.
        """

    async def recommend(self, member_id: int, n: int) -> Sequence[int]:
        """The ids of at most ``n`` items, best first, as the member would be shown them."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A site, and what of the loop is closed in it."""

    name: str
    site: Site
    hears: bool
    refits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopPlan:
    """``n_days`` of listening by themselves come first; then rounds of ``round_days``, in which a list stays.

    Members come to it every evening, and go on to listen by themselves; it holds ``k``. ``start`` is the first day's
    midnight in UTC.
    """

    n_members: int
    n_rounds: int
    seed: int
    start: datetime
    n_days: int = 10
    round_days: int = ROUND_DAYS
    k: int = 20


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """What happened in one arm: arrays float64 (n_rounds, n_members).

    ``satisfaction`` is the mean true affinity of a list, 0 to 1; ``freshness`` the share of it that the member has not
    played before.
    """

    satisfaction: Doubles
    freshness: Doubles


@dataclass(frozen=True, slots=True, eq=False)
class LoopReport:
    """The course of every arm, by name, the last of which is compared with the others; ``best`` (n_rounds,).

    ``best`` is the mean of the lists that somebody would make who knows the truth.
    """

    plan: LoopPlan
    courses: Mapping[str, Course]
    best: Doubles

    def gain_over(self, name: str) -> Interval:
        """How much higher the satisfaction of the last arm is at the end, member by member."""
        last = list(self.courses.values())[-1]
        return bootstrap_mean(last.satisfaction[-1] - self.courses[name].satisfaction[-1])

    def growth(self, name: str) -> Interval:
        """From the first round to the last, member by member."""
        found = self.courses[name].satisfaction
        return bootstrap_mean(found[-1] - found[0])

    def __iter__(self) -> Iterator[str]:
        """As lines for people."""
        names = list(self.courses)
        yield f"true satisfaction of {self.plan.n_members} members with lists of {self.plan.k}, round by round:"
        for name, course in self.courses.items():
            means = " ".join(f"{value:.3f}" for value in course.satisfaction.mean(axis=1).tolist())
            yield f"  {name}: {means}; fresh at the end {course.freshness[-1].mean():.0%}"
        yield f"  the best there is: {' '.join(f'{value:.3f}' for value in self.best.tolist())}"
        for name in names:
            yield f"{name}, last round above the first: {_shown(self.growth(name))}"
        for name in names[:-1]:
            yield f"last round, {names[-1]} above {name}: {_shown(self.gain_over(name))}"

    def document(self) -> dict[str, object]:
        """The means of every round, for a chart."""
        arms = {
            name: {
                "satisfaction": course.satisfaction.mean(axis=1).round(5).tolist(),
                "freshness": course.freshness.mean(axis=1).round(5).tolist(),
            }
            for name, course in self.courses.items()
        }
        return {
            "seed": self.plan.seed,
            "members": self.plan.n_members,
            "arms": arms,
            "best": self.best.round(5).tolist(),
        }

    def write(self, path: Path) -> None:
        """The document as JSON."""
        path.write_text(json.dumps(self.document(), indent=2) + "\n", encoding="utf-8")


def _shown(found: Interval) -> str:
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


async def run_rounds(world: World, plan: LoopPlan, arms: Sequence[Arm], tell: Tell = lambda _: None) -> LoopReport:
    """Raises what sites raise."""
    member_ids = np.arange(1, plan.n_members + 1, dtype=np.int64)
    tastes = Tastes.of(world, member_ids, plan.seed)
    prefix = run_prefix(world, "loop", plan.n_days, plan.seed)
    n_days = plan.n_days + plan.n_rounds * plan.round_days
    alone = Happenings.joined(each.happenings for each in histories(world, plan.n_members, n_days, plan.seed))
    tell(f"{len(_within(alone, 0, plan.n_days))} events of {plan.n_days} days before the first round")
    courses, best = {}, np.empty(0)
    for arm in arms:
        listening = _Listening(world, plan, tastes, alone, arm, prefix, tell)
        await listening.begin()
        courses[arm.name] = await listening.through()
    for place in range(plan.n_rounds):
        best = np.append(best, _best(tastes, plan, place))
    return LoopReport(plan, courses, best)


class _Listening:
    """One arm from its first round to its last."""

    def __init__(
        self,
        world: World,
        plan: LoopPlan,
        tastes: Tastes,
        alone: Happenings,
        arm: Arm,
        prefix: str,
        tell: Tell,
    ) -> None:
        self._world, self._plan, self._tastes, self._alone, self._arm = world, plan, tastes, alone, arm
        self._prefix, self._tell = prefix, tell
        self._n_told = np.zeros(plan.n_members, np.int64)
        self._played = np.zeros((plan.n_members, len(world.ids)), np.bool_)

    async def begin(self) -> None:
        """Every arm learns from the past alike."""
        await self._hear(_within(self._alone, 0, self._plan.n_days))
        self._arm.site.go_to(_midnight_of(self._plan, 0))
        self._tell(f"{self._arm.name}: {await self._arm.site.refit()}")

    async def through(self) -> Course:
        """Round by round."""
        satisfaction, freshness = [], []
        for place in range(self._plan.n_rounds):
            self._arm.site.go_to(_midnight_of(self._plan, place) + timedelta(seconds=_SHOWN_AT_S))
            lists = await self._lists()
            satisfied, fresh = self._judged(lists, place)
            satisfaction.append(satisfied)
            freshness.append(fresh)
            found = self._happening(lists, place)
            if self._arm.hears:
                await self._hear(found)
            else:
                self._remember(found)
            self._tell(f"{self._arm.name}: round {place + 1}, true satisfaction {satisfied.mean():.3f}")
            self._arm.site.go_to(_midnight_of(self._plan, place + 1))
            if self._arm.refits:
                self._tell(f"{self._arm.name}: {await self._arm.site.refit()}")
        return Course(np.array(satisfaction), np.array(freshness))

    def _happening(self, lists: Indices, place: int) -> Happenings:
        """All that members do in a round."""
        first = place * self._plan.round_days
        found = []
        for evening in range(first, first + self._plan.round_days):
            at_s = (self._plan.n_days + evening) * DAY_S + _SHOWN_AT_S
            found.append(react_to_lists(self._tastes, lists, at_s, evening, self._plan.seed))
        day = _first_day(self._plan, place)
        return Happenings.merged([*found, _within(self._alone, day, day + self._plan.round_days)])

    async def _lists(self) -> Indices:
        """Places in the world, (n_members, k), -1 where a list has ended."""
        lists = np.full((self._plan.n_members, self._plan.k), -1, np.int64)
        for row, member_id in enumerate(self._tastes.member_ids.tolist()):
            found = np.array(await self._arm.site.recommend(member_id, self._plan.k), np.int64)
            lists[row, : len(found)] = _places_of(self._world, found)
        return lists

    def _judged(self, lists: Indices, place: int) -> tuple[Doubles, Doubles]:
        """An empty place satisfies nobody."""
        n_members, length = lists.shape
        rows, items = np.repeat(np.arange(n_members), length), np.maximum(lists.ravel(), 0)
        filled = (lists >= 0).astype(np.float64)
        affinity = self._tastes.affinity(rows, items, _day(self._plan, place)).reshape(lists.shape)
        fresh = ~self._played[rows, items].reshape(lists.shape)
        return (affinity * filled).mean(axis=1), (fresh * filled).mean(axis=1)

    async def _hear(self, found: Happenings) -> None:
        """Events are numbered on from the member's last."""
        self._remember(found)
        rows = found.members - 1
        numbered = found.numbered_from(self._n_told[rows])
        self._n_told += np.bincount(rows, minlength=self._plan.n_members)
        await self._arm.site.hear(events_of(numbered, self._plan.start, self._prefix))

    def _remember(self, found: Happenings) -> None:
        self._played[found.members - 1, _places_of(self._world, found.items)] = True


def _best(tastes: Tastes, plan: LoopPlan, place: int) -> float:
    """The mean of the best lists there could be, whatever was played before."""
    rows = range(plan.n_members)
    tops = [np.sort(tastes.affinities(row, _day(plan, place)))[-plan.k :].mean() for row in rows]
    return float(np.mean(tops))


def _within(found: Happenings, first_day: int, end_day: int) -> Happenings:
    """From the midnight of one day to that of another, numbered anew."""
    days = found.at_us / 1e6 / DAY_S
    return Happenings.merged([found.only((days >= first_day) & (days < end_day))])


def _midnight_of(plan: LoopPlan, place: int) -> datetime:
    """When a round begins."""
    return plan.start + timedelta(days=_first_day(plan, place))


def _first_day(plan: LoopPlan, place: int) -> int:
    """Of a round, counted from the plan's start."""
    return plan.n_days + plan.round_days * place


def _day(plan: LoopPlan, place: int) -> float:
    """When a list is first looked at."""
    return _first_day(plan, place) + _SHOWN_AT_S / DAY_S


def _places_of(world: World, item_ids: Indices) -> Indices:
    """Raises ``ConfigurationError`` where one is not in the world that tastes were made over."""
    places = np.minimum(np.searchsorted(world.ids, item_ids), len(world.ids) - 1)
    if len(item_ids) and not np.array_equal(world.ids[places], item_ids):
        raise ConfigurationError("an item was recommended that the catalogue did not have when the simulation began")
    return np.asarray(places, np.int64)
