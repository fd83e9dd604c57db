"""Writes what members did by themselves into the worker's table of events, many at a time.

One group of members is one transaction. What is in the table already says where an earlier run ended, however it ended:
the last group of it is written again, which changes nothing.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from core.errors import ConfigurationError
from models.event import Event
from training.simulator.as_events import PREFIX, events_of, member_of, run_prefix
from training.simulator.history import GROUP_SIZE, histories
from training.simulator.world import World

Progress = Callable[[int, int], None]
"""Called with how many members are done, and how many events this run has written."""


class SimulatedEvents(Protocol):
    """The worker's table of events, for those that nobody made. Ids are in the order of their characters.

    Every method may raise ``DependencyUnavailable``.
    """

    async def last_id(self, prefix: str) -> str | None:
        """The highest id of those that begin with ``prefix``."""

    async def count(self, prefix: str) -> int:
        """How many there are whose ids begin with ``prefix``."""

    async def other_member(self, prefix: str, first: int, last: int) -> int | None:
        """One of the members from ``first`` to ``last`` who has an event whose id does not begin with ``prefix``."""

    async def add(self, events: Sequence[Event]) -> None:
        """Insert, in one transaction, those whose ids are not there yet."""

    async def remove(self, prefix: str) -> int:
        """Delete those whose ids begin with ``prefix``, and say how many there were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which members, over how many days; ``start`` is the first day's midnight in UTC."""

    n_members: int
    n_days: int
    seed: int
    start: datetime
    first_member: int = 1

    def prefix(self, world: World) -> str:
        """Of the ids of this plan's events; more members are the same and further ones, and the date is left open."""
        return run_prefix(world, self.n_days, self.seed, self.first_member)


@dataclass(frozen=True, slots=True)
class Written:
    """``n_written`` by this run, those that were there already among them; ``n_events`` are there in all."""

    n_members_before: int
    n_written: int
    n_events: int


async def write_histories(
    world: World, plan: Plan, table: SimulatedEvents, progress: Progress = lambda _members, _events: None
) -> Written:
    """Raises ``ConfigurationError`` where the members have events that are not of this plan."""
    prefix = plan.prefix(world)
    await _refuse_others(table, prefix, plan)
    last = await table.last_id(prefix)
    first_group = (member_of(last) - plan.first_member) // GROUP_SIZE if last else 0
    n_before, n_written = min(first_group * GROUP_SIZE, plan.n_members), 0
    progress(n_before, 0)
    groups = _groups(world, plan, prefix, first_group)
    # The next group is made while one is written.
    following = asyncio.create_task(asyncio.to_thread(next, groups, None))
    try:
        done = n_before
        while (events := await following) is not None:
            following = asyncio.create_task(asyncio.to_thread(next, groups, None))
            await table.add(events)
            n_written += len(events)
            done = min(done + GROUP_SIZE, plan.n_members)
            progress(done, n_written)
    finally:
        # A thread that is at work cannot be stopped; it is waited for, so that nothing runs on behind.
        await asyncio.wait([following])
    return Written(n_before, n_written, await table.count(prefix))


def _groups(world: World, plan: Plan, prefix: str, first_group: int) -> Iterator[list[Event]]:
    found = histories(
        world,
        plan.n_members,
        plan.n_days,
        plan.seed,
        first_member=plan.first_member,
        first_group=first_group,
    )
    for past in found:
        yield events_of(past.happenings, plan.start, prefix)


async def _refuse_others(table: SimulatedEvents, prefix: str, plan: Plan) -> None:
    first, last = plan.first_member, plan.first_member + plan.n_members - 1
    if (found := await table.other_member(prefix, first, last)) is not None:
        raise ConfigurationError(
            f"member {found} has events that are not of this simulation: give another --first-member, or take earlier "
            f"simulated events away with --remove (their ids begin with {PREFIX})"
        )
