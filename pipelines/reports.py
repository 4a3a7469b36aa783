"""What commands leave and say beside a run's own records: range-test curves, where to look."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipelines.lr_range import LrRange
from tracking.mlflow_runs.session import TrackedRun
from tracking.plots.figures import lr_range_figure, save
from tracking.records import Metric
from tracking.sink import Sink

__all__ = ["log_lr_range", "where_to_look"]


def where_to_look(console: Console, tracked: TrackedRun) -> None:
    """Say which run it is, and how to look at it."""
    uri = tracked.run.shown_uri.rstrip("/")
    console.print(f"run {tracked.run.run_id}")
    if uri.startswith("http"):
        experiment = tracked.run.experiment_id
        console.print(f"look at it: {uri}/#/experiments/{experiment}/runs/{tracked.run.run_id}")
    else:
        page = f"#/experiments/{tracked.run.experiment_id}/runs/{tracked.run.run_id}"
        console.print(f"look at it: make ui, or: mlflow ui --backend-store-uri {uri}")
        console.print(f"and open http://127.0.0.1:5000/{page}")


def log_lr_range(result: LrRange, folder: Path, sink: Sink) -> None:
    """Leave a range test's curve, picture and suggestions in a folder, and in a run."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = range(len(result.lrs))
    columns = {"step": steps, "lr": result.lrs, "loss_smooth": result.losses}
    pq.write_table(pa.table({k: pa.array(v) for k, v in columns.items()}), folder / "curve.parquet")
    suggestions = json.dumps(result.suggestions, indent=1)
    (folder / "suggestions.json").write_text(suggestions, encoding="utf-8")
    save(lr_range_figure(result.lrs, result.losses, result.suggestions), folder / "curve.png")
    for path in sorted(folder.iterdir()):
        sink.artifact(path, "lr_range")
    now = time.time()
    curve = zip(steps, result.lrs, result.losses, strict=True)
    for step, lr, loss in curve:
        sink.metrics([Metric("lr", lr, step, now), Metric("train/loss_smooth", loss, step, now)])
    sink.metrics([Metric(f"lr_range/{k}", v, 0, now) for k, v in result.suggestions.items()])
