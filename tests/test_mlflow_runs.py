"""Fits in MLflow: what is said without it, and, in an environment of its own, what is logged."""

import asyncio
import json
import os
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.embedding import HashingEmbedder
from core.errors import ConfigurationError
from services import migrations
from services.catalogue import SqlCatalogue
from services.database import Database, parse_url
from services.embedding_store import SqlEmbeddingStore
from services.mlflow_runs import MlflowRuns, flattened
from tests.support.catalogue import SONGS
from tests.support.command import run_here
from tests.support.made_up_site import fill_site
from tests.support.worker_process import ROOT
from training.embed import embed_catalogue

INSTALL_S = 600

without_mlflow = pytest.mark.skipif(find_spec("mlflow") is not None, reason="MLflow is here")

LOOK = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
experiment = client.get_experiment_by_name("songs-ai")
print(json.dumps([
    {
        "name": run.info.run_name, "status": run.info.status, "params": run.data.params,
        "metrics": run.data.metrics, "tags": run.data.tags,
        "artifacts": {each.path: each.file_size for each in client.list_artifacts(run.info.run_id)},
    }
    for run in client.search_runs([experiment.experiment_id], order_by=["start_time"])
]))
"""
FAIL = """
import sys
from pydantic import SecretStr
from core.errors import DependencyUnavailable
from services.mlflow_runs import MlflowRuns, Run
try:
    MlflowRuns(SecretStr(sys.argv[1])).log(Run(name="1", params={}, metrics={}, tags={}))
except DependencyUnavailable as error:
    print(error)
"""


def test_values_of_a_document_have_dotted_names() -> None:
    document = {"a": {"b": [1, {"c": None}]}, "d": "e", "f": []}
    assert flattened(document) == {"a.b.0": 1, "a.b.1.c": None, "d": "e"}


@without_mlflow
def test_without_mlflow_a_sentence_says_what_to_install() -> None:
    with pytest.raises(ConfigurationError, match=r"mlflow is missing: pip install -r requirements-mlflow\.txt"):
        MlflowRuns(SecretStr("sqlite:///runs.db"))


@without_mlflow
async def test_a_fit_says_so_before_it_reads_anything(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'songs.db'}"
    migrations.upgrade(parse_url(url))
    environment = {"DATABASE_URL": url, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'hidden-word.db'}"}
    outcome = await run_here("fit", environment=environment)
    assert outcome.code == 2
    assert "MLFLOW_TRACKING_URI is set, but mlflow is missing" in " ".join(outcome.err.split())
    assert "no table 'song'" not in outcome.err
    # A dry run logs nothing, and gets as far as the missing catalogue.
    assert "no table 'song'" in (await run_here("fit", "--dry-run", environment=environment)).err


@pytest.fixture(scope="module")
def python_with_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has what this one has, and MLflow at its pins; skipped where that cannot be had."""
    directory = tmp_path_factory.mktemp("mlflow") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True, timeout=INSTALL_S)
    [site] = directory.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    python = directory / "bin" / "python"
    pins = str(ROOT / "requirements-mlflow.txt")
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "-r", pins],
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"MLFLOW IS NOT TESTED, for it cannot be installed here: {done.stderr.splitlines()[-1:]}")
    return python


async def a_site(url: str) -> None:
    migrations.upgrade(parse_url(url))
    database = Database(url, pool_size=2, timeout_s=30)
    await fill_site(database, SONGS, n_songs=300, n_creators=40, n_listeners=200)
    await embed_catalogue(SqlCatalogue(database, SONGS), HashingEmbedder(64), SqlEmbeddingStore(database, SONGS))
    await database.close()


def run(python: Path, directory: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [str(python), *arguments],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(2 * INSTALL_S)
async def test_a_fit_is_logged_with_all_that_made_it(python_with_mlflow: Path, tmp_path: Path) -> None:
    url, tracking = f"sqlite:///{tmp_path / 'songs.db'}", f"sqlite:///{tmp_path / 'runs.db'}"
    await a_site(url)
    environment = {"DATABASE_URL": url, "MLFLOW_TRACKING_URI": tracking, "EMBEDDING_DIM": "64", "LOG_LEVEL": "ERROR"}
    main = str(ROOT / "main.py")
    for seed in ("0", "1"):
        fit = ("fit", "--budget-s", "0", "--seed", seed)
        told = await asyncio.to_thread(run, python_with_mlflow, tmp_path, main, *fit, **environment)
        assert "MLflow run " in told
    first, second = json.loads(await asyncio.to_thread(run, python_with_mlflow, tmp_path, "-c", LOOK, tracking))
    assert first["status"] == second["status"] == "FINISHED"
    assert first["tags"]["in_force"] == "true"
    assert first["tags"]["reason"] == "no version was in force"
    assert first["name"] in second["tags"]["reason"]
    assert first["params"]["parameters.linear.ridge"] == "70.0"
    assert second["metrics"].keys() > {"holdout_recall", "holdout_recall_of_active", "holdout_ndcg_gain_low"}
    assert first["artifacts"].keys() == {"collaborative.npz", "recipe.json", "checks.json", "data-figures.json"}
    assert min(first["artifacts"].values()) > 50


@pytest.mark.long
@pytest.mark.timeout(2 * INSTALL_S)
async def test_a_tracking_server_that_is_away_is_named_without_its_password(
    python_with_mlflow: Path, tmp_path: Path
) -> None:
    # Missing directories MLflow makes; where a file is there can be none.
    (tmp_path / "file").touch()
    for uri in ("http://me:hidden-word@127.0.0.1:1", f"sqlite:///{tmp_path}/file/hidden-word.db"):
        told = await asyncio.to_thread(
            run, python_with_mlflow, tmp_path, "-c", FAIL, uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"
        )
        assert told.startswith("mlflow: the run was not logged (")
        assert "hidden-word" not in told
