"""The command that serves the dashboard, where the page cannot be; that it can is a browser's to see."""

import os
import socket
import stat
from pathlib import Path

import pytest

from tests.support.command import run_command, run_here
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


@pytest.mark.parametrize("taken", ["HTTP_PORT", "--port"])
async def test_a_port_that_is_taken_is_told_before_anything_begins(taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ports = {"HTTP_PORT": str(free_port()), "--port": str(free_port()), taken: str(port)}
        command = ("dashboard", *SMALL, "--port", ports["--port"])
        outcome = await run_here(*command, environment={"HTTP_PORT": ports["HTTP_PORT"]})
    assert (outcome.code, outcome.out) == (1, "")
    assert f"port {port} of 127.0.0.1: Address already in use" in outcome.err
    assert f"{taken}={port + 1}" in outcome.err.replace("--port ", "--port=")


async def test_page_and_api_cannot_have_one_port() -> None:
    port = str(free_port())
    outcome = await run_here("dashboard", *SMALL, "--port", port, environment={"HTTP_PORT": port})
    assert (outcome.code, outcome.out) == (1, "")
    assert "the page cannot be served" in outcome.err


async def test_streamlit_that_is_missing_is_told_before_anything_begins(tmp_path: Path) -> None:
    without = tmp_path / "python"
    without.write_text("#!/bin/sh\nexit 9\n", encoding="utf-8")
    without.chmod(without.stat().st_mode | stat.S_IXUSR)
    ports = {"HTTP_PORT": str(free_port())}
    outcome = await run_here("dashboard", *SMALL, "--python", str(without), environment=ports)
    assert (outcome.code, outcome.out) == (1, "")
    assert "`make dashboard` installs it" in outcome.err
