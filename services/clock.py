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
