"""The forked command line of the tests is told apart from one that starts by itself by nothing but its haste."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.support.command import run_command
from tests.support.program_forks import fork_program
from tests.support.waiting import until
from tests.support.worker_process import ROOT, WorkerProcess


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        (("--help",), {}),
        (("no-such-command",), {}),
        (("result", "some-id"), {"REDIS_URL": "redis://127.0.0.1:1/0", "LOG_LEVEL": "ERROR"}),
    ],
)
async def test_it_ends_with_the_same_words_and_the_same_code(
    command: tuple[str, ...], settings: dict[str, str], tmp_path: Path
) -> None:
    environment = {"DATABASE_URL": f"sqlite:///{tmp_path / 'songs.db'}", **settings}
    assert await run_command(*command, environment=environment) == await run_command(
        *command, environment=environment, afresh=True
    )


async def test_it_has_no_environment_but_the_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_TIMEOUT_S", "no number")
    program = await fork_program(["retrieval"], {"REDIS_URL": "nonsense://"})
    _, said = await program.communicate()
    assert program.returncode == 2
    assert b"REDIS_URL must begin with" in said


async def test_signals_reach_it_and_how_it_ended_is_told() -> None:
    first, second = (WorkerProcess({}, ("api",), forked=True) for _ in range(2))
    await first.start()
    await second.start()
    assert first.pid != second.pid
    await first.kill()
    assert not first.is_running
    assert await second.terminate() == 0
    assert "http_started" in second.log
    assert "shutdown_requested" in second.log


async def test_what_is_left_running_ends_with_the_process_that_asked_for_it() -> None:
    asking = """
import asyncio, os
from tests.support.program_forks import fork_program

async def leave():
    program = await fork_program(["api"], {"HTTP_ENABLED": "false", "LOG_LEVEL": "ERROR"})
    print(program.pid, flush=True)
    os._exit(0)

asyncio.run(leave())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", asking, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    await until(lambda: _is_gone(int(out)), within_s=20)


async def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
