"""The two commands of a fresh machine, and what continuous integration runs: said, not run, by ``make --dry-run``."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A checkout without a virtual environment."""
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "requirements-tools.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(directory: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        ["make", f"PYTHON={sys.executable}", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_make_alone_says_what_can_be_made(fresh: Path) -> None:
    said = make(fresh)
    assert all(f"make {target} " in said for target in ("demo", "test", "test-long", "soak", "lint", "pins"))


def test_a_fresh_machine_gets_an_environment_before_the_demo(fresh: Path) -> None:
    said = make(fresh, "--dry-run", "demo")
    order = [said.index(step) for step in ("-m venv .venv", "-r requirements.txt", "main.py demo")]
    assert order == sorted(order)
    assert "requirements-dev.txt" not in said


def test_the_demo_is_given_the_tracks(fresh: Path) -> None:
    assert 'main.py demo --tracks "my songs.csv"' in make(fresh, "--dry-run", "demo", "TRACKS=my songs.csv")
    assert "--tracks" not in make(fresh, "--dry-run", "demo")


def test_the_dashboard_has_a_worker_of_its_own_unless_an_api_is_named(fresh: Path) -> None:
    (fresh / "dashboard").mkdir()
    shutil.copy(ROOT / "dashboard" / "requirements.txt", fresh / "dashboard")
    assert "main.py dashboard --port 8600 --python" in make(fresh, "--dry-run", "dashboard", "PORT=8600")
    over_another = make(fresh, "--dry-run", "dashboard", "API_URL=http://api.example:8000")
    assert 'API_URL="http://api.example:8000" .venv/dashboard/bin/python -m streamlit run' in over_another
    assert "main.py" not in over_another


def test_more_than_serving_needs_is_installed_where_it_is_asked_for(fresh: Path) -> None:
    shutil.copy(ROOT / "requirements-train.txt", fresh)
    said = make(fresh, "--dry-run", "install", "WITH=train")
    assert said.index("-r requirements.txt") < said.index("-r requirements-train.txt") < said.index("main.py --help")
    assert "requirements-train.txt" not in make(fresh, "--dry-run", "install")
    assert "No rule to make target" in make(fresh, "--dry-run", "install", "WITH=nothing")


def test_the_tests_get_the_development_requirements(fresh: Path) -> None:
    said = make(fresh, "--dry-run", "test")
    assert said.index("-r requirements-dev.txt") < said.index("-m pytest")


def test_the_long_runs_are_modules_of_the_tests(fresh: Path) -> None:
    for target, module in (("soak", "tests.soak"), ("chaos", "tests.chaos rounds"), ("fuzz", "tests.fuzz.run")):
        said = make(fresh, "--dry-run", target)
        assert said.index("-r requirements-dev.txt") < said.index(f"-m {module}")


def test_the_bill_of_materials_is_made_of_the_serving_pins_by_a_tool_in_an_environment_of_its_own(fresh: Path) -> None:
    said = make(fresh, "--dry-run", "sbom")
    order = [
        said.index(step) for step in ("-m venv .venv/pins", "--require-hashes -r requirements-tools.txt", "cyclonedx")
    ]
    assert order == sorted(order)
    assert "cyclonedx-py requirements requirements.txt" in said


def test_the_pages_are_built_strictly_and_served_on_this_machine_alone(fresh: Path) -> None:
    shutil.copy(ROOT / "requirements-docs.txt", fresh)
    said = make(fresh, "--dry-run", "docs")
    assert said.index("-r requirements-docs.txt") < said.index("-m mkdocs build --strict")
    assert "-m mkdocs serve --dev-addr 127.0.0.1:" in make(fresh, "--dry-run", "docs-serve")


def test_pins_are_compiled_with_their_hashes(fresh: Path) -> None:
    compiled = [line for line in make(fresh, "--dry-run", "pins").splitlines() if "pip compile" in line]
    pinned = {path.name for path in ROOT.glob("requirements*.txt")} | {"dashboard/requirements.txt"}
    assert {line.rpartition(" ")[2] for line in compiled} == pinned
    assert all("--generate-hashes" in line for line in compiled)


def test_secrets_are_made_by_chance_for_all_that_compose_asks_for_and_never_overwritten(fresh: Path) -> None:
    make(fresh, "secrets")
    written = (fresh / ".env").read_text(encoding="utf-8")
    values = dict(line.split("=") for line in written.splitlines())
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+_PASSWORD):-", compose)) | {"API_KEY"} == values.keys()
    assert len(set(values.values())) == len(values)
    # letters and digits, which stand in URLs as they are
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in values.values())
    assert (fresh / ".env").stat().st_mode & 0o077 == 0
    assert "left as it is" in make(fresh, "secrets")
    assert (fresh / ".env").read_text(encoding="utf-8") == written


def test_an_installed_environment_is_only_brought_up_to_date_when_the_pins_change(fresh: Path) -> None:
    (fresh / ".venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", ".serving", ".development"):
        (fresh / ".venv" / name).touch()
    assert "install" not in make(fresh, "--dry-run", "test")
    os.utime(fresh / ".venv" / ".development", (0, 0))
    assert "install" in make(fresh, "--dry-run", "test")


def test_a_python_that_is_too_old_is_refused_before_anything_is_installed(fresh: Path) -> None:
    old = fresh / "old-python"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2); $2"\n')
    old.chmod(0o755)
    assert "Python 3.11 or newer is needed, this is 3.9" in make(fresh, f"PYTHON={old}", ".venv/bin/python")
    assert not (fresh / ".venv").exists()


def test_ci_runs_the_checks_and_then_the_tests_and_stops_at_the_first_failure() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make ")] == ["make lint", "make test"]


def test_every_file_of_pins_is_looked_up_and_one_that_is_affected_fails_it_after_all_others(fresh: Path) -> None:
    top = {path.name for path in ROOT.glob("requirements*.txt")}
    pinned = top | {"dashboard/requirements.txt", "deploy/airflow/constraints.txt"}
    for name in top:
        shutil.copy(ROOT / name, fresh)
    tools = fresh / ".venv" / "pins" / "bin"
    tools.mkdir(parents=True)
    (fresh / ".venv" / "bin").mkdir()
    (fresh / ".venv" / "bin" / "python").touch()
    (tools / "pip-audit").write_text('#!/bin/sh\nfor file; do :; done; [ "$file" != requirements-dev.txt ]\n')
    (tools / "pip-audit").chmod(0o755)
    (fresh / ".venv" / "pins" / ".tools").touch()
    assert make(fresh, "audit", "AUDITED=requirements.txt").split() == ["requirements.txt"]
    said = make(fresh, "audit")
    assert {line for line in said.splitlines() if line in pinned} == pinned
    assert "Error" in said
