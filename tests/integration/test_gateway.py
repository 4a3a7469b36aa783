"""A gateway that refuses some requests has not the last word: the rest arrives, they can follow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gateway import Gateway
from tests.integration.waiting_runs import run_that_waits
from tests.mlflow_stores import artifact_text, found_run, history, names_in
from tracking.errors import RecordsWaiting
from tracking.mlflow_runs.replay import replay_all
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.session import TrackedRun, tracked_run
from tracking.records import DatasetInfo, Metric
from tracking.spool import Spool

__all__: list[str] = []

LARGE = 2000
DATASET = DatasetInfo("digits", "d1", "scikit-learn", (1, 8, 8), ("0", "1"), {"train": 5})


@contextmanager
def gateway_to(
    server: Any,
    monkeypatch: pytest.MonkeyPatch,
    refuses: Callable[[str, str, bytes], int],
) -> Iterator[Gateway]:
    with Gateway(server.url, refuses) as gateway:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.url)
        yield gateway


def too_large(_method: str, _path: str, body: bytes) -> int:
    return 413 if len(body) > LARGE else 0


def nothing(_method: str, _path: str, _body: bytes) -> int:
    return 0


def write(tracked: TrackedRun, name: str, size: int) -> None:
    (tracked.directory / name).write_text("x" * size)
    tracked.sink.artifact(tracked.directory / name)


def test_a_file_too_large_for_a_gateway_follows_when_its_limit_is_raised(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gateway_to(server, monkeypatch, too_large) as gateway:
        with run_that_waits(60) as (tracked, raised):
            write(tracked, "large.txt", LARGE + 1)
            write(tracked, "small.txt", 5)
        text, run_id = str(raised.pop()), tracked.run.run_id
        assert "refused 1 records, the first: artifact 'large.txt' (413 " in text
        assert f"send them with: python layerscope.py replay {tracked.directory.absolute()}" in text
        assert "\n" not in text
        # Nothing else waits for it.
        assert found_run(server.url, run_id).info.status == "FINISHED"
        assert artifact_text(server.url, run_id, "small.txt") == "xxxxx"

        with pytest.raises(RecordsWaiting, match=r"records still wait in .*large.txt' \(413 "):
            list(replay_all())
        gateway.refuses = nothing
        assert list(replay_all()) == [f"run {run_id}: delivered to {gateway.url}"]
    assert artifact_text(server.url, run_id, "large.txt") == "x" * (LARGE + 1)
    run = found_run(server.url, run_id)
    assert (run.info.status, run.data.tags["layerscope.state"]) == ("FINISHED", "finished")
    assert names_in() == []


def test_a_batch_too_large_for_a_gateway_goes_in_smaller_ones(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gateway_to(server, monkeypatch, too_large), tracked_run("tests") as tracked:
        for key in ("a", "b", "c"):
            tracked.sink.metrics([Metric(key, n / 4, n, 1000.0 + n) for n in range(15)])
    for key in ("a", "b", "c"):
        assert len(history(server.url, tracked.run.run_id, key)) == 15
    assert names_in() == []


@pytest.mark.parametrize("status", [400, 413, 422])
def test_records_of_every_kind_follow(
    server: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    def everything_but_looks(method: str, path: str, _body: bytes) -> int:
        return status if method != "GET" and "runs/create" not in path else 0

    with gateway_to(server, monkeypatch, everything_but_looks) as gateway:
        with run_that_waits(60) as (tracked, raised):
            write(tracked, "a.txt", 5)
            tracked.sink.params({"p": "1", "q": "2"})
            tracked.sink.tags({"t": "3"})
            tracked.sink.dataset(DATASET)
            tracked.sink.metrics([Metric("loss", 0.5, 7, 1000.0)])
        run_id = tracked.run.run_id
        # Two parameters, three tags, the data set, the metric, the file and the end.
        assert "refused 9 records" in str(raised.pop())
        assert found_run(server.url, run_id).info.status == "RUNNING"
        gateway.refuses = nothing
        list(replay_all())
    assert names_in() == []
    run = found_run(server.url, run_id)
    assert (run.info.status, run.data.tags["layerscope.state"]) == ("FINISHED", "finished")
    assert (run.data.params, run.data.tags["t"]) == ({"p": "1", "q": "2"}, "3")
    assert run.inputs.dataset_inputs[0].dataset.name == "digits"
    assert history(server.url, run_id, "loss") == [(0.5, 7, 1_000_000)]
    assert artifact_text(server.url, run_id, "a.txt") == "xxxxx"


def test_what_mlflow_itself_refuses_stays_refused(
    server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with gateway_to(server, monkeypatch, nothing), tracked_run("tests") as tracked:
        tracked.sink.tags({"": "no name"})
    kept = (tracked.directory / "refused.jsonl").read_text()
    assert sorted(json.loads(kept)) == ["reason", "tags"]
    assert "MLflow refused 1 records" in caplog.text
    assert list(replay_all()) == ["nothing waits in .layerscope"]


def test_a_gateway_that_refuses_everything_is_a_server_that_is_away(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gateway_to(server, monkeypatch, nothing) as gateway:
        with run_that_waits(0.1) as (tracked, raised):
            gateway.refuses = lambda *_: 400
            tracked.sink.metrics([Metric("loss", 0.5, 7, 1000.0)])
        assert re.search(r"wait in .* \(.*error code 400", str(raised.pop()))
        assert names_in(tracked.directory) == ["spool"]
        gateway.refuses = nothing
        list(replay_all())
    assert history(server.url, tracked.run.run_id, "loss") == [(0.5, 7, 1_000_000)]


def test_a_run_whose_process_was_killed_ends_all_the_same(
    server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with gateway_to(server, monkeypatch, too_large) as gateway:
        run = MlflowRun.open("tests")
        folder = tmp_path / ".layerscope" / run.run_id
        target = {"tracking_uri": gateway.url, "run_id": run.run_id}
        spool = Spool(folder / "spool", target)
        spool.append({"metrics": [["loss", 0.5, 7, 1000.0]]})
        spool.close()
        (folder / "large.txt").write_text("x" * (LARGE + 1))
        for _ in range(2):
            with pytest.raises(RecordsWaiting, match=r"artifact 'large.txt' \(413 "):
                list(replay_all())
            assert found_run(server.url, run.run_id).info.status == "KILLED"
        gateway.refuses = nothing
        list(replay_all())
    assert artifact_text(server.url, run.run_id, "large.txt") == "x" * (LARGE + 1)
    assert found_run(server.url, run.run_id).data.tags["layerscope.state"] == "killed"
    assert names_in() == []


def test_a_run_that_goes_on_sends_what_came_back_before(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gateway_to(server, monkeypatch, too_large) as gateway:
        with run_that_waits(60) as (tracked, _):
            write(tracked, "large.txt", LARGE + 1)
        with (tracked.directory / "returned.jsonl").open("a") as file:
            file.write('{"reason": "torn')
        gateway.refuses = nothing
        monkeypatch.setenv("MLFLOW_RUN_ID", tracked.run.run_id)
        with tracked_run("tests"):
            pass
    assert artifact_text(server.url, tracked.run.run_id, "large.txt") == "x" * (LARGE + 1)
    assert found_run(server.url, tracked.run.run_id).info.status == "FINISHED"
    assert "torn" in (tracked.directory / "refused.jsonl").read_text()
