"""Runs that end badly: the status says so, and what was recorded is in MLflow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from tests.integration.command import SCRIPT, SMALL, Command, command_here, runs
from tests.mlflow_stores import history, names_in, sqlite_store

__all__: list[str] = []

PATIENCE = 300.0


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    with command_here(tmp_path, monkeypatch, capfd) as run:
        yield run


def the_run_since(before: dict[str, Run]) -> Run:
    (run,) = [run for run_id, run in runs().items() if run_id not in before]
    return run


def table(run: Run, path: str, folder: Path) -> pa.Table:
    destination = folder / run.info.run_id
    destination.mkdir(exist_ok=True)
    return pq.read_table(
        download_artifacts(
            run_id=run.info.run_id,
            artifact_path=path,
            tracking_uri=sqlite_store(),
            dst_path=str(destination),
        )
    )


def test_a_loss_that_becomes_nan(command: Command, tmp_path: Path) -> None:
    before = runs()
    diverging = ["--optimizer", "sgd", "--norm", "none", "--lr-max", "1e30", "--epochs", "3"]
    code, out, err = command("train", *SMALL, *diverging)
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("error: the loss became nan by step ")
    run = the_run_since(before)
    assert f"run {run.info.run_id}\n" in out
    assert run.info.status == "FAILED"
    assert run.info.end_time is not None
    assert run.data.tags["layerscope.state"] == "failed"
    assert f"error: {run.data.tags['layerscope.reason']}" == line
    steps = table(run, "hyperparameters/steps.parquet", tmp_path)
    losses = steps.filter(pa.compute.equal(steps["group"], "weights"))["loss"].to_pylist()
    assert np.isnan(losses[-1])
    assert np.isfinite(losses[:-1]).all()
    assert line.startswith(f"error: the loss became nan by step {len(losses) - 1},")
    stats = table(run, "activations/stats.parquet", tmp_path)
    assert max(stats["step"].to_pylist()) == len(losses) - 1
    points = history(sqlite_store(), run.info.run_id, "train/loss")
    assert sorted(step for _, step, _ in points) == list(range(len(losses)))
    client = MlflowClient(sqlite_store())
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert names == {
        *("config.yaml", "model_summary.txt", "model_summary.json"),
        *("hyperparameters", "activations", "report.html", "diagnosis.json", "evidence.json"),
    }
    assert run.data.params["lr_max"] == "1e+30"
    assert names_in(tmp_path / "records") == []


def test_a_range_test_without_a_suggestion(command: Command) -> None:
    before = runs()
    flat = ["--optimizer", "sgd", "--lr-start", "1e-12", "--lr-end", "1e-11"]
    code, out, err = command("lr-find", *SMALL, *flat, "--lr-steps", "20", "--train-limit", "16")
    assert code == 1
    assert err.startswith("error: no learning rate from 1e-12 to 1e-11 changes the loss by more ")
    run = the_run_since(before)
    assert run.info.status == "FAILED"
    assert f"run {run.info.run_id}\n" in out
    client = MlflowClient(sqlite_store())
    curve = {item.path for item in client.list_artifacts(run.info.run_id, "lr_range")}
    assert curve == {
        "lr_range/curve.parquet",
        "lr_range/curve.png",
        "lr_range/suggestions.json",
    }


LONG = ["train", *SMALL, "--epochs", "5000"]


def test_sigterm_ends_the_run_as_killed_with_its_records(command: Command, tmp_path: Path) -> None:
    before = runs()
    over = threading.Event()

    def terminate() -> None:
        while not over.wait(0.2):
            begun = [run for run_id, run in runs().items() if run_id not in before]
            if any("valid/loss" in run.data.metrics for run in begun):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        code, out, err = command(*LONG)
    finally:
        over.set()
        thread.join()
    assert (code, err) == (143, "")
    assert_killed(the_run_since(before), "SIGTERM", out, tmp_path)


@pytest.mark.slow
def test_sigint_ends_the_process_and_its_run(command: Command, tmp_path: Path) -> None:
    """In a process of its own, with all that happens at its end."""
    before = runs()
    with subprocess.Popen(
        [sys.executable, SCRIPT, *LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("epoch") for line in lines)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        watchdog.cancel()
    assert (process.returncode, err) == (130, "\ninterrupted\n")
    assert_killed(the_run_since(before), "SIGINT", out, tmp_path)


def assert_killed(run: Run, name: str, out: str, folder: Path) -> None:
    """The run says what ended it, and has its records up to then."""
    assert run.info.status == "KILLED"
    assert run.data.tags["layerscope.state"] == "killed"
    assert name in run.data.tags["layerscope.reason"]
    assert f"run {run.info.run_id}\n" in out
    steps = table(run, "hyperparameters/steps.parquet", folder)
    done = len(set(steps["step"].to_pylist()))
    assert 4 <= done < 5000 * 4
    stats = table(run, "activations/stats.parquet", folder)
    # The signal may have come between the layers' outputs and the optimizer's step, or after it.
    assert abs(len(set(stats["step"].to_pylist())) - done) <= 1
    assert history(sqlite_store(), run.info.run_id, "valid/loss")
    assert names_in(folder / "records") == []
