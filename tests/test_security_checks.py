"""The checks that watch over safety: bandit, the audit of pins where there is a network, and confined containers."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.app import ANSWER_TIMEOUT_S, MAX_BODY_BYTES
from api.connection import HttpLimits
from config.settings import Settings

ROOT = Path(__file__).parents[1]
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PROGRAM = ["main.py", "api", "commands", "config", "core", "migrations", "models", "services", "training", "workers"]


def bandit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bandit", "-q", "-c", "pyproject.toml", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)


# --- bandit ---


def test_bandit_finds_nothing_in_the_program() -> None:
    done = bandit("-r", *PROGRAM)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def test_bandit_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import sqlite3\n\ndef f(c, x):\n    return c.execute('SELECT * FROM t WHERE a = ' + x)\n")
    done = bandit(str(bad))
    assert done.returncode == 1
    assert "B608" in done.stdout


def test_nothing_is_excused_from_bandit_without_its_rule_being_named() -> None:
    files = [ROOT / "main.py", *(file for part in PROGRAM[1:] for file in (ROOT / part).rglob("*.py"))]
    excuses = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if "# nosec" in line]
    assert [line for line in excuses if not re.search(r"# nosec B\d{3}\b", line)] == []


# --- the hosted workflow ---


def commands(job: str) -> list[str]:
    return [line.strip() for step in JOBS[job]["steps"] for line in step.get("run", "").splitlines() if line.strip()]


def test_the_workflow_runs_the_projects_own_commands() -> None:
    assert commands("lint") == ["make lint"]
    assert commands("test")[-1] == "make test"


def test_the_workflow_audits_every_pin_strictly_and_on_a_schedule() -> None:
    assert commands("audit") == ["make audit"]
    recipe = subprocess.run(
        ["make", "--dry-run", "audit"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    ).stdout
    assert {"--strict", "--no-deps"} <= set(recipe.split())
    pins = {path.name for path in ROOT.glob("requirements*.txt")} | {"dashboard/requirements.txt"}
    assert pins <= set(recipe.replace(";", " ").split())
    assert WORKFLOW[True]["schedule"]  # YAML 1.1 reads the key "on" as true


def test_what_audits_is_pinned_too() -> None:
    pins = (ROOT / "requirements-tools.txt").read_text(encoding="utf-8")
    assert re.search(r"^pip-audit==\S+", pins, re.MULTILINE)


def test_the_workflow_may_read_and_nothing_else() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in JOBS.values())
    checkouts = [
        step for job in JOBS.values() for step in job["steps"] if step.get("uses", "").startswith("actions/checkout")
    ]
    assert len(checkouts) == len(JOBS)
    assert all(step["with"] == {"persist-credentials": False} for step in checkouts)
    assert "secrets." not in str(WORKFLOW)
    assert "pull_request_target" not in str(WORKFLOW)


def test_every_job_of_the_workflow_ends() -> None:
    assert all(job["timeout-minutes"] <= 60 for job in JOBS.values())


def test_the_workflow_tests_on_the_oldest_python_and_on_the_images() -> None:
    base = re.search(r"^FROM python:(3\.\d+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert base
    assert JOBS["test"]["strategy"]["matrix"]["python"] == ["3.11", base[1]]


# --- defaults, and containers ---


def test_http_is_bound_to_loopback_and_bounded_by_default() -> None:
    assert Settings.model_fields["http_host"].default == "127.0.0.1"
    limits = HttpLimits()
    assert max(limits.read_timeout_s, limits.write_timeout_s, limits.idle_timeout_s, ANSWER_TIMEOUT_S) <= 60
    assert max(limits.max_header_bytes, MAX_BODY_BYTES) <= 1_048_576
    assert 0 < limits.max_connections <= 1000


@pytest.mark.parametrize("name", ["worker", "migrate"])
def test_the_programs_containers_are_confined(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108 - the container's own
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert not [volume for volume in service.get("volumes", []) if "docker.sock" in str(volume)]
