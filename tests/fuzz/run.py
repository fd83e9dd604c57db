"""``make fuzz``: fuzz for FUZZ_MINUTES (10) with FUZZ_SEED (any), and note the counts in docs/reliability.md."""

import asyncio
import logging
import os
import secrets
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from tests.fuzz.fuzzer import Fuzzer, FuzzFailed, TargetCount
from tests.fuzz.targets import open_targets

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
HEADING = "## Fuzzing"
_TABLE = "| run | minutes | seed | target | inputs | kinds of outcome | slowest |\n|---|---|---|---|---|---|---|\n"


def rows_of(counts: Mapping[str, TargetCount], *, minutes: float, seed: int, day: str) -> str:
    """A row of the page's table for each target."""
    return "".join(
        f"| {day} | {minutes:g} | {seed} | {name} | {count.n_inputs:,} | {count.n_outcomes:,} "
        f"| {count.slowest_s * 1000:.0f} ms |\n"
        for name, count in counts.items()
    )


def with_rows(page: str, rows: str) -> str:
    """``page`` with ``rows`` at the end of its table of fuzz runs, which is made where there is none."""
    if _TABLE not in page:
        return f"{page.rstrip()}\n\n{HEADING}\n\n{_TABLE}{rows}"
    before, _, after = page.partition(_TABLE)
    lines = after.splitlines(keepends=True)
    n_rows = next((n for n, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return f"{before}{_TABLE}{''.join(lines[:n_rows])}{rows}{''.join(lines[n_rows:])}"


async def fuzz(minutes: float, seed: int) -> Mapping[str, TargetCount]:
    """What became of the inputs; raises ``FuzzFailed``."""
    until_s = time.monotonic() + 60 * minutes
    with TemporaryDirectory(prefix="songs-ai-fuzz-") as directory:
        async with open_targets(Path(directory)) as targets:
            fuzzer = Fuzzer(targets, seed)
            await fuzzer.run(lambda: time.monotonic() < until_s)
            return fuzzer.counts


def main() -> int:
    """The exit code: 1 where a promise broke."""
    minutes = float(os.environ.get("FUZZ_MINUTES") or 10)
    seed = int(os.environ.get("FUZZ_SEED") or secrets.randbits(32))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.stdout.write(f"fuzzing for {minutes:g} minutes with FUZZ_SEED={seed}\n")
    try:
        counts = asyncio.run(fuzz(minutes, seed))
    except FuzzFailed as failure:
        sys.stdout.write(f"{failure}\n")
        return 1
    rows = rows_of(counts, minutes=minutes, seed=seed, day=f"{datetime.now(UTC):%Y-%m-%d}")
    PAGE.write_text(with_rows(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    sys.stdout.write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
