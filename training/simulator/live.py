"""Plays a history back as messages, in the order in which it happened and at a rate of one's own choice."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

import numpy as np

from core.ports.clock import Clock
from models.event import Event
from models.job import Job
from training.simulator.as_events import events_of
from training.simulator.bulk import Plan
from training.simulator.happenings import Happenings
from training.simulator.history import histories
from training.simulator.world import Indices, World

# As many publishes wait for their confirms at a time.
_AT_ONCE = 256
_TICK_S = 0.005
_US = 1_000_000

Progress = Callable[[int, int], None]
"""Called with how many events and jobs are published."""


class Publisher(Protocol):
    """Puts messages on the queues. Every method may raise ``DependencyUnavailable``."""

    async def publish_event(self, event: Event) -> None:
        """Return once the broker has confirmed it."""

    async def submit_job(self, job: Job) -> None:
        """Mark the job queued and publish it, as the backend does when a member comes."""


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """What happened, in order of time: events, and the members whose sessions begin, with microseconds."""

    happenings: Happenings
    session_members: Indices
    session_at_us: Indices

    @classmethod
    def of(cls, world: World, plan: Plan) -> "Replay":
        """Of all members of the plan: as columns, 50 bytes an event."""
        pasts = list(histories(world, plan.n_members, plan.n_days, plan.seed, first_member=plan.first_member))
        found = Happenings.joined(past.happenings for past in pasts)
        members = np.concatenate([past.session_members for past in pasts])
        at_s = np.concatenate([past.session_at_s for past in pasts])
        at_us = np.round(at_s * _US).astype(np.int64)
        order = np.lexsort((members, at_us))
        return cls(found.only(np.lexsort((found.members, found.at_us))), members[order], at_us[order])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """``events_per_s`` are published, ``max_events`` at the most; without ``with_jobs`` nobody asks for anything."""

    events_per_s: float
    max_events: int | None = None
    with_jobs: bool = True


async def replay(
    found: Replay,
    plan: Plan,
    prefix: str,
    publisher: Publisher,
    clock: Clock,
    pace: Pace,
    progress: Progress = lambda _events, _jobs: None,
) -> tuple[int, int]:
    """How many events and jobs were published; raises what ``publisher`` raises.

    Events keep the instants at which they happened and their ids: played twice, an event is one. A member asks when a
    session begins, at the instant of publishing, and anew each time.
    """
    n_events = len(found.happenings) if pace.max_events is None else min(pace.max_events, len(found.happenings))
    began_s, n_told, n_asked = clock.monotonic_s(), 0, 0
    while n_told < n_events:
        due = min(int((clock.monotonic_s() - began_s) * pace.events_per_s) + 1, n_told + _AT_ONCE, n_events)
        if due == n_told:
            await asyncio.sleep(_TICK_S)
            continue
        some = found.happenings.only(np.arange(n_told, due))
        if pace.with_jobs:
            n_coming = int(np.searchsorted(found.session_at_us, some.at_us[-1], "right"))
            members = found.session_members[n_asked:n_coming].tolist()
            await asyncio.gather(*(publisher.submit_job(_job(member_id, clock)) for member_id in members))
            n_asked = n_coming
        await asyncio.gather(*(publisher.publish_event(event) for event in events_of(some, plan.start, prefix)))
        n_told = due
        progress(n_told, n_asked)
    return n_told, n_asked


def _job(member_id: int, clock: Clock) -> Job:
    now_ns = int(clock.now().timestamp() * _US) * 1000
    return Job(job_id=str(uuid4()), member_id=member_id, source="login", requested_at_ns=now_ns)
