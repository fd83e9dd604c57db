"""The command that serves the dashboard, where the page cannot be; that it can is a browser's to see."""

import os
import stat
from pathlib import Path

from tests.support.command import run_command
from tests.support.private_servers import free_port

SMALL = ("--songs", "20", "--members", "1")


async def test_a_page_that_does_not_start_ends_the_command_with_a_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    environment = {"HTTP_PORT": str(free_port()), "TMPDIR": str(tmp_path)}
    outcome = await run_command("dashboard", *SMALL, "--python", str(broken), environment=environment)
    assert outcome.code == 1
    assert "the page ended with code 3" in outcome.err
    assert os.listdir(tmp_path) == ["python"]  # noqa: PTH208 - of a few names there is no waiting


async def test_a_python_that_is_not_there_is_told_before_anything_begins(tmp_path: Path) -> None:
    outcome = await run_command("dashboard", "--python", str(tmp_path / "none"), environment={})
    assert outcome.code == 2
    assert "does not exist" in outcome.err
    assert "made up" not in outcome.out
