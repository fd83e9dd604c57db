"""The command line, each command in a process of its own."""

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.worker_process import ROOT


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    out: str
    err: str


async def run_command(*command: str, environment: Mapping[str, str]) -> Outcome:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "main.py"),
        *command,
        env={**clean, "COLUMNS": "160", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Outcome(process.returncode or 0, out.decode(), err.decode())
