"""What ends a process that serves: one JSON event where its lines are read by programs, a sentence for people."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Outcome, run_command
from tests.support.private_servers import free_port
from tests.support.worker_process import ROOT

SECRET = "hunter2"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "BROKER_URL": "memory://",
        "REDIS_URL": "memory://",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'none.db'}",
        "HTTP_PORT": str(free_port()),
    }


def last_line(outcome: Outcome) -> dict[str, Any]:
    """Every line is JSON, and nothing is on standard output."""
    assert outcome.out == ""
    *_, last = [json.loads(line) for line in outcome.err.splitlines()]
    assert (last["event"], last["level"]) == ("process_failed", "error")
    assert ":" in last["worker_id"]
    assert isinstance(last, dict)
    return last


@pytest.mark.parametrize(("command", "log_format"), [("worker", "json"), ("api", "auto")])
async def test_a_setting_that_is_wrong_is_the_last_event(
    command: str, log_format: str, environment: dict[str, str]
) -> None:
    wrong = {"CONCURRENCY": "many", "LOG_FORMAT": log_format, "OPENAI_API_KEY": SECRET}
    outcome = await run_command(command, environment={**environment, **wrong})
    last = last_line(outcome)
    assert (outcome.code, last["exit_code"]) == (2, 2)
    assert last["error"].startswith("CONCURRENCY: must be a valid integer")
    assert "exception" not in last
    assert SECRET not in outcome.err


@pytest.mark.parametrize(
    ("command", "wrong", "said"),
    [
        ("worker", {"CATALOGUE_PROFILE": "no-such-profile"}, "no profile 'no-such-profile'"),
        ("api", {"BROKER_URL": f"http://guest:{SECRET}@broker"}, "BROKER_URL must be such as"),
    ],
)
async def test_a_configuration_that_cannot_be_is_the_last_event(
    command: str, wrong: dict[str, str], said: str, environment: dict[str, str]
) -> None:
    outcome = await run_command(command, environment={**environment, **wrong})
    last = last_line(outcome)
    assert (outcome.code, last["exit_code"], said in last["error"]) == (2, 2, True)
    assert "exception" not in last
    assert SECRET not in outcome.err


async def test_an_address_that_is_taken_is_the_last_event(environment: dict[str, str]) -> None:
    outcome = await run_command("api", environment={**environment, "HTTP_HOST": "192.0.2.1"})
    assert (outcome.code, "HTTP_HOST and HTTP_PORT" in last_line(outcome)["error"]) == (2, True)


async def test_a_wrong_log_format_is_told_as_one_that_is_read_by_programs(environment: dict[str, str]) -> None:
    outcome = await run_command("worker", environment={**environment, "LOG_FORMAT": "xml"})
    assert last_line(outcome)["error"].startswith("LOG_FORMAT: must be ")


async def test_people_are_told_a_sentence(environment: dict[str, str]) -> None:
    wrong = {**environment, "CONCURRENCY": "many", "LOG_FORMAT": "console"}
    outcome = await run_command("worker", environment=wrong)
    assert (outcome.code, outcome.err.partition(":")[0], len(outcome.err.splitlines())) == (2, "CONCURRENCY", 1)


async def test_other_commands_tell_people_whatever_the_format_of_lines(environment: dict[str, str]) -> None:
    wrong = {**environment, "CATALOGUE_PROFILE": "no-such-profile", "LOG_FORMAT": "json"}
    outcome = await run_command("digest", environment=wrong)
    assert (outcome.code, outcome.err.startswith("catalogue_profile: ")) == (2, True)


_BROKEN = """
from commands import serve
from main import app

async def broken(settings):
    raise RuntimeError(f"a bug with redis://:hunter2@host")

serve.run_worker = broken
app()
"""


async def test_a_bug_is_the_last_event_with_its_traceback_and_what_to_do(environment: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _BROKEN, "worker"),
        env={**os.environ, **environment},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    last = last_line(Outcome(process.returncode or 0, out.decode(), err.decode()))
    assert (process.returncode, last["exit_code"]) == (1, 1)
    assert last["error"] == "RuntimeError: a bug with redis://:***@host"
    assert last["exception"].startswith("Traceback (most recent call last):")
    assert "in broken" in last["exception"]
    assert "This should not have happened: `python main.py --debug worker ...`" in last["hint"]
    assert SECRET not in err.decode()
