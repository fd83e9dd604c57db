"""The machine's clocks."""

import time
from datetime import UTC, datetime


class SystemClock:
    """A ``Clock`` that tells the real time."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        return time.monotonic()


class StandingClock(SystemClock):
    """Stands at the instant that it was set to, for what is simulated; durations are real."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        """The instant that it stands at, aware."""
        return self._now

    def set(self, now: datetime) -> None:
        """Stand at ``now``, which must be aware."""
        self._now = now
