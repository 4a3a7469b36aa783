"""The sink that reaches MLflow, on SQLite; with servers that fail in tests/integration."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.mlflow_stores import found_run, history, sqlite_store
from tracking.errors import BadTracking, RecordsWaiting
from tracking.mlflow_runs import uploads
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.sink import MlflowSink
from tracking.records import Metric
from tracking.spool import Spool

__all__: list[str] = []


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> MlflowRun:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    return MlflowRun.open("tests")


def entries(directory: Path) -> list[dict[str, Any]]:
    text = (directory / "spool" / "entries.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_value_that_is_no_number_is_refused_at_once(run: MlflowRun, tmp_path: Path) -> None:
    sink = MlflowSink(run, tmp_path)
    with pytest.raises(ValueError, match="could not convert"):
        sink.metrics([Metric("a", "high", 0, 5.0)])  # type: ignore[arg-type]
    sink.close()
    assert entries(tmp_path) == []


def test_two_sinks_for_one_folder(run: MlflowRun, tmp_path: Path) -> None:
    first = MlflowSink(run, tmp_path)
    with pytest.raises(BadTracking, match="in use by another process"):
        MlflowSink(run, tmp_path)
    first.close()


def test_a_clock_that_is_put_back_ends_no_run_before_it_began(
    run: MlflowRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = MlflowSink(run, tmp_path)
    now = time.time()
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now - 86400)
        sink.end("FINISHED")
    sink.close()
    info = found_run(sqlite_store(), run.run_id).info
    assert (info.status, info.end_time) == ("FINISHED", info.start_time)


def test_end_of_the_run_is_when_it_ended(run: MlflowRun, tmp_path: Path) -> None:
    sink = MlflowSink(run, tmp_path)
    before = int(time.time() * 1000)
    sink.end("FAILED")
    sink.close()
    after = int(time.time() * 1000)
    sink.end("FINISHED")
    sink.close()
    info = found_run(sqlite_store(), run.run_id).info
    assert info.status == "FAILED"
    assert before <= info.end_time <= after


def test_closed_sink_gives_the_spool_back(run: MlflowRun, tmp_path: Path) -> None:
    sink = MlflowSink(run, tmp_path)
    sink.close()
    spool = Spool(tmp_path / "spool")
    assert spool.target == {"tracking_uri": sqlite_store(), "run_id": run.run_id}
    spool.close()


def test_runs_one_after_another_share_an_uploader(run: MlflowRun, tmp_path: Path) -> None:
    for name in ("first", "second"):
        sink = MlflowSink(run, tmp_path / name)
        sink.metrics([Metric(name, 1.0, 0, 5.0)])
        sink.close()
    assert found_run(sqlite_store(), run.run_id).data.metrics == {"first": 1.0, "second": 1.0}
    assert len(uploads._current) == 1


def test_records_wait_where_the_uploader_has_died(
    run: MlflowRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_current", [])  # one of its own, so that it may be killed
    sink = MlflowSink(run, tmp_path / "first")
    (uploader,) = uploads._current
    uploader._process.kill()
    uploader._process.wait()
    sink.metrics([Metric("a", 1.0, 0, 5.0)])
    with pytest.raises(RecordsWaiting, match="uploading process has ended"):
        sink.close()
    again = MlflowSink(run, tmp_path / "first")  # what waits there goes first
    again.close()
    assert found_run(sqlite_store(), run.run_id).data.metrics == {"a": 1.0}
    assert uploads._current != [uploader]
    uploads._current[0]._end()


def test_what_a_library_prints_is_not_taken_for_news(
    run: MlflowRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_current", [])
    (tmp_path / "sitecustomize.py").write_text("print('hello', end='')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sink = MlflowSink(run, tmp_path / "first")
    sink.metrics([Metric("a", 1.0, 0, 5.0)])
    sink.close()
    assert found_run(sqlite_store(), run.run_id).data.metrics == {"a": 1.0}
    uploads._current[0]._end()


def test_nobody_waits_after_news_that_cannot_be_read(tmp_path: Path) -> None:
    uploads.start_uploader()
    (uploader,) = uploads._current
    hears_nothing = uploads.Upload(uploader, 0, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploader, "_uploads", {0: hears_nothing})
        patch.setattr(uploader, "_news", io.StringIO('{"upload": 0, "en'))
        uploader._listen()
    assert hears_nothing.wait(0)
    assert hears_nothing.away == "the uploading process has ended"


def test_files_in_the_runs_folder_are_found_wherever_it_is_moved(
    run: MlflowRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directory, outside = Path("records"), tmp_path / "outside.txt"
    sink = MlflowSink(run, directory)
    (directory / "deep").mkdir()
    for path in (directory / "deep" / "inside.txt", outside):
        path.write_text("hello")
        sink.artifact(path)
    sink.close()
    paths = [entry["artifact"][0] for entry in entries(directory)]
    assert paths == ["deep/inside.txt", str(outside)]


def test_points_are_sent_while_the_run_goes_on(run: MlflowRun, tmp_path: Path) -> None:
    sink = MlflowSink(run, tmp_path, interval=0.01)
    sink.metrics([Metric("a", 1.5, 0, 5.0)])
    deadline = time.monotonic() + 60
    while not history(sqlite_store(), run.run_id, "a"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert history(sqlite_store(), run.run_id, "a") == [(1.5, 0, 5000)]
    sink.close()
