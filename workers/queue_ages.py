"""How long the oldest message of a queue can have waited at most, told without taking any from it.

A look that took the head and put it back would mark it as redelivered, count towards a quorum queue's delivery limit,
and hide it from those who would handle it. What follows from the order of a queue costs nothing: whatever waits now
came after all that was taken before, hence after the newest time of request among them; and after the last look that
found the queue empty.
"""

from dataclasses import dataclass

from core.ports.clock import Clock

_NS_PER_S = 1_000_000_000


@dataclass(slots=True)
class _Seen:
    """All that waits came after this, in seconds since the epoch; None: nothing is known yet."""

    after_s: float | None = None

    def later(self, at_s: float) -> None:
        self.after_s = at_s if self.after_s is None else max(self.after_s, at_s)


class QueueAges:
    """Upper bounds of ages by the name of the route, as this worker alone can know them.

    Each worker's bound is right, so the least of all workers' is the one to go by. Of a queue from which this worker
    never took anything, and that it never saw empty, the time since its first look is told. What a worker that died
    left behind comes back to the head of the queue, and may be older until it is taken.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def taken(self, route: str, asked_at_ns: int | None) -> None:
        """A message was taken that was asked for then; None where it does not say."""
        if asked_at_ns is not None:
            # From a clock that is ahead of this one: it cannot have come after it was taken.
            self._of(route).later(min(asked_at_ns / _NS_PER_S, self._now_s()))

    def oldest_s(self, route: str, n_waiting: int) -> float:
        """Of ``n_waiting`` messages that were just seen in the queue; 0 where there are none."""
        seen, now_s = self._of(route), self._now_s()
        if n_waiting == 0 or seen.after_s is None:
            seen.later(now_s)
            return 0.0
        return max(0.0, now_s - seen.after_s)

    def _of(self, route: str) -> _Seen:
        return self._seen.setdefault(route, _Seen())

    def _now_s(self) -> float:
        return self._clock.now().timestamp()
