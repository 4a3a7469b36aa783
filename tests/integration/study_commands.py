"""What the tests of `layerscope study` share: tiny studies, and what is in a storage and MLflow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState

import layerscope
from search.storage.database import open_storage
from search.storage.url import storage_url
from tests.integration.command import SCRIPT, SMALL
from tests.mlflow_stores import sqlite_store

__all__ = ["ROOT", "TINY", "all_runs", "children", "start", "states", "stored", "unfinished"]

ROOT = Path(layerscope.__file__).resolve().parent
TINY = [*SMALL, "--report", "false", "--diagnose", "false", "--epochs", "1"]
"""Options of a study whose trials take a fraction of a second."""


def stored(name: str) -> optuna.Study:
    """The study as it lies in the storage of this folder, or of OPTUNA_STORAGE."""
    storage = open_storage(storage_url(), create=False)
    return optuna.load_study(study_name=name, storage=storage)


def states(name: str) -> list[str]:
    """Of its trials, in their order."""
    return [trial.state.name for trial in stored(name).get_trials(deepcopy=False)]


def all_runs(uri: str = "") -> list[Run]:
    """Every run of a store (the test process's own), of every experiment."""
    client = MlflowClient(uri or sqlite_store())
    experiments = [found.experiment_id for found in client.search_experiments()]
    return list(client.search_runs(experiments, max_results=1000))


def children(parent: str, uri: str = "") -> list[Run]:
    """The runs below another, by the number of their trial."""
    found = [run for run in all_runs(uri) if run.data.tags.get("mlflow.parentRunId") == parent]
    return sorted(found, key=lambda run: int(run.data.tags.get("layerscope.trial", -1)))


def unfinished(name: str, parent: str, uri: str = "") -> list[str]:
    """Whatever still counts as running: trials in the storage, runs in MLflow."""
    trials = stored(name).get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    runs = [run for run in all_runs(uri) if run.info.run_id == parent] + children(parent, uri)
    open_runs = [run.info.run_name for run in runs if run.info.status in {"RUNNING", "SCHEDULED"}]
    return [*(f"trial {trial.number}" for trial in trials), *open_runs]


def start(
    *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
