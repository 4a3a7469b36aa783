"""The project through the real `mlflow run`: what arrives, what is left, how it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

import layerscope
from pipelines.config import RunConfig
from pipelines.options import config_from, read_config
from pipelines.run import prepare, train
from tests.mlflow_stores import sqlite_store

__all__: list[str] = []

pytestmark = pytest.mark.slow

ROOT = Path(layerscope.__file__).resolve().parent
MlflowRunCommand = Callable[..., tuple[int, str, Run]]
SMALL = {"train_limit": "100", "image_size": "16", "widths": "4,8", "device": "cpu"}


@pytest.fixture
def mlflow_run(tmp_path: Path) -> MlflowRunCommand:
    """Runs the project in a process of its own: exit code, what it said, and its run."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": sqlite_store(),
        "LAYERSCOPE_RECORDS": str(tmp_path / "records"),
    }

    def go(*arguments: str, project: str = str(ROOT), **parameters: str) -> tuple[int, str, Run]:
        before = {run.info.run_id for run in runs()}
        given = [part for name, value in parameters.items() for part in ("-P", f"{name}={value}")]
        command = [sys.executable, "-m", "mlflow", "run", project, "--env-manager", "local"]
        result = subprocess.run(
            [*command, "--experiment-name", "tests", *arguments, *given],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        (run,) = [run for run in runs() if run.info.run_id not in before]
        return result.returncode, result.stdout, run

    return go


def runs() -> list[Run]:
    client = MlflowClient(sqlite_store())
    experiment = client.get_experiment_by_name("tests")
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def artifact(run: Run, path: str, folder: Path) -> Path:
    return Path(
        download_artifacts(
            run_id=run.info.run_id,
            artifact_path=path,
            tracking_uri=sqlite_store(),
            dst_path=str(folder),
        )
    )


def artifacts(run: Run, folder: str = "") -> set[str]:
    client = MlflowClient(sqlite_store())
    found = set()
    for item in client.list_artifacts(run.info.run_id, folder or None):
        found |= artifacts(run, item.path) if item.is_dir else {item.path}
    return found


def test_a_run_leaves_what_the_contract_says_and_its_config_repeats_it(
    mlflow_run: MlflowRunCommand, tmp_path: Path, no_pictures_here: None
) -> None:
    code, said, run = mlflow_run(
        epochs="02", lr_max="1e-2", seed="7", momentum_min="0.8", record_eval="false", **SMALL
    )
    assert code == 0, said[-2000:]
    assert run.info.status == "FINISHED"
    assert "test accuracy" in said
    assert f"run {run.info.run_id}" in said

    # MLflow logs the text that was given; the rest is the resolved configuration.
    config = RunConfig(epochs=2, seed=7, momentum_min=0.8, **SMALL)
    expected = config.flat() | {"epochs": "02", "lr_max": "1e-2", "image_size": "16"}
    assert run.data.params == expected
    assert run.data.params["pct_start"] == "0.25"

    layers = ("conv1.relu", "conv2.relu", "head.norm")
    # A picture of the first epoch at least, whole and small; more where the machine has time.
    pictures = {name for name in artifacts(run) if name.startswith("images/color_dim+step+")}
    assert len(pictures) in {2, 4}
    assert artifacts(run) - pictures == {
        *("config.yaml", "model_summary.txt", "model_summary.json", "report.html"),
        *("diagnosis.json", "evidence.json"),
        *("hyperparameters/steps.parquet", "hyperparameters/schedule.png"),
        *("activations/stats.parquet", "activations/color_dim.png"),
        *("activations/layer_stats.png",),
        *(f"activations/color_dim/{layer}.png" for layer in layers),
    }
    assert set(run.data.metrics) >= {
        *("train/loss", "train/loss_smooth", "valid/loss", "valid/accuracy", "test/loss"),
        *("test/accuracy", "lr", "momentum", "samples_per_second"),
        *(f"activations/{layer}/mean" for layer in layers),
    }
    assert run.data.tags["layerscope.state"] == "finished"
    (model,) = run.outputs.model_outputs
    assert MlflowClient(sqlite_store()).get_logged_model(model.model_id).name == "model"
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "digits"
    assert not (tmp_path / "records").exists() or not list((tmp_path / "records").iterdir())

    file = artifact(run, "config.yaml", tmp_path)
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["momentum_min"] == 0.8
    again = config_from(RunConfig, read_config(file))
    assert again == config
    result = train(prepare(again), tmp_path / "again")
    first = pq.read_table(artifact(run, "activations/stats.parquet", tmp_path))
    assert result.activation_stats.read().equals(first)
    steps = pq.read_table(artifact(run, "hyperparameters/steps.parquet", tmp_path))
    assert steps.drop_columns(["time"]).equals(result.recorder.read().drop_columns(["time"]))
    assert pa.compute.min(steps["momentum"]).as_py() < 0.81
    assert run.data.metrics["test/accuracy"] == result.test.accuracy


@pytest.fixture
def no_pictures_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the drawing out of what this process trains."""
    monkeypatch.setattr("tracking.recording.RunRecord._artifacts", lambda self: iter(()))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with the project as it is in the work tree."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so the project's own files are not known")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    copy = tmp_path / "repository"
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    me = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    for line in (["init", "-q", "-b", "main"], ["add", "-A"], [*me, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *line], cwd=copy, check=True)
    return copy


def test_the_range_test_from_a_git_uri(mlflow_run: MlflowRunCommand, repository: Path) -> None:
    code, said, run = mlflow_run(
        *("-v", "main", "-e", "lr_find"),
        project=repository.as_uri(),
        lr_end="1e1",
        lr_steps="30",
        optimizer="sgd",
        momentum_max="0.9",
        **SMALL,
    )
    assert code == 0, said[-2000:]
    assert run.info.status == "FINISHED"
    head = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(head, cwd=repository, capture_output=True, text=True, check=True).stdout
    assert run.data.tags["mlflow.source.git.commit"] == commit.strip()
    assert "valley" in said
    assert artifacts(run) == {
        *("lr_range/curve.parquet", "lr_range/curve.png", "lr_range/suggestions.json"),
    }
    assert {f"lr_range/{name}" for name in ("valley", "minimum", "steep")} < set(run.data.metrics)
    given = {"lr_end": "1e1", "lr_steps": "30", "lr_start": "1e-07", "optimizer": "sgd"}
    given |= {"momentum_max": "0.9", "train_limit": "100"}
    assert given.items() <= run.data.params.items()


def test_bad_input_fails_the_run_that_mlflow_began(mlflow_run: MlflowRunCommand) -> None:
    code, said, run = mlflow_run(lr_max="0")
    assert code != 0
    assert run.info.status == "FAILED"
    assert "error: lr_max=0: input should be greater than 0\n" in said
    assert "Traceback" not in said
    assert artifacts(run) == set()
