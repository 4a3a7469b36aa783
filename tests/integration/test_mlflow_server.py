"""What arrives through a real MLflow server, and what is said of it on the way."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from tests.mlflow_stores import artifact_text, found_run, history
from tracking.mlflow_runs.delivery import Delivery
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.session import tracked_run
from tracking.mlflow_runs.sink import MlflowSink
from tracking.records import DatasetInfo, Metric
from tracking.spool import Spool

__all__: list[str] = []

DATASET = DatasetInfo("digits", "d1", "scikit-learn", (1, 8, 8), ("0", "1"), {"train": 5})
MEAN = "activations/conv1.relu/mean"
LARGEST = 1.7976931348623157e308


def fill(sink: MlflowSink, folder: Path) -> None:
    (folder / "config.yaml").write_text("epochs: 1\n")
    (folder / "stats.parquet").write_text("rows")
    sink.params({f"option_{n}": str(n) for n in range(230)} | {"bad#param": "x"})
    sink.tags({f"tag_{n}": str(n) for n in range(130)})
    sink.dataset(DATASET)
    sink.metrics([Metric(MEAN, n / 8, n, 1_700_000_000.125 + n) for n in range(2300)])
    sink.metrics([Metric("bad#metric", 1.0, 0, 5.0), Metric("train/loss", math.nan, 0, 5.0)])
    sink.metrics([Metric("train/loss", math.inf, 1, 5.0), Metric("train/loss", -math.inf, 2, 5.0)])
    sink.artifact(folder / "config.yaml")
    sink.artifact(folder / "stats.parquet", "activations")


def check(uri: str, run_id: str) -> None:
    run = found_run(uri, run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {f"option_{n}": str(n) for n in range(230)}
    assert all(run.data.tags[f"tag_{n}"] == str(n) for n in range(130))
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "digits"
    assert dataset.dataset.digest.startswith("d1-")
    assert "features" in json.loads(dataset.dataset.schema)["mlflow_tensorspec"]
    points = [(n / 8, n, 1_700_000_000_125 + 1000 * n) for n in range(2300)]
    assert history(uri, run_id, MEAN) == points
    loss = {step: value for value, step, _ in history(uri, run_id, "train/loss")}
    assert math.isnan(loss.pop(0))
    assert loss == {1: LARGEST, 2: -LARGEST}
    assert artifact_text(uri, run_id, "config.yaml") == "epochs: 1\n"
    assert artifact_text(uri, run_id, "activations/stats.parquet") == "rows"


def test_everything_arrives_and_a_second_time_changes_nothing(server: Any, tmp_path: Path) -> None:
    run = MlflowRun.open("tests")
    sink = MlflowSink(run, tmp_path / "records")
    fill(sink, tmp_path / "records")
    sink.end("FINISHED")
    sink.close()
    check(server.url, run.run_id)
    # As after a process that was killed between sending and acknowledging.
    spool = Spool(tmp_path / "records" / "spool")
    spool.acknowledge(0)
    delivery = Delivery(spool, MlflowRun.find(server.url, run.run_id))
    while delivery.send():
        pass
    check(server.url, run.run_id)
    refused = (tmp_path / "records" / "refused.jsonl").read_text().splitlines()
    kinds = [sorted(json.loads(line)) for line in refused]
    assert kinds == 2 * [["params", "reason"], ["metrics", "reason"]]
    spool.close()


def test_console_stays_quiet(
    server: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with tracked_run("tests") as tracked:
        tracked.sink.metrics([Metric("lr", 0.1, 0, 5.0)])
    assert found_run(server.url, tracked.run.run_id).info.status == "FINISHED"
    assert capfd.readouterr() == ("", "")
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
