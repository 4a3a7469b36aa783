"""Records for a run that another has opened: they arrive, and the run stays its owner's."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.mlflow_stores import artifact_text, found_run, history, names_in, sqlite_store
from tracking.errors import BadTracking, RecordsWaiting
from tracking.mlflow_runs.attach import attached_run
from tracking.mlflow_runs.replay import replay_all
from tracking.mlflow_runs.run_folders import records_root
from tracking.mlflow_runs.session import TrackedRun
from tracking.mlflow_runs.sink import MlflowSink
from tracking.records import Metric
from tracking.spool import Spool, SpoolInUse

__all__: list[str] = []


@pytest.fixture(autouse=True)
def _work_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run_id() -> str:
    """A run that goes on."""
    client = MlflowClient(sqlite_store())
    experiment = client.get_experiment_by_name("tests")
    return str(client.create_run(experiment.experiment_id).info.run_id)


def trained(attached: TrackedRun, error: BaseException | None) -> None:
    """One point of a metric, and then the training's own failure."""
    attached.sink.metrics([Metric("loss", 1.0, 0, 1e9)])
    if error:
        raise error


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite:////dev/null/mlflow.db", "store sqlite:////dev/null/mlflow.db"),
        (None, "check the run's id and tracking_uri"),
        ("sqlite:///not-there/mlflow.db", "No such file or directory"),
    ],
)
def test_run_that_cannot_be_found(uri: str | None, message: str) -> None:
    with (
        pytest.raises(BadTracking, match=message) as error,
        attached_run("0" * 32, uri or sqlite_store()),
    ):
        raise AssertionError("the body must not run")
    assert str(error.value).startswith("run 00000000000000000000000000000000 in MLflow store")
    assert "\n" not in str(error.value)
    assert names_in() == []  # nor a store that is empty


def test_run_that_has_been_deleted(run_id: str) -> None:
    MlflowClient(sqlite_store()).delete_run(run_id)
    with (
        pytest.raises(BadTracking, match="has been deleted"),
        attached_run(run_id, sqlite_store()),
    ):
        raise AssertionError("the body must not run")


def test_run_that_another_records_for(run_id: str) -> None:
    with (
        attached_run(run_id, sqlite_store()),
        pytest.raises(SpoolInUse),
        attached_run(run_id, sqlite_store()),
    ):
        raise AssertionError("the body must not run")
    assert names_in() == []


def test_run_whose_killed_owner_has_left_records(run_id: str) -> None:
    """Who goes on with its spool would leave the run, and what lies in its folder, to nobody."""
    folder = records_root() / run_id
    left = Spool(folder / "spool", {"tracking_uri": sqlite_store(), "run_id": run_id})
    left.append({"tags": {"layerscope.state": "running"}})
    left.close()
    with (
        pytest.raises(BadTracking, match=f"send them first: .* replay {folder}"),
        attached_run(run_id, sqlite_store()),
    ):
        raise AssertionError("the body must not run")
    (line,) = replay_all()
    assert line.endswith("it ended as KILLED")
    with attached_run(run_id, sqlite_store()):
        pass


def test_run_whose_end_waits_is_ended_all_the_same(run_id: str) -> None:
    folder = records_root() / run_id
    left = Spool(folder / "spool", {"tracking_uri": sqlite_store(), "run_id": run_id})
    left.append({"finish": ["FINISHED", 1e9]})
    left.close()
    with attached_run(run_id, sqlite_store()) as attached:
        attached.sink.metrics([Metric("loss", 1.0, 0, 1e9)])
    assert found_run(sqlite_store(), run_id).info.status == "FINISHED"
    assert history(sqlite_store(), run_id, "loss") == [(1.0, 0, 10**12)]


def test_records_arrive_and_the_run_goes_on(
    run_id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    with attached_run(run_id) as attached:
        (tmp_path / "note.txt").write_text("kept")
        attached.sink.artifact(tmp_path / "note.txt", "notes")
        attached.sink.metrics([Metric("loss", 0.5, 3, 1e9)])
    run = found_run(sqlite_store(), run_id)
    assert (run.info.status, run.info.end_time) == ("RUNNING", None)
    assert "layerscope.version" in run.data.tags
    assert "layerscope.state" not in run.data.tags
    assert history(sqlite_store(), run_id, "loss") == [(0.5, 3, 10**12)]
    assert artifact_text(sqlite_store(), run_id, "notes/note.txt") == "kept"
    assert names_in() == ["note.txt"]


def test_a_relative_store_is_found_from_another_folder(run_id: str, tmp_path: Path) -> None:
    relative = Path(sqlite_store().removeprefix("sqlite:///"))
    (tmp_path / "here.db").symlink_to(relative)
    with attached_run(run_id, "sqlite:///here.db") as attached:
        assert attached.run.tracking_uri == f"sqlite:///{tmp_path}/here.db"


def test_failure_of_the_body_is_raised_after_everything_has_arrived(run_id: str) -> None:
    with pytest.raises(KeyboardInterrupt), attached_run(run_id, sqlite_store()) as attached:
        trained(attached, KeyboardInterrupt())
    assert found_run(sqlite_store(), run_id).info.status == "RUNNING"
    assert len(history(sqlite_store(), run_id, "loss")) == 1


@pytest.mark.parametrize("body", [None, ValueError("the body's own")])
def test_records_that_do_not_arrive_stay(
    run_id: str,
    body: Exception | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    close = MlflowSink.close

    def away(self: MlflowSink) -> None:
        close(self)
        raise RecordsWaiting("they wait")

    monkeypatch.setattr(MlflowSink, "close", away)
    with (
        pytest.raises(ValueError if body else RecordsWaiting) as raised,
        attached_run(run_id, sqlite_store()) as attached,
    ):
        trained(attached, body)
    assert raised.value is body or str(raised.value) == "they wait"
    assert ("they wait" in caplog.text) == bool(body)
    assert names_in(f".layerscope/{run_id}") == ["spool"]
