"""Runs that are stopped go on: the same run in MLflow, complete, as if nobody had stopped it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from tests.integration.command import SCRIPT, SMALL, Command, command_here, runs
from tests.mlflow_stores import history, names_in, sqlite_store
from tracking.mlflow_runs.report import NOTE
from tracking.mlflow_runs.run import MlflowRun

__all__: list[str] = []

PATIENCE = 300.0
STEPS_PER_EPOCH = 4
TABLES = ("hyperparameters/steps.parquet", "activations/stats.parquet")


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    with command_here(tmp_path, monkeypatch, capfd) as run:
        yield run


def stopped(number: signal.Signals, epochs: int, *options: str, checkpoint: str = "") -> Run:
    """A training in a process of its own, ended by a signal in its first epochs, or when there is
    a checkpoint in its folder."""
    before = runs()
    line = ["train", *SMALL, "--epochs", str(epochs), *options]
    with subprocess.Popen(
        [sys.executable, SCRIPT, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("epoch") for line in lines)
        while checkpoint and process.poll() is None and not [*Path().glob(checkpoint)]:
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate()
        watchdog.cancel()
    (run,) = [run for run_id, run in runs().items() if run_id not in before]
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number, err
        assert f"stopped; to go on: python layerscope.py resume {run.info.run_id}\n" in out
    return run


def whole(command: Command, epochs: int, *options: str) -> Run:
    before = runs()
    assert command("train", *SMALL, "--epochs", str(epochs), *options)[0] == 0
    (run,) = [run for run_id, run in runs().items() if run_id not in before]
    return run


def artifact(run: Run, name: str, folder: Path) -> Path:
    target = folder / run.info.run_id
    target.mkdir(exist_ok=True)
    where = {"run_id": run.info.run_id, "artifact_path": name, "dst_path": str(target)}
    return Path(download_artifacts(**where, tracking_uri=sqlite_store()))


def timeless(table: pa.Table) -> pa.Table:
    return table.drop_columns([name for name in ("time",) if name in table.column_names])


def points(run: Run, key: str) -> dict[int, float]:
    return {step: value for value, step, _ in history(sqlite_store(), run.info.run_id, key)}


def assert_same(one: Run, other: Run, folder: Path) -> None:
    for name in TABLES:
        a, b = (pq.read_table(artifact(run, name, folder)) for run in (one, other))
        assert timeless(a).equals(timeless(b)), name
    assert one.data.metrics.keys() == other.data.metrics.keys()
    for key in one.data.metrics:
        if key != "samples_per_second":
            assert points(one, key) == points(other, key), key
    assert one.data.params == other.data.params


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal(command: Command, tmp_path: Path, number: signal.Signals) -> None:
    run = stopped(number, 40)
    assert run.info.status == "KILLED"
    line = f"    python layerscope.py resume {run.info.run_id}\n"
    assert line in run.data.tags[NOTE]
    done = len(points(run, "train/loss"))
    assert STEPS_PER_EPOCH <= done < 40 * STEPS_PER_EPOCH
    code, out, err = command("resume", run.info.run_id)
    assert (code, err) == (0, "")
    assert f"going on after step {done} of 160\n" in out
    again = runs()[run.info.run_id]
    assert again.info.status == "FINISHED"
    assert again.data.tags["layerscope.state"] == "finished"
    assert again.data.tags["layerscope.resumed"] == str(done)
    assert "layerscope.reason" not in again.data.tags
    assert "resume" not in again.data.tags[NOTE]
    assert "killed" not in again.data.tags[NOTE]
    assert_same(whole(command, 40), again, tmp_path)
    page = artifact(again, "report.html", tmp_path).read_text(encoding="utf-8")
    assert "finished" in page
    assert names_in(tmp_path / "records") == []
    code, _, err = command("resume", run.info.run_id)
    assert code == 2
    assert err == f"error: run {run.info.run_id} is finished: nothing is left to go on with\n"


@pytest.mark.slow
def test_after_a_kill(command: Command, tmp_path: Path) -> None:
    """Nobody could say goodbye: what is on disk is sent, and gone on with."""
    options = ("--gradients", "true", "--report", "false")
    run = stopped(signal.SIGKILL, 600, *options, checkpoint="records/*/checkpoints/last.pt")
    ends = time.monotonic() + PATIENCE
    code, out, err = command("resume", run.info.run_id)
    # Until its records have been sent, by the process that was sending them.
    while code == 2 and time.monotonic() < ends:
        assert "its last records are still being sent" in err
        time.sleep(0.5)
        code, out, err = command("resume", run.info.run_id)
    assert code == 0, err
    assert "going on after step " in out
    again = runs()[run.info.run_id]
    assert again.info.status == "FINISHED"
    assert_same(whole(command, 600, *options), again, tmp_path)


def test_a_run_that_nobody_can_go_on_with(command: Command) -> None:
    client = MlflowClient(sqlite_store())
    experiment = client.create_experiment("resume: refused")
    begun = client.create_run(experiment).info.run_id
    code, _, err = command("resume", begun)
    assert code == 2
    assert err == (
        f"error: run {begun} still counts as running; if its process was killed on another machine "
        "or in another folder, say there: python layerscope.py replay\n"
    )
    client.set_terminated(begun, "KILLED")
    code, _, err = command("resume", begun)
    assert code == 2
    assert err.startswith(f"error: run {begun} has no checkpoint to go on from (")
    assert err.count("\n") == 1
    assert runs()[begun].info.status == "KILLED"
    code, _, err = command("resume", "0" * 32)
    assert code == 2
    assert "check the run's id and MLFLOW_TRACKING_URI" in err


@pytest.mark.slow
def test_what_is_refused_leaves_the_run_as_it_was(command: Command, tmp_path: Path) -> None:
    run = stopped(signal.SIGTERM, 40)
    code, _, err = command("resume", run.info.run_id, "--device", "cuda:99")
    assert code == 2
    assert err.startswith("error: device=cuda:99: not usable here")
    assert runs()[run.info.run_id].info.status == "KILLED"
    assert names_in(tmp_path / "records") == []


@pytest.mark.slow
def test_a_run_that_mlflow_run_has_begun_says_which(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(signal.SIGTERM, 40)
    client = MlflowClient(sqlite_store())
    caller = client.create_run(client.create_experiment("resume: caller")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", caller)
    assert command("resume", run.info.run_id)[0] == 0
    assert MlflowRun.known(caller).tags["layerscope.resumed_run"] == run.info.run_id
    assert runs()[run.info.run_id].info.status == "FINISHED"
    assert MlflowRun.known(caller).is_running()
