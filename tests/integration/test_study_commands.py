"""`layerscope study` from the first trial to the registered model: what each command says."""

from __future__ import annotations

import csv
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from optuna import Study

import layerscope
from pipelines.config import LOCAL_OPTIONS, RunConfig
from search.definition import StudyDefinition
from search.workers.work import work_on
from tests.integration.command import Command, command_here
from tests.integration.study_commands import (
    ROOT,
    TINY,
    all_runs,
    children,
    states,
    stored,
    unfinished,
)
from tests.mlflow_stores import history, names_in, sqlite_store
from tracking.errors import RecordsWaiting

__all__: list[str] = []

SPACE = "lr_max=log:1e-3:0.1 batch_size=8,16 schedule=one_cycle,linear"
RUN = [
    *("study", "run", "--name", "first study", *TINY, "--diagnose", "true"),
    *("--stop-on", "critical", "--space", SPACE, "--trials", "4"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of four trials, made by the command."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LAYERSCOPE_RECORDS", str(folder / "records"))
        patch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
        patch.delenv("OPTUNA_STORAGE", raising=False)
        patch.setattr(sys, "argv", ["layerscope", *RUN])
        layerscope.main()
    return folder


@pytest.fixture
def command(
    made: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """The command, in the folder of the study."""
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    with command_here(made, monkeypatch, capfd) as run:
        yield run


@pytest.fixture
def elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """The command, in a folder without a study."""
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    with command_here(tmp_path, monkeypatch, capfd) as run:
        yield run


def study_run(name: str = "first study") -> Run:
    """The study's own run in MLflow."""
    (run,) = [
        run
        for run in all_runs()
        if run.data.tags.get("layerscope.study") == name and "space.lr_max" in run.data.params
    ]
    return run


def download(run: Run, path: str, folder: Path) -> Path:
    found = download_artifacts(
        run_id=run.info.run_id,
        artifact_path=path,
        tracking_uri=sqlite_store(),
        dst_path=str(folder),
    )
    return Path(found)


@pytest.mark.slow
def test_a_study_goes_on_up_to_its_number_and_is_no_other(
    elsewhere: Command, caplog: pytest.LogCaptureFixture, no_plots: None
) -> None:
    Path("layerscope.db").touch()  # a database that is empty, as a server's is at first
    arguments = ["study", "run", "--name", "T", *TINY, "--record", "false", "--pruner", "none"]
    space = ["--space", "lr_max=log:1e-3:0.1"]
    code, out, err = elsewhere(*arguments, *space, "--trials", "3")
    assert (code, err) == (0, "")
    assert "study T: 3 trials, 0 of them done; tpe, not judged on the way" in out
    assert "lr_max = log:0.001:0.1" in out
    assert [out.count(f"trial   {number}  complete ") for number in range(4)] == [1, 1, 1, 0]
    assert states("T") == ["COMPLETE"] * 3
    run = study_run("T")
    before = [trial.datetime_complete for trial in stored("T").trials]

    # Nothing is left to do, and no worker is started, however many are asked for.
    code, out, err = elsewhere(*arguments, *space, "--trials", "3", "--workers", "999")
    assert (code, err) == (0, "")
    assert "workers=999 on " in caplog.text
    assert "they will wait for each other" in caplog.text
    assert "3 trials, 3 of them done" in out
    assert "trial   " not in out
    assert [trial.datetime_complete for trial in stored("T").trials] == before

    # The name is enough: data, epochs, space and all the rest are those of the study.
    code, out, err = elsewhere("study", "run", "--name", "T", "--trials", "5", "--workers", "1")
    assert (code, err) == (0, "")
    assert "5 trials, 3 of them done" in out
    assert states("T") == ["COMPLETE"] * 5
    trials = children(run.info.run_id)
    assert [trial.data.tags["layerscope.trial"] for trial in trials] == ["0", "1", "2", "3", "4"]
    assert {trial.data.params["epochs"] for trial in trials} == {"1"}
    assert {trial.data.params["train_limit"] for trial in trials} == {"60"}
    # But a machine's own options are those of each command: the first two gave --device cpu.
    assert [trial.data.params["device"] for trial in trials] == ["cpu"] * 3 + ["auto"] * 2
    assert not set(LOCAL_OPTIONS) & run.data.params.keys()
    assert study_run("T").info.status == "FINISHED"
    assert study_run("T").info.run_id == run.info.run_id

    code, out, err = elsewhere("study", "worker", "--name", "T")
    assert (code, out, err) == (0, "study T: 5 complete\nno trial is left\n", "")

    # What a machine lacks is said before it takes trials.
    code, out, err = elsewhere("study", "worker", "--name", "T", "--device", "cuda:77")
    assert (code, out) == (2, "")
    assert err.startswith("error: device=cuda:77: not usable here")

    known = {found.info.run_id for found in all_runs()}
    for other, difference in [
        (["--epochs", "2"], "epochs: 2 here, 1 in the study"),
        (["--objective", "loss"], "objective: loss here, accuracy in the study"),
        (["--sampler", "random"], "sampler: random here, tpe in the study"),
        (["--space", "lr_max=0.1:1"], "lr_max: 0.1:1 here, log:0.001:0.1 in the study"),
        (["--space", "div=5:50"], "div: 5:50 here, not in the study"),
    ]:
        code, out, err = elsewhere("study", "run", "--name", "T", "--trials", "9", *other)
        assert (code, out) == (2, "")
        assert err.startswith("error: study 'T' exists and is another one: ")
        assert difference in err
        assert "Leave these options out to go on with it, or choose another name" in err
        assert err.count("\n") == 1
    assert states("T") == ["COMPLETE"] * 5
    assert {found.info.run_id for found in all_runs()} == known


@pytest.mark.slow
def test_late_records_do_not_keep_a_study_from_its_report(
    elsewhere: Command, monkeypatch: pytest.MonkeyPatch, no_plots: None
) -> None:
    def late(*given: Any) -> None:
        work_on(*given)
        raise RecordsWaiting("records of a trial wait")

    monkeypatch.setattr("search.commands.run.work_on", late)
    arguments = ["study", "run", "--name", "L", *TINY, "--record", "false", "--pruner", "none"]
    code, out, err = elsewhere(*arguments, "--space", "lr_max=log:1e-3:0.1", "--trials", "1")
    assert (code, err) == (3, "error: records of a trial wait\n")
    assert "trial 0" in out
    run = study_run("L")
    assert run.info.status == "FINISHED"
    paths = {item.path for item in MlflowClient(sqlite_store()).list_artifacts(run.info.run_id)}
    assert {"study.html", "best.yaml", "trials.parquet"} <= paths


def test_what_a_study_leaves_in_mlflow(made: Path, tmp_path: Path) -> None:
    run = study_run()
    trials = children(run.info.run_id)
    assert len(trials) == 4
    assert unfinished_in(made, run) == []
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first study"
    params = run.data.params
    assert params["space.batch_size"] == "8,16"
    assert params["study.sampler"] == "tpe"
    assert params["epochs"] == "1"
    assert not {"study.trials", "study.workers"} & params.keys()

    study = in_folder(made)
    for trial, child in zip(study.trials, trials, strict=True):
        state = trial.state.name.lower()
        assert child.data.tags["layerscope.trial_state"] == state
        assert child.info.status == {"complete": "FINISHED", "pruned": "KILLED"}[state]
        assert child.data.tags["layerscope.study"] == "first study"
        assert child.info.run_id == trial.user_attrs["mlflow_run_id"]
        assert child.data.params["batch_size"] == str(trial.params["batch_size"])
        assert float(child.data.params["lr_max"]) == trial.user_attrs["config"]["lr_max"]
        if state == "complete":
            assert child.data.metrics["valid/accuracy"] == trial.value
            assert "test/accuracy" not in child.data.metrics
        else:
            assert child.data.tags["layerscope.reason"] == trial.user_attrs["reason"]
    assert study.user_attrs["layerscope.mlflow_run_id"] == run.info.run_id

    best = max(trial.value for trial in study.trials if trial.state.name == "COMPLETE")
    points = history(sqlite_store(), run.info.run_id, "best/value")
    assert max(points, key=lambda point: point[1])[0] == best
    assert run.data.metrics["trial/value"] is not None

    client = MlflowClient(sqlite_store())
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"study.html", "best.yaml", "trials.parquet", "plots"} <= names
    plots = {item.path for item in client.list_artifacts(run.info.run_id, "plots")}
    assert {"plots/history.png", "plots/timeline.png"} <= plots
    table = pq.read_table(download(run, "trials.parquet", tmp_path))
    assert table["number"].to_pylist() == [0, 1, 2, 3]
    assert names_in(made / "records") == []


def test_the_best_configuration_repeats_its_trial(
    command: Command, made: Path, tmp_path: Path
) -> None:
    best = in_folder(made).best_trial
    file = download(study_run(), "best.yaml", tmp_path)
    known = {run.info.run_id for run in all_runs()}
    code, _, err = command("train", "--config", str(file))
    assert (code, err) == (0, "")
    (again,) = [run for run in all_runs() if run.info.run_id not in known]
    assert again.data.metrics["valid/accuracy"] == best.value
    assert again.data.metrics["valid/loss"] == best.user_attrs["loss"]
    # And `best --output` writes the same file.
    code, out, err = command("study", "best", "--name", "first study", "--output", "mine.yaml")
    assert (code, err) == (0, "")
    assert f"trial {best.number}" in out
    mine = yaml.safe_load((made / "mine.yaml").read_text())
    assert mine == yaml.safe_load(file.read_text())
    # Trials run without stop_on; the run that repeats the best one has what was given.
    assert mine["stop_on"] == in_definition(made).stop_on == "critical"


def test_the_trials_as_text_json_and_csv(command: Command, made: Path) -> None:
    code, out, err = command("study", "status", "--name", "first study")
    assert (code, err) == (0, "")
    assert "4 of 4 done (100%)" in out
    assert "nothing runs and nothing waits" in out

    code, text, err = command("study", "trials", "--name", "first study")
    assert (code, err) == (0, "")
    assert sum(line.startswith("trial ") for line in text.splitlines()) == 4
    assert sum("  best  " in line for line in text.splitlines()) == 1

    trials = in_folder(made).trials
    code, out, err = command("study", "trials", "--name", "first study", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["params"] for row in rows] == [trial.params for trial in trials]
    assert [row["state"] for row in rows] == [trial.state.name.lower() for trial in trials]
    complete = [row for row in rows if row["state"] == "complete"]
    assert [row["values"]["accuracy"] for row in complete] == [row["accuracy"] for row in complete]

    code, out, err = command("study", "trials", "--name", "first study", "--csv")
    assert (code, err) == (0, "")
    lines = list(csv.DictReader(out.splitlines()))
    assert [line["params/batch_size"] for line in lines] == [
        str(trial.params["batch_size"]) for trial in trials
    ]


def test_the_report_again(command: Command, made: Path) -> None:
    code, out, err = command("study", "report", "--name", "first study", "--output", "deep/er")
    assert (code, err) == (0, "")
    files = {path.relative_to(made).as_posix() for path in (made / "deep").rglob("*.*")}
    assert {"deep/er/study.html", "deep/er/plots/history.png", "deep/er/best.yaml"} <= files
    assert files == set(out.split())
    code, _, err = command("study", "report", "--name", "first study", "--output", "layerscope.db")
    assert code == 2
    assert err.startswith("error: output=layerscope.db: ")

    run = study_run()
    code, out, err = command("study", "report", "--name", "first study")
    assert (code, err) == (0, "")
    assert run.info.run_id in out
    assert study_run().info.status == "FINISHED"


def test_the_best_one_is_trained_tested_and_registered(command: Command, made: Path) -> None:
    best = in_folder(made).best_trial
    known = {run.info.run_id for run in all_runs()}
    code, out, err = command("study", "retrain", "--name", "first study", "--register", "digits")
    assert (code, err) == (0, "")
    assert "registered as digits, version 1" in out
    (run,) = [run for run in all_runs() if run.info.run_id not in known]
    assert run.info.status == "FINISHED"
    assert 0 <= run.data.metrics["test/accuracy"] <= 1
    assert "valid/accuracy" not in run.data.metrics
    assert run.data.params["valid_fraction"] == "0.0"
    # Of trials it is "none"; what is kept is trained as it was asked for.
    assert run.data.params["stop_on"] == in_definition(made).stop_on == "critical"
    assert float(run.data.params["lr_max"]) == best.user_attrs["config"]["lr_max"]
    assert run.data.tags["layerscope.study"] == "first study"
    assert run.data.tags["layerscope.trial"] == str(best.number)
    client = MlflowClient(sqlite_store())
    version = client.get_model_version("digits", "1")
    assert version.run_id == run.info.run_id
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's and torch's own making
        model = mlflow.pyfunc.load_model("models:/digits/1")
    images = np.zeros((2, 1, 16, 16), dtype=np.float32)
    assert model.predict(images).shape == (2, 10)
    for wrong in ("99", "-1"):
        code, out, err = command("study", "retrain", "--name", "first study", "--trial", wrong)
        assert (code, out) == (2, "")
        assert f"trial={wrong}: not one that was trained to its end" in err


def test_a_study_that_is_not_there(command: Command, made: Path) -> None:
    for looking in ("worker", "status", "best", "trials", "report", "retrain"):
        code, out, err = command("study", looking, "--name", "frist study")
        assert (code, out) == (2, "")
        assert err == (
            "error: no study 'frist study' in the storage; it has first study. "
            "Did you mean 'first study'?\n"
        )


@pytest.mark.slow
def test_a_study_as_an_entry_point_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The project works in its own folder, where tests leave nothing.
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{tmp_path}/studies.db")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    monkeypatch.setenv("LAYERSCOPE_RECORDS", str(tmp_path / "records"))
    monkeypatch.chdir(tmp_path)
    names = [flag.removeprefix("--").replace("-", "_") for flag in TINY[::2]]
    parameters = dict(zip(names, TINY[1::2], strict=True)) | {
        "name": "by mlflow",
        "trials": "2",
        "pruner": "none",
        "record": "false",
        "space": "lr_max=log:1e-3:0.1 batch_size=8,16",
    }
    known = {run.info.run_id for run in all_runs()}
    # What `mlflow run` does, without another process for it; raises where the command fails.
    mlflow.projects.run(
        str(ROOT),
        entry_point="study",
        parameters=parameters,
        experiment_name="tests",
        env_manager="local",
    )
    assert states("by mlflow") == ["COMPLETE"] * 2
    run_id = str(stored("by mlflow").user_attrs["layerscope.mlflow_run_id"])
    begun = {run.info.run_id: run for run in all_runs() if run.info.run_id not in known}
    run = begun[run_id]
    # The one that mlflow began, with the parameters as they were given.
    assert run.data.tags["mlflow.project.entryPoint"] == "study"
    assert run.info.status == "FINISHED"
    assert run.data.params["trials"] == "2"
    assert run.data.params["space.batch_size"] == "8,16"
    trials = children(run_id)
    assert [trial.info.status for trial in trials] == ["FINISHED"] * 2
    assert begun.keys() == {run_id, *(trial.info.run_id for trial in trials)}


def in_definition(made: Path) -> RunConfig:
    return StudyDefinition.of(in_folder(made)).base


def in_folder(made: Path) -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        return stored("first study")


def unfinished_in(made: Path, run: Run) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        return unfinished("first study", run.info.run_id)
