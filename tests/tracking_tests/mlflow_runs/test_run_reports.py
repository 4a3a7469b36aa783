"""A run's description and page, made where it is trained, however it ends."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.mlflow_stores import artifact_text, found_run, sqlite_store
from tests.tracking_tests.reports import DATASET, run_folder
from tracking.errors import NonFiniteLoss
from tracking.mlflow_runs.report import NOTE
from tracking.mlflow_runs.run_reports import reported
from tracking.mlflow_runs.session import TrackedRun, tracked_run
from tracking.records import Metric

__all__: list[str] = []

PARAMS = {"model": "simple_cnn", "dataset": "digits", "epochs": "3"}


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    monkeypatch.setenv("LAYERSCOPE_RECORDS", str(tmp_path / "records"))


def trained(*, error: BaseException | None = None, page: bool = True, note: str = "") -> Run:
    """A run that trained, or tried to."""
    found: list[TrackedRun] = []
    try:
        with tracked_run("tests", "merry-crow") as tracked:
            found.append(tracked)
            if note:
                tracked.run.client.set_tag(tracked.run.run_id, NOTE, note)
            with reported(tracked, PARAMS, page=page) as sink:
                sink.params(PARAMS | {"lr_max": "0.01"})
                sink.dataset(DATASET)
                sink.metrics([Metric("valid/accuracy", 0.987, 60, 1e9)])
                run_folder(tracked.directory)
                if error is not None:
                    raise error
    except (NonFiniteLoss, KeyboardInterrupt):
        assert error is not None
    return found_run(sqlite_store(), found[0].run.run_id)


def page_of(run: Run) -> str:
    return artifact_text(sqlite_store(), run.info.run_id, "report.html")


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (NonFiniteLoss("the loss became nan by step 4"), "failed", "the loss became nan by step 4"),
        (KeyboardInterrupt(), "killed", "interrupted (SIGINT)"),
    ],
)
def test_a_run_that_failed_has_a_page_that_says_why(
    error: BaseException, state: str, reason: str
) -> None:
    run = trained(error=error)
    assert run.info.status == state.upper()
    page = page_of(run)
    assert f'class="state bad">{state}<' in page
    assert reason in page
    assert run.data.tags[NOTE].count(reason.replace("(", "(")) == 1


def test_a_page_that_cannot_be_made_does_not_fail_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tracking.mlflow_runs.run_reports.write_report", full)
    with caplog.at_level(logging.WARNING, "layerscope"):
        run = trained()
    assert run.info.status == "FINISHED"
    [warning] = [r.message for r in caplog.records]
    assert "No space left on device" in warning
    assert f"layerscope.py report {run.info.run_id}" in warning


def test_a_page_that_was_not_wanted() -> None:
    run = trained(page=False)
    names = [f.path for f in MlflowClient(sqlite_store()).list_artifacts(run.info.run_id)]
    assert "report.html" not in names
    assert "98.70 %" in run.data.tags[NOTE]


def test_page_and_description_of_a_run_that_went_well() -> None:
    run = trained()
    page = page_of(run)
    assert 'class="state good">finished<' in page
    assert "merry-crow" in page
    assert "98.70 %" in page
    assert "Not everything is here" not in page
    note = run.data.tags[NOTE]
    assert note.startswith("simple_cnn on digits, 3 epochs")
    assert "| validation accuracy | **98.70 %** |" in note
    assert run.info.run_id in note


def test_a_description_by_somebody_else_stays() -> None:
    assert trained(note="my best run").data.tags[NOTE] == "my best run"
