"""`layerscope report` on real stores: SQLite here, a server, and runs of which files are gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.integration.command import Command, command_here
from tests.mlflow_stores import artifact_text, names_in, sqlite_store
from tests.tracking_tests.reports import DATASET, LAYERS, numbers, run_folder
from tracking.mlflow_runs.session import tracked_run
from tracking.records import Metric

__all__: list[str] = []


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    (tmp_path / "here").mkdir()
    with command_here(tmp_path / "here", monkeypatch, capfd) as run:
        yield run


def recorded(folder: Path, *, leave_out: str = "") -> str:
    """A finished run with the artifacts of a short training; gives its id."""
    run_folder(folder)
    with tracked_run("tests", "merry-crow") as tracked:
        tracked.sink.params({"model": "simple_cnn", "dataset": "digits"})
        tracked.sink.dataset(DATASET)
        points = [Metric("valid/accuracy", 0.5 + n / 100, 20 * n, 1e9 + n) for n in range(1, 4)]
        tracked.sink.metrics(points)
        for path in folder.rglob("*.*"):
            if path.is_file() and path.name != leave_out:
                inside = path.parent.relative_to(folder)
                tracked.sink.artifact(path, "" if inside == Path() else inside.as_posix())
    return tracked.run.run_id


# -- bad input --


def test_an_unknown_run(command: Command) -> None:
    code, _, err = command("report", "0" * 32)
    assert code == 2
    assert err.startswith(f"error: run {'0' * 32} in MLflow store sqlite://")
    assert err.count("\n") == 1
    assert names_in() == []


def test_a_store_that_is_not_there_is_not_made(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///typo.db")
    code, _, err = command("report", "abc")
    assert code == 2
    assert "typo.db cannot be used: No such file or directory; check the run's id" in err
    assert names_in() == []


def test_a_file_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    run_id = recorded(tmp_path / "run")
    (tmp_path / "file").touch()
    code, _, err = command("report", run_id, "--output", str(tmp_path / "file" / "report.html"))
    assert code == 2
    assert err.startswith("error: --output ")
    assert "cannot be written (" in err
    assert command("report", run_id, "--output", str(tmp_path))[0] == 2


def test_a_deleted_run_takes_no_page_but_gives_one(command: Command, tmp_path: Path) -> None:
    run_id = recorded(tmp_path / "run")
    MlflowClient(sqlite_store()).delete_run(run_id)
    code, _, err = command("report", run_id)
    assert code == 3
    assert "has been deleted in MLflow; restore it; write it to a file with --output FILE" in err
    assert command("report", run_id, "--output", "report.html")[0] == 0


# -- what it makes --


def test_the_page_goes_to_the_run(command: Command, tmp_path: Path) -> None:
    run_id = recorded(tmp_path / "run")
    code, out, err = command("report", run_id)
    assert (code, err) == (0, "")
    assert out.startswith(f"report.html is among the artifacts of run {run_id} in sqlite://")
    page = artifact_text(sqlite_store(), run_id, "report.html")
    for text in ("merry-crow", "finished", "53.00 %", "simple_cnn on digits", "1,294 train"):
        assert text in page
    assert "Not everything is here" not in page
    data = numbers(page)
    assert data["valid_accuracy"] == {"step": [20, 40, 60], "value": [0.51, 0.52, 0.53]}
    assert [layer["name"] for layer in data["layers"]] == list(LAYERS)
    assert names_in() == ["records"]


@pytest.mark.parametrize("gone", ["stats.parquet", "steps.parquet", "model_summary.json"])
def test_a_run_without_some_of_its_files(command: Command, tmp_path: Path, gone: str) -> None:
    run_id = recorded(tmp_path / "run", leave_out=gone)
    assert command("report", run_id, "--output", "out/report.html")[0] == 0
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert f"{gone} is not there" in page
    assert page.count("is not there") == 1


def test_a_file_that_the_store_has_lost(command: Command, tmp_path: Path) -> None:
    run_id = recorded(tmp_path / "run")
    client = MlflowClient(sqlite_store())
    folder = Path(client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    (folder / "activations/stats.parquet").unlink()
    (folder / "activations/stats.parquet").symlink_to(folder / "gone")
    assert command("report", run_id, "--output", "report.html")[0] == 0
    page = Path("report.html").read_text(encoding="utf-8")
    assert "activations/stats.parquet" in page
    assert "Not everything is here" in page
    shutil.rmtree(folder)
    assert command("report", run_id, "--output", "report.html")[0] == 0
    assert Path("report.html").read_text(encoding="utf-8").count("is not there") == 4


def test_a_run_of_a_server(
    server: Any, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    run_id = recorded(tmp_path / "run")
    code, out, err = command("report", run_id)
    assert (code, err) == (0, "")
    assert server.url in out
    page = artifact_text(server.url, run_id, "report.html")
    assert "Not everything is here" not in page
    assert len(numbers(page)["layers"]) == len(LAYERS)
