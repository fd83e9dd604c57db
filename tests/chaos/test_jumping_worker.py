"""The wall clock of a chaos worker is as wrong as it is told to be, at any moment, and the monotonic one never."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import contextlib, sys, time
from datetime import UTC, datetime
from pathlib import Path
from tests.chaos import jumping_worker

sys.argv = ["main.py", "--help"]
with contextlib.suppress(SystemExit):
    jumping_worker.main()

from services.clock import SystemClock

clock = SystemClock()
for offset_s in ("7200", "-7200", "0"):
    Path(sys.orig_argv[-1]).write_text(offset_s)
    wrong_s = (clock.now() - datetime.now(UTC)).total_seconds()
    wrong = (wrong_s, time.time() - datetime.now(UTC).timestamp(), clock.monotonic_s() - time.monotonic())
    print(*map(round, wrong))
"""


def test_the_clock_of_a_worker_jumps_and_comes_back(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(clock)],
        env=os.environ | {"CHAOS_CLOCK": str(clock)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert done.stdout.splitlines()[-3:] == ["7200 7200 0", "-7200 -7200 0", "0 0 0"]
