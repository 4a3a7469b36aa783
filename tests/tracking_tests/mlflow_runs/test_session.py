"""A run in MLflow from its opening to its end, on a SQLite store; servers are in integration/."""

from __future__ import annotations

import copy
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from torch import nn

from tests.mlflow_stores import artifact_text, found_run, names_in, runs_in, sqlite_store
from tracking import __version__
from tracking.errors import BadTracking, NonFiniteLoss
from tracking.mlflow_runs import session
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.session import tracked, tracked_run
from tracking.records import Metric
from tracking.spool import Spool

__all__: list[str] = []


@pytest.fixture(autouse=True)
def _work_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    monkeypatch.chdir(tmp_path)


def ended_by(error: BaseException) -> Run:
    with pytest.raises(type(error)) as raised, tracked_run("tests") as tracked:
        raise error
    assert raised.value is error
    return found_run(sqlite_store(), tracked.run.run_id)


# -- nothing is opened --


def refused(message: str) -> None:
    before = len(runs_in(sqlite_store(), "tests"))
    with pytest.raises(BadTracking, match=message) as error, tracked_run("tests"):
        raise AssertionError("the body must not run")
    assert "\n" not in str(error.value)
    assert len(runs_in(sqlite_store(), "tests")) == before


def test_records_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("in the way")
    monkeypatch.setenv("LAYERSCOPE_RECORDS", "file/records")
    refused("records folder file/records: cannot be written .*; set LAYERSCOPE_RECORDS")


def test_store_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/mlflow.db")
    refused("MLflow store sqlite:////dev/null/mlflow.db cannot be used")
    assert names_in() == []


def test_run_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    refused("cannot be used: .*0000.* not found")


def test_run_of_a_living_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with tracked_run("tests") as tracked:
        monkeypatch.setenv("MLFLOW_RUN_ID", tracked.run.run_id)
        refused("in use by another process")
        assert found_run(sqlite_store(), tracked.run.run_id).info.status == "RUNNING"


def test_spool_that_cannot_be_made_leaves_no_run_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise BadTracking("disk full")

    monkeypatch.setattr(session, "MlflowSink", full)
    with pytest.raises(BadTracking, match="disk full"), tracked_run("tests", "no-spool"):
        raise AssertionError("the body must not run")
    (run,) = [run for run in runs_in(sqlite_store(), "tests") if run.info.run_name == "no-spool"]
    assert run.info.status == "FAILED"
    assert run.info.end_time


# -- how it ends --


@pytest.mark.parametrize(
    ("error", "status", "why"),
    [
        (NonFiniteLoss("the loss became nan\nin step 3"), "FAILED", "the loss became nan"),
        (KeyError("x"), "FAILED", "KeyError: 'x'"),
        (MemoryError(), "FAILED", "MemoryError: MemoryError"),
        (KeyboardInterrupt(), "KILLED", "interrupted (SIGINT)"),
        (SystemExit(128 + signal.SIGTERM), "KILLED", "stopped (SIGTERM)"),
        (SystemExit(7), "KILLED", "stopped (exit 7)"),
        (SystemExit(), "KILLED", "stopped (exit None)"),
    ],
)
def test_error_ends_the_run_with_its_reason(error: BaseException, status: str, why: str) -> None:
    run = ended_by(error)
    assert run.info.status == status
    assert run.data.tags["layerscope.state"] == status.lower()
    assert run.data.tags["layerscope.reason"] == why
    assert run.info.end_time >= run.info.start_time
    assert names_in() == []


def test_finished_run_leaves_nothing_on_disk() -> None:
    with tracked_run("tests", "my name") as tracked:
        (tracked.directory / "config.yaml").write_text("epochs: 1\n")
        tracked.sink.artifact(tracked.directory / "config.yaml")
        tracked.sink.metrics([Metric("lr", 0.1, 0, 1.5)])
    run = found_run(sqlite_store(), tracked.run.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "my name")
    assert run.data.tags["layerscope.state"] == "finished"
    assert run.data.tags["layerscope.version"] == __version__
    assert "layerscope.reason" not in run.data.tags
    assert run.data.metrics == {"lr": 0.1}
    assert artifact_text(sqlite_store(), run.info.run_id, "config.yaml") == "epochs: 1\n"
    assert names_in() == []


def test_folder_of_the_users_choice_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAYERSCOPE_RECORDS", "records")
    with tracked_run("tests") as tracked:
        assert tracked.directory.parent == Path("records")
    assert list(tmp_path.glob("**/*")) == [tmp_path / "records"]


def test_other_runs_records_stay() -> None:
    Path(".layerscope/other/spool").mkdir(parents=True)
    with tracked_run("tests"):
        pass
    assert names_in(".layerscope") == ["other"]


def test_what_mlflow_refuses_stays_and_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with tracked_run("tests") as tracked:
        tracked.sink.metrics([Metric("bad#name", 1.0, 0, 0.0), Metric("good", 1.0, 0, 0.0)])
    run = found_run(sqlite_store(), tracked.run.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"good": 1.0})
    assert "MLflow refused 1 records, the first: metrics 'bad#name'" in caplog.text
    kept = tracked.directory / "refused.jsonl"
    assert str(kept.absolute()) in caplog.text
    assert names_in(tracked.directory) == [kept.name]
    assert json.loads(kept.read_text())["metrics"] == [["bad#name", 1.0, 0, 0.0]]


# -- a run that `mlflow run` has begun --


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> str:
    client = MlflowClient(sqlite_store())
    found = client.get_experiment_by_name("tests")
    assert found is not None
    run = client.create_run(found.experiment_id, tags={"mlflow.source.name": "git#project"})
    client.log_param(run.info.run_id, "lr_max", "1e-2")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    return str(run.info.run_id)


def test_parameters_given_to_mlflow_run_are_not_logged_again(
    begun: str, caplog: pytest.LogCaptureFixture
) -> None:
    with tracked_run("ignored") as tracked:
        tracked.sink.params({"lr_max": "0.01", "epochs": "5"})
    run = found_run(sqlite_store(), begun)
    assert tracked.run.run_id == begun
    assert run.data.params == {"lr_max": "1e-2", "epochs": "5"}
    assert run.data.tags["mlflow.source.name"] == "git#project"
    assert run.info.status == "FINISHED"
    assert "refused" not in caplog.text
    assert runs_in(sqlite_store(), "ignored") == []


def test_run_that_had_ended_runs_again_under_its_new_name(begun: str) -> None:
    MlflowClient(sqlite_store()).set_terminated(begun, "KILLED")
    with tracked_run("ignored", "second try"):
        run = found_run(sqlite_store(), begun)
        assert (run.info.status, run.info.run_name) == ("RUNNING", "second try")
    assert found_run(sqlite_store(), begun).info.status == "FINISHED"


def test_records_of_an_earlier_process_go_first(begun: str) -> None:
    target = {"tracking_uri": sqlite_store(), "run_id": begun}
    left = Spool(Path(".layerscope") / begun / "spool", target)
    left.append({"metrics": [["loss", 2.0, 0, 10.0]]})
    left.close()
    with tracked_run("ignored") as tracked:
        tracked.sink.metrics([Metric("loss", 1.0, 1, 11.0)])
    points = MlflowClient(sqlite_store()).get_metric_history(begun, "loss")
    assert [(p.value, p.step) for p in points] == [(2.0, 0), (1.0, 1)]
    assert names_in() == []


@pytest.mark.parametrize(
    ("number", "error", "reason"),
    [
        (signal.SIGINT, KeyboardInterrupt, "interrupted (SIGINT)"),
        (signal.SIGTERM, SystemExit, "stopped (SIGTERM)"),
    ],
)
def test_a_signal_just_after_the_run_was_opened_ends_it(
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    error: type[BaseException],
    reason: str,
) -> None:
    known = {run.info.run_id for run in runs_in(sqlite_store(), "tests")}

    def opened(experiment: str, name: str = "") -> MlflowRun:
        run = MlflowRun.open(experiment, name)
        os.kill(os.getpid(), number)
        return run

    def begin() -> MlflowRun:
        return opened("tests")

    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda n, _: sys.exit(128 + n))
    try:
        with pytest.raises(error), tracked(begin):
            raise AssertionError("the body must not run")
    finally:
        signal.signal(signal.SIGTERM, before)
    [run] = [run for run in runs_in(sqlite_store(), "tests") if run.info.run_id not in known]
    assert (run.info.status, run.data.tags["layerscope.reason"]) == ("KILLED", reason)
    assert names_in() == []


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_signal_while_its_end_is_written_does_not_cut_it_short(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    opened = []
    before = signal.signal(signal.SIGTERM, lambda n, _: sys.exit(128 + n))

    def body() -> None:
        with tracked_run("tests") as tracked:
            opened.append(tracked.run.run_id)
            tags = tracked.sink.tags

            def interrupted(given: Mapping[str, str]) -> None:
                os.kill(os.getpid(), signal.SIGTERM)
                tags(given)

            monkeypatch.setattr(tracked.sink, "tags", interrupted)
            if state == "failed":
                raise NonFiniteLoss("the loss became nan")

    try:
        with pytest.raises(SystemExit):
            body()
    finally:
        signal.signal(signal.SIGTERM, before)
    run = found_run(sqlite_store(), opened[0])
    assert (run.info.status, run.data.tags["layerscope.state"]) == (state.upper(), state)
    assert names_in() == []


# -- the model --


def test_model_that_cannot_be_exported_does_not_fail_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unable(*_: object, **__: object) -> None:
        raise TypeError("cannot export\nthis")

    monkeypatch.setattr(session, "log_model", unable)
    with tracked_run("tests") as tracked:
        tracked.log_model(lambda: (nn.Linear(3, 2).eval(), np.zeros((2, 3), np.float32)))
    assert found_run(sqlite_store(), tracked.run.run_id).info.status == "FINISHED"
    assert "the run has no model: it cannot be exported (cannot export)" in caplog.text
    assert [r.levelno for r in caplog.records if r.name == "layerscope"] == [logging.WARNING]


def test_model_that_cannot_be_copied_for_serving_does_not_fail_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    locked = nn.Linear(3, 2)
    locked.lock = threading.Lock()  # type: ignore[assignment]
    with tracked_run("tests") as tracked:
        version = tracked.log_model(
            lambda: (copy.deepcopy(locked), np.zeros((2, 3), np.float32)), register="locked"
        )
    assert version is None
    assert found_run(sqlite_store(), tracked.run.run_id).info.status == "FINISHED"
    assert "the run has no model: it cannot be exported (cannot pickle" in caplog.text
