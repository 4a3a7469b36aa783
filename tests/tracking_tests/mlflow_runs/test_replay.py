"""Sending what earlier runs left, on a SQLite store; killed processes are in integration/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

import tracking
from tests.mlflow_stores import artifact_text, found_run, history, names_in, sqlite_store
from tracking.cli import replay
from tracking.errors import BadTracking, RecordsWaiting
from tracking.mlflow_runs.replay import replay_all
from tracking.mlflow_runs.run import MlflowRun
from tracking.spool import Spool

__all__: list[str] = []

ROOT = Path(".layerscope")


@pytest.fixture(autouse=True)
def _work_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    monkeypatch.chdir(tmp_path)


def left_run(*entries: Mapping[str, Any], uri: str = "", root: Path = ROOT) -> str:
    """A run whose process is gone, and its folder with entries that wait."""
    run_id = MlflowRun.open("tests").run_id
    target = {"tracking_uri": uri or sqlite_store(), "run_id": run_id}
    spool = Spool(root / run_id / "spool", target)
    for entry in entries:
        spool.append(dict(entry))
    spool.close()
    return run_id


def point(value: float, step: int) -> dict[str, Any]:
    return {"metrics": [["loss", value, step, 10.0 + step]]}


# -- what can go wrong --


def test_folder_that_does_not_exist() -> None:
    with pytest.raises(BadTracking, match="typo: no such folder"):
        list(replay_all(Path("typo")))


def test_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(replay_all()) == ["nothing waits in .layerscope"]
    Path("records").mkdir()
    monkeypatch.setenv("LAYERSCOPE_RECORDS", "records")
    assert list(replay_all()) == ["nothing waits in records"]
    assert names_in() == ["records"]


def test_one_store_that_is_away_does_not_stop_the_others() -> None:
    away = left_run(point(1.0, 0), uri="sqlite:////dev/null/mlflow.db")
    broken = left_run(point(1.0, 0))
    (ROOT / broken / "spool" / "target.json").write_text("{")
    good = left_run(point(1.0, 0), {"finish": ["FINISHED", 20.0]})
    lines = []
    with pytest.raises(RecordsWaiting) as error:
        lines.extend(replay_all())
    text = str(error.value)
    assert error.value.exit_code == 3
    assert "\n" not in text
    assert f"{ROOT / away} (" in text
    assert f"{ROOT / broken} (" in text
    assert good not in text
    assert found_run(sqlite_store(), good).info.status == "FINISHED"
    assert {path.name for path in ROOT.iterdir()} == {away, broken}


def test_run_that_was_deleted_keeps_its_records(capsys: pytest.CaptureFixture[str]) -> None:
    run_id = left_run(point(1.0, 0))
    client = MlflowClient(sqlite_store())
    client.delete_run(run_id)
    with pytest.raises(RecordsWaiting, match="has been deleted in MLflow; restore it"):
        list(replay_all())
    client.restore_run(run_id)
    list(replay_all())
    assert history(sqlite_store(), run_id, "loss") == [(1.0, 0, 10000)]


def test_run_whose_process_is_at_work_is_left_alone() -> None:
    run_id = left_run(point(1.0, 0))
    at_work = Spool(ROOT / run_id / "spool")
    assert list(replay_all()) == [f"run {run_id}: in use by another process, left alone"]
    assert at_work.waiting
    assert found_run(sqlite_store(), run_id).info.status == "RUNNING"
    at_work.close()


# -- what arrives --


def test_finished_run_arrives_and_its_folder_goes() -> None:
    folder = ROOT.absolute()
    run_id = left_run(
        {"params": {"lr": "0.1"}},
        point(2.0, 0),
        point(1.0, 1),
        {"artifact": ["a.txt", "texts"]},
        {"finish": ["FINISHED", 1_700_000_000.5]},
    )
    (folder / run_id / "a.txt").write_text("hello")
    (line,) = replay_all()
    assert line == f"run {run_id}: delivered to {sqlite_store()}"
    run = found_run(sqlite_store(), run_id)
    assert (run.info.status, run.info.end_time) == ("FINISHED", 1_700_000_000_500)
    assert run.data.params == {"lr": "0.1"}
    assert history(sqlite_store(), run_id, "loss") == [(1.0, 1, 11000), (2.0, 0, 10000)]
    assert artifact_text(sqlite_store(), run_id, "texts/a.txt") == "hello"
    assert names_in() == []


def test_killed_run_ends_and_hands_over_what_it_had_recorded() -> None:
    run_id = left_run(point(1.0, 0))
    parts = ROOT / run_id / "activations" / "parts" / "stats"
    parts.mkdir(parents=True)
    (parts / "00000000.parquet").write_text("rows")
    (parts / "00000001.tmp").write_text("half a part")
    entries = ROOT / run_id / "spool" / "entries.jsonl"
    os.utime(entries, (1_700_000_000, 1_700_000_000))
    (line,) = replay_all()
    assert line.endswith("; its process was killed, so it ended as KILLED")
    run = found_run(sqlite_store(), run_id)
    assert (run.info.status, run.info.end_time) == ("KILLED", 1_700_000_000_000)
    assert run.data.tags["layerscope.state"] == "killed"
    assert run.data.tags["layerscope.reason"] == "the process was killed"
    client = MlflowClient(sqlite_store())
    sent = [file.path for file in client.list_artifacts(run_id, "activations/parts/stats")]
    assert sent == ["activations/parts/stats/00000000.parquet"]
    assert [file.path for file in client.list_artifacts(run_id)] == ["activations"]
    assert names_in() == []


def test_uploader_whose_orders_end_in_the_middle_of_one() -> None:
    """As the process that trains leaves them when it is killed while it writes."""
    run_id = left_run(point(1.0, 0))
    order = {"order": "open", "upload": 0, "folder": str(ROOT / run_id), "environment": {}}
    whole = json.dumps(order | {"interval": 60.0, "patience": 60.0})
    subprocess.run(
        [sys.executable, "-P", "-m", "tracking.mlflow_runs.uploader", "1"],
        input=f"{whole}\n{whole[:50]}",
        env=os.environ | {"PYTHONPATH": str(Path(tracking.__file__).parents[1])},
        stdout=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=True,
    )
    assert history(sqlite_store(), run_id, "loss") == [(1.0, 0, 10_000)]
    assert found_run(sqlite_store(), run_id).info.status == "KILLED"
    assert names_in() == []


def test_run_of_another_owner_goes_on() -> None:
    run = MlflowRun.open("tests")
    target = {"tracking_uri": sqlite_store(), "run_id": run.run_id, "owner": "another"}
    spool = Spool(ROOT / run.run_id / "spool", target)
    spool.append(point(2.0, 0))
    spool.close()
    assert list(replay_all()) == [f"run {run.run_id}: delivered to {sqlite_store()}"]
    assert history(sqlite_store(), run.run_id, "loss") == [(2.0, 0, 10_000)]
    assert found_run(sqlite_store(), run.run_id).info.status == "RUNNING"


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_killed_process_had_for_another_s_run_is_handed_over(killed: bool) -> None:
    run = MlflowRun.open("tests")
    target = {"tracking_uri": sqlite_store(), "run_id": run.run_id, "owner": "another"}
    spool = Spool(ROOT / run.run_id / "spool", target)
    spool.append(point(2.0, 0))
    if not killed:
        spool.append({"closed": True})
    spool.close()
    (ROOT / run.run_id / "steps.parquet").write_text("recorded")
    assert list(replay_all()) == [f"run {run.run_id}: delivered to {sqlite_store()}"]
    sent = [file.path for file in MlflowClient(sqlite_store()).list_artifacts(run.run_id)]
    assert sent == (["steps.parquet"] if killed else [])
    assert found_run(sqlite_store(), run.run_id).info.status == "RUNNING"
    assert names_in() == []


def test_run_that_mlflow_has_ended_keeps_its_status() -> None:
    """A study ends the run of a dead worker before that worker's records have been sent."""
    run_id = left_run({"tags": {"layerscope.state": "running"}}, point(1.0, 0))
    (ROOT / run_id / "steps.parquet").write_text("recorded")
    MlflowClient(sqlite_store()).set_terminated(run_id, "FAILED")
    (line,) = replay_all()
    assert "KILLED" not in line
    run = found_run(sqlite_store(), run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["layerscope.state"] == "failed"
    assert artifact_text(sqlite_store(), run_id, "steps.parquet") == "recorded"
    assert names_in() == []


def test_run_that_was_finished_in_order_is_not_touched_again() -> None:
    run_id = left_run({"finish": ["FINISHED", 1.0]})
    (ROOT / run_id / "left.txt").write_text("not handed over by its process")
    list(replay_all())
    client = MlflowClient(sqlite_store())
    assert client.list_artifacts(run_id) == []
    assert "layerscope.state" not in client.get_run(run_id).data.tags


def test_refused_records_stay_and_are_named() -> None:
    run_id = left_run({"params": {"bad#name": "1", "good": "2"}}, {"finish": ["FINISHED", 1.0]})
    (line,) = replay_all()
    kept = ROOT.absolute() / run_id / "refused.jsonl"
    assert "MLflow refused 1 records, the first: params 'bad#name'" in line
    assert str(kept) in line
    assert found_run(sqlite_store(), run_id).data.params == {"good": "2"}
    assert names_in(ROOT / run_id) == ["refused.jsonl"]
    assert list(replay_all()) == ["nothing waits in .layerscope"]


def test_folder_may_have_been_moved(tmp_path: Path) -> None:
    run_id = left_run({"artifact": ["a.txt", ""]}, {"finish": ["FINISHED", 1.0]})
    (ROOT / run_id / "a.txt").write_text("hello")
    shutil.move(ROOT, tmp_path / "elsewhere")
    list(replay_all(tmp_path / "elsewhere" / run_id))
    assert artifact_text(sqlite_store(), run_id, "a.txt") == "hello"
    assert names_in(tmp_path / "elsewhere") == []


def test_several_runs_through_the_command() -> None:
    runs = [left_run(point(n, 0), {"finish": ["FINISHED", 1.0]}) for n in range(3)]
    result = CliRunner().invoke(replay, [str(ROOT)])
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) == 3
    for n, run_id in enumerate(runs):
        assert f"run {run_id}: delivered" in result.output
        assert history(sqlite_store(), run_id, "loss") == [(n, 0, 10000)]
    assert names_in() == []
