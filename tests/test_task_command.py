"""A scheduled task is a process of its own: its last words, its end, and that it ends with whoever started it."""

import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from core.schedule import TaskOutcome
from tests.support.waiting import until
from tests.support.worker_process import ROOT
from workers.task_command import COMMANDS, MAIN, run_command


def program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def written(path: Path) -> str:
    def text() -> str:
        return path.read_text(encoding="utf-8") if path.exists() else ""

    await until(partial(asyncio.to_thread, text), within_s=20)
    return text()


async def gone(pid: int) -> None:
    async def is_gone() -> bool:
        return not is_alive(pid)

    await until(is_gone, within_s=20)


async def test_what_it_prints_is_its_detail_and_its_logs_are_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    ended = await run_command(
        "digest",
        command=program("""import sys; print("7 members"); print('{"event": "x"}', file=sys.stderr); print("bye")"""),
    )
    assert ended.outcome is TaskOutcome.SUCCEEDED
    assert ended.detail == "7 members\nbye"
    assert '{"event": "x"}' in capsys.readouterr().err


async def test_one_that_fails_says_why_and_how() -> None:
    ended = await run_command("digest", command=program("import sys; sys.exit('no such table')"))
    assert ended.outcome is TaskOutcome.FAILED
    assert ended.detail == "no such table\nexit code 1"


async def test_of_one_that_says_much_the_end_is_kept() -> None:
    ended = await run_command("digest", command=program("for i in range(100_000): print(i)"))
    assert ended.detail.splitlines() == [str(n) for n in range(99_980, 100_000)]


async def test_cancelled_it_is_asked_to_end(tmp_path: Path) -> None:
    told, pid_file = tmp_path / "told", tmp_path / "pid"
    text = f"""
import os, pathlib, signal, sys
def end(*_):
    pathlib.Path({str(told)!r}).write_text("asked")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))
signal.pause()
"""
    running = asyncio.create_task(run_command("digest", command=program(text)))
    pid = int(await written(pid_file))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert told.read_text(encoding="utf-8") == "asked"
    assert not is_alive(pid)


async def test_one_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.task_command._STOP_S", 0.2)
    pid_file = tmp_path / "pid"
    text = f"""
import os, pathlib, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))
while True: signal.pause()
"""
    running = asyncio.create_task(run_command("digest", command=program(text)))
    pid = int(await written(pid_file))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not is_alive(pid)


async def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    child = f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    parent = f"""
import asyncio, sys
from workers.task_command import run_command
asyncio.run(run_command("digest", command=(sys.executable, "-c", {child!r})))
"""
    process = await asyncio.create_subprocess_exec(*program(parent), cwd=ROOT, stdout=asyncio.subprocess.DEVNULL)
    pid = int(await written(pid_file))
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    await gone(pid)


@pytest.mark.parametrize("task", COMMANDS)
async def test_the_command_of_every_task_exists(task: str) -> None:
    assert MAIN.exists()
    ended = await run_command(task, command=(sys.executable, str(MAIN), *COMMANDS[task], "--help"))
    assert ended.outcome is TaskOutcome.SUCCEEDED, ended.detail
