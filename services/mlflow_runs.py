"""Logs fits to MLflow, where a site has one. It is imported when it is needed, and need not be there otherwise."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

from core.errors import ConfigurationError, DependencyUnavailable

EXPERIMENT = "songs-ai"
_MAX_PARAM_CHARS, _MAX_TAG_CHARS = 500, 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One fit; ``artifacts`` are files by name."""

    name: str
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    artifacts: Mapping[str, bytes] = field(default_factory=dict)


class MlflowRuns:
    """The experiment ``songs-ai`` at a tracking URI, whose password, if any, no error quotes."""

    def __init__(self, tracking_uri: SecretStr) -> None:
        """Raises ``ConfigurationError`` where MLflow is not installed."""
        # It would tell its makers of every run.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            self._mlflow: Any = import_module("mlflow")
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"MLFLOW_TRACKING_URI is set, but {error.name} is missing: pip install -r requirements-mlflow.txt"
            ) from None
        self._uri = tracking_uri

    def log(self, run: Run) -> str:
        """The id of the run; blocks. Raises ``DependencyUnavailable``."""
        try:
            return self._logged(run)
        # MLflow lets errors of its HTTP library (OSError) and of SQLAlchemy through; all their sentences hold the URI.
        except (self._mlflow.MlflowException, OSError, SQLAlchemyError) as error:
            raise DependencyUnavailable("mlflow", f"the run was not logged ({type(error).__name__})") from None

    def _logged(self, run: Run) -> str:
        client = self._mlflow.MlflowClient(tracking_uri=self._uri.get_secret_value())
        experiment = client.get_experiment_by_name(EXPERIMENT)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
        tags = {name: text[:_MAX_TAG_CHARS] for name, text in run.tags.items()}
        run_id = str(client.create_run(experiment_id, run_name=run.name, tags=tags).info.run_id)
        status = "FAILED"
        try:
            for name, value in run.params.items():
                client.log_param(run_id, name, str(value)[:_MAX_PARAM_CHARS])
            for name, figure in run.metrics.items():
                client.log_metric(run_id, name, figure)
            self._log_artifacts(client, run_id, run.artifacts)
            status = "FINISHED"
        finally:
            client.set_terminated(run_id, status)
        return run_id

    def _log_artifacts(self, client: Any, run_id: str, artifacts: Mapping[str, bytes]) -> None:  # noqa: ANN401 - MLflow's
        with TemporaryDirectory(prefix="songs-ai-mlflow-") as directory:
            for name, content in artifacts.items():
                path = Path(directory) / name
                path.write_bytes(content)
                client.log_artifact(run_id, str(path))


def flattened(document: object, prefix: str = "") -> dict[str, object]:
    """Values of a JSON document by dotted names, such as ``parameters.factors.0.dim``."""
    if isinstance(document, Mapping):
        parts = document.items()
    elif isinstance(document, list):
        parts = {str(place): each for place, each in enumerate(document)}.items()
    else:
        return {prefix: document}
    return {
        name: value
        for key, each in parts
        for name, value in flattened(each, f"{prefix}.{key}" if prefix else str(key)).items()
    }
