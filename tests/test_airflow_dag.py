"""The DAG for those who run Airflow: what it names exists; and, by Airflow's own ``dag.test()``, what it does.

The latter needs minutes and an environment of its own with Airflow: one made from ``deploy/airflow/requirements.txt``,
or that of the interpreter ``TEST_AIRFLOW_PYTHON``.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from core.fitted_collaborative import MODEL_KIND
from services import migrations
from services.batch_ledger import SqlBatchLedger
from services.clock import SystemClock
from services.database import Database, parse_url
from services.model_store import SqlModelStore
from tests.support.catalogue import SONGS, connection
from tests.support.command import run_here
from tests.support.llm_server import LLMServer
from tests.support.made_up_site import fill_site
from tests.support.track_rows import KAGGLE_HEADER, KAGGLE_ROW, csv_text
from tests.support.worker_process import ROOT

DEPLOYED = ROOT / "deploy" / "airflow"
DAG_FILE = DEPLOYED / "songs_ai_nightly.py"
STEPS = ["ingest", "check", "embed", "fit", "refresh"]
INSTALL_S, RUN_S = 900, 600

RUN = f"""
import json, sys
sys.path.insert(0, {str(DEPLOYED)!r})
from songs_ai_nightly import dag
ended = dag.test()
tasks = {{each.task_id: [each.state, each.try_number] for each in ended.get_task_instances()}}
print("ENDED " + json.dumps([ended.state, tasks]))
"""

RECORDING = """#!/bin/bash
printf '%s\\0' "$@" >> "$CALLS"
printf '\\n' >> "$CALLS"
[ -f "$FAILING/$2" ] || exit 0
[ -s "$FAILING/$2" ] || rm "$FAILING/$2"
exit 1
"""


# --- without Airflow ---


async def test_every_step_is_a_command_with_the_options_that_it_is_given() -> None:
    text = DAG_FILE.read_text(encoding="utf-8")
    named = dict(re.findall(r"\{MAIN\} ([a-z-]+)([^\n]*)", text))
    assert list(named) == STEPS
    for name, arguments in named.items():
        told = await run_here(name, "--help", environment={"COLUMNS": "200"})
        assert told.code == 0
        for option in re.findall(r"--[a-z-]+", arguments):
            assert option in told.out


def test_the_dag_is_thin_and_its_pins_agree() -> None:
    assert len(DAG_FILE.read_text(encoding="utf-8").splitlines()) <= 150
    [pin] = re.findall(r"^apache-airflow==\S+$", (DEPLOYED / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    assert pin in (DEPLOYED / "constraints.txt").read_text("utf-8").splitlines()


# --- by Airflow ---

long = [pytest.mark.long, pytest.mark.timeout(INSTALL_S + 2 * RUN_S)]


def by_airflow(test: Any) -> Any:
    """A test that may have to install Airflow first."""
    for mark in long:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def airflow_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with Airflow at its pins; skipped where that cannot be had."""
    if given := os.environ.get("TEST_AIRFLOW_PYTHON"):
        return Path(given)
    directory = tmp_path_factory.mktemp("airflow") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True, timeout=INSTALL_S)
    python = directory / "bin" / "python"
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(DEPLOYED / "requirements.txt")],
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"THE AIRFLOW DAG IS NOT TESTED: Airflow cannot be installed here: {done.stderr.splitlines()[-1:]}")
    return python


class Airflow:
    """An installation with a database of its own."""

    def __init__(self, python: Path, home: Path) -> None:
        self._python = python
        self._environment = {
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DEPLOYED),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "SONGS_AI_RETRIES": "1",
            "SONGS_AI_RETRY_DELAY_S": "0.1",
        }
        self.log = ""

    def migrate(self) -> None:
        self._run(["-m", "airflow", "db", "migrate"], {})

    async def test_dag(
        self, variables: Mapping[str, str], **environment: str
    ) -> tuple[str, dict[str, tuple[str | None, int]]]:
        """The state of a run, and state and number of tries of each of its tasks."""
        given = {f"AIRFLOW_VAR_SONGS_AI_{name.upper()}": value for name, value in variables.items()}
        self.log = await asyncio.to_thread(self._run, ["-c", RUN], {**given, **environment})
        [said] = [line for line in self.log.splitlines() if line.startswith("ENDED ")]
        state, tasks = json.loads(said.removeprefix("ENDED "))
        return state, {name: (task[0], task[1]) for name, task in tasks.items()}

    def _run(self, arguments: Sequence[str], more: Mapping[str, str]) -> str:
        done = subprocess.run(
            [str(self._python), *arguments],
            env={**self._environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        return done.stdout


@pytest.fixture(scope="module")
def airflow(airflow_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    installed = Airflow(airflow_python, tmp_path_factory.mktemp("airflow-home"))
    installed.migrate()
    return installed


class Stub:
    """Stands in for the program: keeps what it is called with, and fails where it is told to."""

    def __init__(self, directory: Path) -> None:
        self._calls, self._failing = directory / "calls", directory / "failing"
        self._failing.mkdir()
        self._calls.touch()
        self.python = directory / "python"
        self.python.write_text(RECORDING, encoding="utf-8")
        self.python.chmod(0o755)
        self.home = directory
        self.environment = {"CALLS": str(self._calls), "FAILING": str(self._failing)}

    @property
    def variables(self) -> dict[str, str]:
        return {"home": str(self.home), "python": str(self.python)}

    def fail(self, step: str, *, for_good: bool = False) -> None:
        """The step fails, once or for good."""
        (self._failing / step).write_text("for good" if for_good else "", encoding="utf-8")

    def calls(self) -> list[list[str]]:
        return [line.split("\0")[:-1] for line in self._calls.read_text(encoding="utf-8").splitlines()]


@by_airflow
async def test_each_step_is_run_in_order_and_again_where_it_failed(airflow: Airflow, tmp_path: Path) -> None:
    stub = Stub(tmp_path)
    for step in STEPS:
        stub.fail(step)
    files = ["/data/first file.csv", '/data/it\'s $HOME; "quoted".csv']
    given = {**stub.variables, "files": json.dumps(files), "members": "7"}
    state, tasks = await airflow.test_dag(given, **stub.environment)
    assert (state, tasks) == ("success", dict.fromkeys(STEPS, ("success", 2))), airflow.log[-5000:]
    arguments = {"ingest": files, "fit": ["--budget-s", "120"], "refresh": ["--members", "7"]}
    called = [["main.py", step, *arguments.get(step, [])] for step in STEPS]
    assert stub.calls() == [call for call in called for _ in range(2)]


@by_airflow
async def test_what_fails_for_good_stops_what_comes_after_it(airflow: Airflow, tmp_path: Path) -> None:
    stub = Stub(tmp_path)
    stub.fail("check", for_good=True)
    state, tasks = await airflow.test_dag(stub.variables, **stub.environment)
    assert state == "failed"
    assert tasks["check"] == ("failed", 2)
    assert [tasks[step][0] for step in STEPS] == ["success", "failed", *["upstream_failed"] * 3]
    # Where a backend owns the catalogue there are no files, and nothing is ingested.
    assert stub.calls() == [["main.py", "check"]] * 2


@by_airflow
async def test_a_site_without_an_llm_skips_the_refresh(airflow: Airflow, tmp_path: Path) -> None:
    stub = Stub(tmp_path)
    state, tasks = await airflow.test_dag({**stub.variables, "members": "0"}, **stub.environment)
    assert (state, tasks["fit"][0], tasks["refresh"][0]) == ("success", "success", "skipped")
    assert [call[1] for call in stub.calls()] == ["check", "embed", "fit"]


async def a_site(url: str) -> None:
    """Songs and listeners who like them."""
    migrations.upgrade(parse_url(url))
    database = Database(url, pool_size=2, timeout_s=30)
    await fill_site(database, SONGS, n_songs=300, n_creators=40, n_listeners=200)
    await database.close()


def n_rows(url: str, table: str) -> int:
    with connection(url) as opened:
        return int(opened.exec_driver_sql(f"SELECT COUNT(*) FROM {table}").scalar_one())


@by_airflow
async def test_the_chain_brings_a_site_up_to_date_and_a_second_time_pays_for_nothing(
    airflow: Airflow, llm_server: LLMServer, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'songs.db'}"
    await a_site(url)
    tracks = [{**KAGGLE_ROW, "track_id": f"t{n}", "track_name": f"New song {n}"} for n in range(5)]
    file = tmp_path / "new tracks.csv"
    file.write_text(csv_text(KAGGLE_HEADER, tracks), encoding="utf-8")
    variables = {
        "home": str(ROOT),
        "python": sys.executable,
        "files": json.dumps([str(file)]),
        "members": "4",
        "budget_s": "0",
    }
    site = {
        "DATABASE_URL": url,
        "REDIS_URL": "memory://",
        "OPENAI_BASE_URL": llm_server.base_url,
        "LLM_BATCH_REFRESH": "true",
        "LLM_BATCH_POLL_S": "0.1",
        "EMBEDDING_DIM": "64",
        # Songs that are made up lack two of the features that tracks of a file have.
        "CHECK_MISSING": "1",
        "LOG_LEVEL": "ERROR",
    }
    state, tasks = await airflow.test_dag(variables, **site)
    assert (state, tasks) == ("success", dict.fromkeys(STEPS, ("success", 1))), airflow.log[-5000:]
    assert n_rows(url, "song") == n_rows(url, "songs_ai_embedding") == 305
    database = Database(url)
    try:
        models = SqlModelStore(database, SystemClock())
        first = await models.active_version(MODEL_KIND)
        assert first is not None
        state, tasks = await airflow.test_dag(variables, **site)
        assert (state, tasks["refresh"]) == ("success", ("success", 1)), airflow.log[-5000:]
        assert n_rows(url, "song") == n_rows(url, "songs_ai_embedding") == 305
        promotions = await models.promotions(MODEL_KIND)
        assert await models.active_version(MODEL_KIND) == promotions[-1].version
        totals = await SqlBatchLedger(database).totals()
    finally:
        await database.close()
    assert (llm_server.batches.n_uploads, totals.outcomes["merged"]) == (1, 4)
    assert list(llm_server.batches.paid.values()) == [1] * 4
