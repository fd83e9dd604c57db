"""Runs a scheduled task as a command of ours, in a process of its own: it cannot hold up or take down the worker."""

import asyncio
import shutil
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from core.schedule import TaskOutcome
from workers.scheduler import Ended

MAIN = Path(__file__).parent.parent / "main.py"

COMMANDS: Mapping[str, Sequence[str]] = {
    "embed": ("embed",),
    "clean_up": ("clean-up",),
    "refresh": ("refresh",),
    "fit": ("fit",),
    "digest": ("digest", "--tell"),
}

_LINES_KEPT = 20
_STOP_S = 10.0
_LONGEST_LINE = 1 << 20


async def run_command(task: str, *, command: Sequence[str] | None = None) -> Ended:
    """Run the task's command with this process' environment; its last lines are the detail.

    What it logs is logged. Cancelled, it asks the command to end, and kills it where it does not within ten seconds.
    Where this process dies the command ends too: what it left undone the next leader begins again.
    """
    argv = command or (sys.executable, str(MAIN), *COMMANDS[task])
    process = await asyncio.create_subprocess_exec(
        *_dies_with_parent(),
        *argv,
        limit=_LONGEST_LINE,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    lines: deque[str] = deque(maxlen=_LINES_KEPT)
    try:
        await asyncio.gather(_keep(process.stdout, lines), _pass_on(process.stderr, lines))
        code = await process.wait()
    except BaseException:
        await _stop(process)
        raise
    outcome = TaskOutcome.FAILED if code else TaskOutcome.SUCCEEDED
    return Ended(outcome, "\n".join([*lines, f"exit code {code}"] if code else lines))


def _dies_with_parent() -> Sequence[str]:
    """Of util-linux, and so on every Debian; elsewhere a command outlives its worker, and ends by itself."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM") if setpriv else ()


async def _keep(stream: asyncio.StreamReader | None, lines: deque[str]) -> None:
    async for text in _lines(stream):
        lines.append(text)


async def _pass_on(stream: asyncio.StreamReader | None, lines: deque[str]) -> None:
    """Log lines are JSON where no terminal is; the others tell people what is done, or what is wrong."""
    async for text in _lines(stream):
        sys.stderr.write(f"{text}\n")
        if not text.startswith("{"):
            lines.append(text)


async def _lines(stream: asyncio.StreamReader | None) -> AsyncIterator[str]:
    while stream and (chunk := await stream.readline()):
        if text := chunk.decode(errors="replace").strip():
            yield text


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
