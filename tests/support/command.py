"""The command line: each command in a process of its own, or in this one, which is soonest."""

import asyncio
import os
import re
import sys
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from structlog.testing import capture_logs
from typer.testing import CliRunner

from main import app
from tests.support.program_forks import fork_program
from tests.support.worker_process import ROOT


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    out: str
    err: str


async def run_command(*command: str, environment: Mapping[str, str], afresh: bool = False) -> Outcome:
    """In a process that is forked from one that has imported everything; ``afresh``: that imports it by itself."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    env = {**clean, "COLUMNS": "160", **environment}
    process = await (_start(command, env) if afresh else fork_program(command, env))
    out, err = await process.communicate()
    return Outcome(process.returncode or 0, out.decode(), err.decode())


def _start(command: Sequence[str], env: Mapping[str, str]) -> Coroutine[Any, Any, asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    return asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "main.py"), *command, env=env, stdout=pipe, stderr=pipe
    )


async def run_here(*command: str, environment: Mapping[str, str]) -> Outcome:
    """Run it in a thread of this process, which has everything imported already; its log lines go nowhere."""
    hidden = {name: None for name in os.environ if name.startswith("OPENAI_")}
    env = {**hidden, "COLUMNS": "160", **environment}
    with capture_logs(), patch("commands.running.configure_logging"):
        ended = await asyncio.to_thread(CliRunner().invoke, app, list(command), env=env)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return Outcome(ended.exit_code, ended.stdout, ended.stderr)


async def completed(line: str, *, environment: Mapping[str, str]) -> list[str]:
    """What bash is offered where the line ends with what is typed so far."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_SONGS_AI_COMPLETE": "complete_bash"}
    outcome = await run_here(environment={**environment, **words})
    assert not outcome.err
    return outcome.out.split()


def keys_told(command: str, part: int = 0) -> set[str]:
    """Of its JSON, as its page names them in the ``part`` of the command's row, between semicolons."""
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    [row] = re.findall(rf"^\|[^|]*`{command}`[^|]*\|(.*)\|$", page.partition("## For machines")[2], re.MULTILINE)
    named: list[str] = re.findall(r"`([a-z_0-9]+)`", re.sub(r"\(.*?\)", "", row.split(";")[part]))
    return set(named)
