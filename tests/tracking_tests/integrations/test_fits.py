"""What the callbacks have in common: options, destination, endings; without any library."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from tests.tracking_tests.models import batches, cnn, hooks_on, sgd
from tracking.errors import BadOption, RecordsWaiting
from tracking.integrations import fits as module
from tracking.integrations.fits import FitRecords
from tracking.mlflow_runs import attach as mlflow_attach
from tracking.sink import MemorySink

__all__: list[str] = []

pytestmark = pytest.mark.usefixtures("no_pictures")


def begin(fits: FitRecords, **options: Any) -> tuple[Any, Any]:
    model = cnn()
    optimizer = sgd(model)
    fits._begin(model, optimizer, expected_steps=None, **options)
    return model, optimizer


def test_unknown_option_is_named_with_those_that_there_are() -> None:
    with pytest.raises(BadOption, match=r"layer: no such option; allowed: layers.*mean 'layers'"):
        FitRecords(layer="all")


def test_option_that_cannot_be_used_is_refused_at_once() -> None:
    with pytest.raises(BadOption, match="every=-1"):
        FitRecords(every=-1)


def test_nothing_to_read_before_the_first_fit() -> None:
    for name in ("recorder", "activation_stats"):
        with pytest.raises(RuntimeError, match="nothing has been recorded yet"):
            getattr(FitRecords(), name)


def test_layers_that_match_nothing_leave_no_hook() -> None:
    fits = FitRecords(layers="none_such")
    model = cnn()
    optimizer = sgd(model)
    with pytest.raises(BadOption, match="matches no module"):
        fits._begin(model, optimizer, expected_steps=None)
    fits.close()
    assert hooks_on(model, optimizer) == 0


def test_a_second_fit_closes_the_first() -> None:
    fits = FitRecords()
    model, optimizer = begin(fits)
    other, its_optimizer = begin(fits)
    assert hooks_on(model, optimizer) == 0
    its_optimizer.step()
    fits.close()
    assert hooks_on(other, its_optimizer) == 0
    assert fits.recorder.read()["step"].to_pylist() == [0]


def test_own_failure_is_raised_only_after_a_fit_that_worked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tracking.tables.record_file.RecordFile.close", full)
    fits = FitRecords()
    for error in (None, ValueError("of the training")):
        model, optimizer = begin(fits)
        if error is None:
            with pytest.raises(OSError, match="No space left"):
                fits._close_after(error)
        else:
            fits._close_after(error)
        assert hooks_on(model, optimizer) == 0
    assert "the records are not complete: OSError: [Errno 28] No space left" in caplog.text


def attached_to(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> dict[str, Any]:
    """Stands for an MLflow store; says what it was asked for, and fails at the end."""
    seen: dict[str, Any] = {"sink": MemorySink()}

    @contextmanager
    def attached(*address: Any) -> Iterator[Any]:
        seen["address"] = address
        yield SimpleNamespace(sink=seen["sink"])
        if error:
            raise error

    monkeypatch.setattr(mlflow_attach, "attached_run", attached)
    return seen


def test_records_that_wait_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = attached_to(monkeypatch, RecordsWaiting("they wait; send them with replay"))
    fits = FitRecords(run_id="abc", tracking_uri="http://here")
    begin(fits)
    fits.close()
    assert seen["address"] == ("abc", "http://here")
    assert "they wait; send them with replay" in caplog.text
    assert sorted(seen["sink"].logged_artifacts) == [
        "activations/stats.parquet",
        "diagnosis.json",
        "evidence.json",
        "hyperparameters/steps.parquet",
    ]


def test_findings_are_warnings_when_they_are_new(caplog: pytest.LogCaptureFixture) -> None:
    fits = FitRecords()
    model = cnn()
    optimizer = sgd(model)
    nn.init.constant_(model[0].bias, -1e3)
    record = fits._begin(model, optimizer, expected_steps=None)
    for x in batches(20):
        model(x).square().mean().backward()
        optimizer.step()
        record.step()
    told = [line for line in caplog.messages if "(dead_layer)" in line]
    assert len(told) == 1
    expected = "critical at step 15: layer 1 (ReLU) gives nothing but zeros since step 0"
    assert told[0].startswith(expected)
    fits.close()


def test_the_run_that_the_user_names_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = attached_to(monkeypatch, None)
    loggers = SimpleNamespace(run=("of the logger", None))
    fits = FitRecords(run_id="named")
    begin(fits, run=loggers.run)
    fits.close()
    assert seen["address"] == ("named", None)
    fits = FitRecords()
    begin(fits, run=loggers.run)
    fits.close()
    assert seen["address"] == ("of the logger", None)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda fits: pickle.loads(pickle.dumps(fits))])
def test_a_copy_has_the_options_and_no_records(copied: Any) -> None:
    fits = FitRecords("elsewhere", layers="all", run_id=None)
    model, optimizer = begin(fits)
    twin = copied(fits)
    fits.close()
    assert (twin.options, twin.directory) == (fits.options, Path("elsewhere"))
    with pytest.raises(RuntimeError, match="nothing has been recorded"):
        twin.recorder  # noqa: B018 - it raises
    assert hooks_on(model, optimizer) == 0
    begin(twin)
    twin.close()
    assert twin.recorder.read().num_rows == 0


def test_statistics_are_there_after_the_fit() -> None:
    fits = FitRecords(every=2)
    model, optimizer = begin(fits, first_step=4)
    for x in batches(3):
        model(x)
        optimizer.step()
        fits._record.step()
    fits.close()
    model(batches(1)[0])
    assert sorted(set(fits.activation_stats.read()["step"].to_pylist())) == [4, 6]


@pytest.mark.parametrize("library", ["fastai", "lightning", "transformers"])
def test_a_library_is_imported_in_its_own_module_only(library: str) -> None:
    folder = Path(str(module.__file__)).parents[1]
    imported = re.compile(rf"^\s*(from|import) {library}\b", re.MULTILINE)
    users = [path for path in folder.rglob("*.py") if imported.search(path.read_text("utf-8"))]
    assert users == [folder / "integrations" / f"{library}.py"]
