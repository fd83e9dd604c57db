"""The page that newcomers follow is followed, command by command, in a fresh copy of the repository."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from config.settings import Settings
from tests.support.debian_packages import can_install, install
from tests.support.shell_pages import Block, blocks, differs, run_blocks

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "getting-started.md"
PROGRAM = ("api", "commands", "config", "core", "migrations", "models", "services", "training", "workers")
FILES = ("Makefile", "main.py", "requirements.txt")


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """The program alone, and the environment at hand where `make install` would make one.

    Its recipe runs all the same: pip finds each pin of requirements.txt there already, or fails, for it may download
    nothing. What this leaves out is making the environment, and a minute of downloads: they are tried by hand on a
    fresh clone, as the page says at its end.
    """
    for name in PROGRAM:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (tmp_path / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    return tmp_path


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """No setting of this machine, and a port that is free."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return {"HTTP_PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1", "PIP_NO_INDEX": "1"}


@pytest.mark.timeout(180)
def test_the_getting_started_does_what_it_says(fresh: Path, embedded: dict[str, str]) -> None:
    if shutil.which("curl") is None and (not can_install() or install(["curl"])):
        pytest.skip("curl is missing, which the page uses")
    found = blocks(PAGE.read_text(encoding="utf-8"))
    printed = run_blocks(found, fresh, embedded, timeout_s=170)
    differences = [differs(each.expected, out) for each, out in zip(found, printed, strict=True) if each.expected]
    assert len(differences) >= 7
    assert [each for each in differences if each] == []
    assert (fresh / ".venv" / ".serving").exists()
    left = {path.name for path in fresh.iterdir()} - {*PROGRAM, *FILES, ".venv"}
    assert left == set()


def test_an_install_that_would_have_to_download_is_seen(fresh: Path, embedded: dict[str, str]) -> None:
    pins = fresh / "requirements.txt"
    first, _, rest = pins.read_text(encoding="utf-8").partition("==")
    pins.write_text(f"{first}==0.0.0.{rest}", encoding="utf-8")
    with pytest.raises(AssertionError, match="No matching distribution"):
        run_blocks([Block("make install\n", None)], fresh, embedded, timeout_s=60)
    assert not (fresh / ".venv" / ".serving").exists()


def test_the_page_is_read_as_it_is_written() -> None:
    page = "# A\n\n```shell\none\n```\n\n```text\n1\n```\n\nWords.\n\n```shell\ntwo\n```\n\n```python\nno\n```\n"
    assert blocks(page) == [Block("one\n", "1\n"), Block("two\n", None)]


def test_a_page_that_says_something_else_is_found() -> None:
    assert differs("a ... c\n", "a b c\n") == ""
    assert differs("one\n...\nthree (3)\n", "one\nthree (3)\n") == ""
    assert differs('{"a":\n1}\n', '{"a": 1}\n') == ""
    assert differs("a ... c\n", "a b c d\n") != ""
    assert "233 is gone" in differs("233 is gone\n", "it is still there\n")


def test_the_shell_stops_at_the_first_command_that_fails_and_leaves_nothing_running(tmp_path: Path) -> None:
    found = [Block("sleep 300 & echo $! >pid\n", None), Block("false\n", None), Block("touch reached\n", None)]
    with pytest.raises(AssertionError):
        run_blocks(found, tmp_path, {}, timeout_s=20)
    assert not (tmp_path / "reached").exists()
    pid = (tmp_path / "pid").read_text(encoding="utf-8").strip()
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout
    assert state.strip()[:1] in ("", "Z")


def test_what_blocks_print_is_told_apart_and_variables_last(tmp_path: Path) -> None:
    found = [Block("a=1\necho $a\n", "1\n"), Block("echo $((a + 1))\n", "2\n")]
    assert [out.strip() for out in run_blocks(found, tmp_path, {}, timeout_s=20)] == ["1", "2"]
