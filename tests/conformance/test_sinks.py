"""One suite over every Sink: what is given arrives, whichever sink it was given to."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.mlflow_stores import found_run, history, sqlite_store
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.sink import MlflowSink
from tracking.records import DatasetInfo, Metric
from tracking.sink import FanOutSink, MemorySink, NullSink, Sink

__all__: list[str] = []

DATASET = DatasetInfo("digits", "d1", "here", (1, 28, 28), ("0", "1"), {"train": 2})
Points = dict[str, list[tuple[float, int, int]]]


@dataclass(frozen=True)
class Arrived:
    """What a sink took, in one form for all of them."""

    params: dict[str, str]
    tags: dict[str, str]
    points: Points
    """Value, step, milliseconds."""
    datasets: list[tuple[str, str]]
    artifacts: list[str]
    images: list[tuple[str, int]]
    """Key and step."""


@dataclass(frozen=True)
class Case:
    """A sink, and a way to see what has arrived; None where nothing is kept."""

    sink: Sink
    arrived: Callable[[], Arrived] | None


def in_memory(sink: MemorySink) -> Arrived:
    points: Points = {}
    for m in sink.logged_metrics:
        points.setdefault(m.key, []).append((m.value, m.step, int(m.time * 1000)))
    return Arrived(
        params=sink.logged_params,
        tags=sink.logged_tags,
        points={key: sorted(values) for key, values in points.items()},
        datasets=[(info.name, info.digest) for info in sink.logged_datasets],
        artifacts=sorted(sink.logged_artifacts),
        images=sorted(sink.logged_images),
    )


def in_mlflow(run: MlflowRun) -> Arrived:
    found = found_run(sqlite_store(), run.run_id)
    datasets = [entry.dataset for entry in found.inputs.dataset_inputs]
    folders = ("", "activations")
    files = [f for folder in folders for f in run.client.list_artifacts(run.run_id, folder)]
    return Arrived(
        params=found.data.params,
        tags={k: v for k, v in found.data.tags.items() if not k.startswith("mlflow.")},
        points={key: history(sqlite_store(), run.run_id, key) for key in found.data.metrics},
        datasets=[(data.name, data.digest.partition("-")[0]) for data in datasets],
        artifacts=sorted(file.path for file in files if not file.is_dir),
        images=images_in_mlflow(run),
    )


def images_in_mlflow(run: MlflowRun) -> list[tuple[str, int]]:
    """As the run's page reads them from the names of the files: each is there whole and small."""
    found: dict[str, list[tuple[str, int]]] = {".png": [], ".webp": []}
    for file in run.client.list_artifacts(run.run_id, "images"):
        key, _, step, *_ = Path(file.path).name.split("+")
        found[Path(file.path).suffix].append((key.replace("~", "/"), int(step)))
    assert sorted(found[".png"]) == sorted(found[".webp"])
    return sorted(found[".png"])


@pytest.fixture(params=["null", "memory", "fan-out", "fan-out to mlflow", "mlflow"])
def case(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    memory = MemorySink()
    if request.param == "null":
        return Case(NullSink(), None)
    if request.param == "memory":
        return Case(memory, lambda: in_memory(memory))
    if request.param == "fan-out":
        return Case(FanOutSink(NullSink(), memory), lambda: in_memory(memory))
    run = MlflowRun.open("tests")
    sink = MlflowSink(run, tmp_path / "records", interval=0.05)
    chosen = FanOutSink(memory, sink) if "fan-out" in request.param else sink
    return Case(chosen, lambda: in_mlflow(run))


def closed(case: Case) -> Arrived | None:
    case.sink.close()
    return case.arrived() if case.arrived else None


NOTHING = Arrived({}, {}, {}, [], [], [])


# -- edges --


def test_nothing_is_given(case: Case) -> None:
    assert closed(case) in (NOTHING, None)


def test_empty_collections(case: Case) -> None:
    case.sink.metrics([])
    case.sink.params({})
    case.sink.tags({})
    assert closed(case) in (NOTHING, None)


def test_closing_twice(case: Case) -> None:
    case.sink.params({"lr": "0.1"})
    case.sink.close()
    arrived = closed(case)
    assert arrived is None or arrived.params == {"lr": "0.1"}


def test_file_that_is_gone_spoils_nothing(case: Case, tmp_path: Path) -> None:
    case.sink.artifact(tmp_path / "gone.txt")
    case.sink.image(tmp_path / "gone.png", "gone", 0)
    case.sink.params({"lr": "0.1"})
    arrived = closed(case)
    assert arrived is None or arrived.params == {"lr": "0.1"}


def test_values_that_are_no_plain_floats(case: Case) -> None:
    values = [math.nan, 1, np.float32(0.5), np.float64(0.1)]
    case.sink.metrics([Metric("a", v, np.int64(n), 0.0) for n, v in enumerate(values)])
    arrived = closed(case)
    if arrived is not None:
        by_step = {step: value for value, step, _ in arrived.points["a"]}
        assert math.isnan(by_step[0])
        assert [by_step[n] for n in (1, 2, 3)] == [1.0, 0.5, 0.1]


# -- what arrives --


def test_everything_arrives(case: Case, tmp_path: Path) -> None:
    sink, keys = case.sink, ("activations/conv1.relu/mean", "train/loss")
    (tmp_path / "config.yaml").write_text("epochs: 1\n")
    (tmp_path / "stats.parquet").write_text("rows")
    sink.params({"lr": "0.1"})
    sink.params({"epochs": "5", "a/b.c": ""})
    sink.tags({"state": "running", "version": "1"})
    sink.tags({"state": "finished"})
    sink.dataset(DATASET)
    for n in range(3):
        sink.metrics([Metric(key, n + 0.25, n, 100.5 + n) for key in keys])
    sink.artifact(tmp_path / "config.yaml")
    sink.hurry()
    sink.artifact(tmp_path / "stats.parquet", "activations")
    sink.hurry()
    Image.new("RGB", (600, 30), "red").save(tmp_path / "red.png")
    for key, step in (("color_dim", 20), ("layers/conv1", 20), ("color_dim", np.int64(40))):
        sink.image(tmp_path / "red.png", key, step)
    arrived = closed(case)
    points = [(n + 0.25, n, 100_500 + 1000 * n) for n in range(3)]
    assert arrived is None or arrived == Arrived(
        params={"lr": "0.1", "epochs": "5", "a/b.c": ""},
        tags={"state": "finished", "version": "1"},
        points=dict.fromkeys(keys, points),
        datasets=[("digits", "d1")],
        artifacts=["activations/stats.parquet", "config.yaml"],
        images=[("color_dim", 20), ("color_dim", 40), ("layers/conv1", 20)],
    )


def test_points_may_come_in_any_order(case: Case) -> None:
    for step in (2, 0, 1):
        case.sink.metrics([Metric("a", step / 4, step, 10.0 + step)])
    arrived = closed(case)
    expected = [(step / 4, step, 10_000 + 1000 * step) for step in range(3)]
    assert arrived is None or arrived.points == {"a": expected}


def test_points_from_several_threads(case: Case) -> None:
    def give(key: str) -> None:
        for n in range(100):
            case.sink.metrics([Metric(key, float(n), n, 10.0 + n)])

    threads = [threading.Thread(target=give, args=(key,)) for key in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    arrived = closed(case)
    expected = [(float(n), n, 10_000 + 1000 * n) for n in range(100)]
    assert arrived is None or arrived.points == dict.fromkeys(("a", "b", "c"), expected)
