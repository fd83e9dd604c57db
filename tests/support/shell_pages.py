"""Pages whose shell blocks are meant to be typed one after the other, run so, with what they print held to the page."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(shell|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END = "--- end of a block ---"


@dataclass(frozen=True, slots=True)
class Block:
    """Commands of a page; ``expected`` is what they print, in which ``...`` stands for anything, or None: not said."""

    commands: str
    expected: str | None


def blocks(page: str) -> list[Block]:
    """The blocks of the page in order: each of ``shell``, with the one of ``text`` that comes right after it."""
    found = list[Block]()
    last = 0
    for fence in _BLOCK.finditer(page):
        if fence[1] == "shell":
            found.append(Block(fence[2], None))
        elif found and not page[last : fence.start()].strip():
            found[-1] = Block(found[-1].commands, fence[2])
        last = fence.end()
    return found


def run_blocks(found: Sequence[Block], directory: Path, environment: Mapping[str, str], timeout_s: float) -> list[str]:
    """What each block printed, all of them in one shell; raises ``AssertionError`` where a command failed."""
    marked = "\n".join(f"{block.commands}\nprintf '\\n%s\\n' '{_END}'" for block in found)
    script = f"set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{marked}\n"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout.split(f"\n{_END}\n")[:-1]


def differs(expected: str, printed: str) -> str:
    """How ``printed`` differs from what a page says, empty where it does not; any white space is like any other."""
    parts = [r"\s+".join(map(re.escape, part.split())) for part in expected.split("...")]
    if re.fullmatch(".*?".join(parts), printed.strip(), re.DOTALL):
        return ""
    return f"the page says:\n{expected}\nprinted was:\n{printed}"
