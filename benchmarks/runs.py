"""One training by the project's own trainer, logged to a fresh MLflow store."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import mlflow
import pyarrow.compute as pc
import pyarrow.parquet as pq
from mlflow import MlflowClient

from benchmarks.timing import Figures
from pipelines.callbacks import Callback
from pipelines.config import RunConfig
from pipelines.run import prepare, train
from tracking.mlflow_runs.session import tracked_run

__all__ = ["EXPERIMENT", "fresh_store", "tracked_training"]

EXPERIMENT = "bench"


@contextmanager
def fresh_store() -> Iterator[Path]:
    """A folder with an empty SQLite store in it, which MLflow uses meanwhile; removed at the end.

    The store holds the experiment ``EXPERIMENT``, whose artifacts go into the same folder.
    """
    with tempfile.TemporaryDirectory(prefix="layerscope-bench-") as folder:
        shutil.copy(_empty_store(), folder)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        MlflowClient().create_experiment(EXPERIMENT, f"{folder}/artifacts")
        yield Path(folder)


@cache
def _empty_store() -> Path:
    """MLflow takes seconds to make its tables, so they are made once and copied."""
    folder = tempfile.mkdtemp(prefix="layerscope-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return Path(folder) / "mlflow.db"


def tracked_training(config: RunConfig, callbacks: Iterable[Callback] = ()) -> Figures:
    """Train and log. Seconds of the training epochs alone, and of the run as a whole.

    ``training`` is the loop over the training batches, without validation; ``whole run`` lasts from
    the opening of the MLflow run to its end, with validation, pictures and delivery. Neither has
    the preparation of data and model in it. ``accuracy`` is that of the last validation,
    ``recorded steps`` is how many steps have activation statistics.
    """
    setup = prepare(config)
    with fresh_store() as folder:
        began = time.perf_counter()
        with tracked_run(EXPERIMENT) as tracked:
            result = train(setup, tracked.directory, callbacks, tracked.sink, test=False)
        seconds = time.perf_counter() - began
        recorded = _recorded_steps(folder)
    if result.valid is None:
        raise ValueError("valid_fraction=0: the figures have the validation accuracy among them")
    samples = setup.loaders.train.samples
    return {
        "training": sum(samples / epoch.samples_per_second for epoch in result.history),
        "whole run": seconds,
        "accuracy": result.valid.accuracy,
        "recorded steps": recorded,
    }


def _recorded_steps(folder: Path) -> int:
    files = folder.rglob("activations/stats.parquet")
    steps = [pq.read_table(file, columns=["step"])["step"] for file in files]
    return sum(pc.count_distinct(column).as_py() for column in steps)
