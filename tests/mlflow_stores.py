"""MLflow stores for tests, and ways to look into them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

__all__ = ["Point", "artifact_text", "found_run", "history", "names_in", "runs_in", "sqlite_store"]

Point = tuple[float, int, int]
"""Value, step, milliseconds."""


@cache
def sqlite_store() -> str:
    """The URI of a SQLite store, one per test process: MLflow takes seconds to make its tables."""
    folder = Path(tempfile.mkdtemp(prefix="layerscope-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    uri = f"sqlite:///{folder}/mlflow.db"
    with warnings.catch_warnings():
        # What MLflow does is deprecated in the newest SQLAlchemy, which says so once per process.
        warnings.simplefilter("ignore", DeprecationWarning)
        client = MlflowClient(uri)
    client.create_experiment("tests", artifact_location=str(folder / "artifacts"))
    return uri


def found_run(uri: str, run_id: str) -> Run:
    """What a store knows of a run."""
    return MlflowClient(uri).get_run(run_id)


def runs_in(uri: str, experiment: str) -> list[Run]:
    """Every run of an experiment; none where there is no such experiment."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def history(uri: str, run_id: str, key: str) -> list[Point]:
    """Every point of a metric, as stored, duplicates and all."""
    points = MlflowClient(uri).get_metric_history(run_id, key)
    return sorted((p.value, p.step, p.timestamp) for p in points)


def names_in(folder: Path | str = ".") -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in Path(folder).iterdir())


def artifact_text(uri: str, run_id: str, path: str) -> str:
    """The content of a text artifact. Raises MlflowException: there is none at this path."""
    local = download_artifacts(run_id=run_id, artifact_path=path, tracking_uri=uri)
    return Path(local).read_text(encoding="utf-8")
