"""The worker with a wall clock that jumps: ``CHAOS_CLOCK`` names a file that says by how many seconds it is wrong.

Only the wall clock: the monotonic one never jumps, on any system.
"""

import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).parents[2]
_OFFSET = Path(os.environ["CHAOS_CLOCK"])
_real_time = time.time


def offset_s() -> float:
    """How wrong the clock is at this moment."""
    return float(_OFFSET.read_text() or 0)


def main() -> None:
    """Run the command line of the worker."""
    sys.path.insert(0, str(ROOT))
    time.time = lambda: _real_time() + offset_s()

    from main import app  # noqa: PLC0415 - after the clock has been changed
    from services.clock import SystemClock  # noqa: PLC0415

    def now(_: SystemClock) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=offset_s())

    setattr(SystemClock, "now", now)  # noqa: B010 - a method of a class that is not ours to derive from here
    app()


if __name__ == "__main__":
    main()
