"""How long the oldest message of a queue can have waited at most, told without taking any from it.

A look that took the head and put it back would mark it as redelivered, count towards a quorum queue's delivery limit,
and hide it from those who would handle it. What follows from the order of a queue costs nothing: whatever waits now
came after all that was taken before, hence after the newest time of request among them; and after the last look that
found the queue empty.
"""

from core.ports.clock import Clock

_NS_PER_S = 1_000_000_000


class QueueAges:
    """Upper bounds of ages by the name of the route, as this worker alone can know them.

    Whoever has neither taken a message that says when it was asked for, nor seen the queue empty, knows nothing and
    tells nothing. Every bound that is told is right, so the least of all workers' is the closest. Right means: no
    message waits for longer than this since it came into the queue, but for two kinds. What a worker that died had in
    hand comes back to the head of the queue, and may be older until it is taken; and where a publisher's clock is
    ahead, the bound is too low by as much at the most.

    Durations are measured on the clock that never goes back: a step of this worker's own time changes no bound.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # All that waits came later, in seconds of the clock that never goes back.
        self._after_s: dict[str, float] = {}

    def taken(self, route: str, asked_at_ns: int | None) -> None:
        """A message was taken that was asked for then; None where it does not say."""
        if asked_at_ns is not None:
            # From a clock that is ahead of this one: it cannot have come after it was taken.
            age_s = max(0.0, self._clock.now().timestamp() - asked_at_ns / _NS_PER_S)
            self._later(route, self._clock.monotonic_s() - age_s)

    def look_begins(self) -> float:
        """The moment before queues are looked at, for ``oldest_s``: what comes in meanwhile is not overlooked."""
        return self._clock.monotonic_s()

    def oldest_s(self, route: str, n_waiting: int, *, began_s: float) -> float | None:
        """Of ``n_waiting`` messages that a look found which began then; 0 where there are none, None: not known."""
        if n_waiting == 0:
            self._later(route, began_s)
            return 0.0
        after_s = self._after_s.get(route)
        return None if after_s is None else self._clock.monotonic_s() - after_s

    def _later(self, route: str, after_s: float) -> None:
        self._after_s[route] = max(after_s, self._after_s.get(route, after_s))
