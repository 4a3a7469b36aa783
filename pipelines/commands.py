"""What the commands do: prepare, open an MLflow run, work, say where to look."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipelines.config import LrRangeConfig, RunConfig
from pipelines.lr_range import LrRange, lr_range_test
from pipelines.progress import LrRangeProgress, ProgressReport, user_console
from pipelines.run import FitResult, Setup, prepare, train
from pipelines.serving import serving_model
from tracking.diagnosis.text import line
from tracking.errors import TrainingFailed
from tracking.plots import lr_range_figure, save
from tracking.records import Metric
from tracking.run_reports import reported
from tracking.session import TrackedRun, tracked_run
from tracking.sink import Sink

__all__ = ["lr_find_command", "train_command"]


def train_command(config: RunConfig) -> None:
    """Train, with an MLflow run around it."""
    console = user_console()
    setup = prepare(config)
    console.print(_headline(setup))
    with _tracked(config, console) as tracked:
        with reported(tracked, config.flat(), page=config.report) as sink:
            progress = [ProgressReport(console)]
            result = train(
                setup,
                tracked.directory,
                progress,
                sink,
                announce=lambda finding: console.print(line(finding)),
            )
        _report(console, result)
        if config.log_model:
            tracked.log_model(*serving_model(result.model, result.data))


def lr_find_command(config: RunConfig, options: LrRangeConfig) -> None:
    """Run the range test, with an MLflow run around it."""
    console = user_console()
    setup = prepare(config)
    console.print(_headline(setup))
    with _tracked(config, console) as tracked:
        given = {name: str(value) for name, value in options.model_dump().items()}
        tracked.sink.params(setup.config.flat() | given)
        with LrRangeProgress(console, options.lr_steps) as progress:
            result = lr_range_test(setup, options, progress)
        if result.lrs:
            _log_lr_range(result, tracked.directory / "lr_range", tracked.sink)
        if result.trouble:
            raise TrainingFailed(result.trouble)
        _report_lr_range(console, result)


@contextmanager
def _tracked(config: RunConfig, console: Console) -> Iterator[TrackedRun]:
    """An MLflow run; however it ends, the last lines on the console say where to look at it."""
    with ExitStack() as last, tracked_run(config.experiment, config.run_name) as tracked:
        last.callback(_where_to_look, console, tracked)
        yield tracked


def _headline(setup: Setup) -> str:
    data, config = setup.data, setup.config
    shape = "x".join(map(str, data.image_shape))
    return (
        f"{data.name}: {len(data.train):,} training, {len(data.valid):,} validation, "
        f"{len(data.test):,} test images of {shape}, {data.num_classes} classes\n"
        f"{config.model}: {setup.summary.trainable:,} trainable parameters on {setup.device}"
    )


def _report(console: Console, result: FitResult) -> None:
    if result.stopped:
        console.print(f"stopped early: {result.stopped}")
    if result.test is not None:
        console.print(
            f"test accuracy {result.test.accuracy:.2%}, test loss {result.test.loss:.4f}",
            style="bold",
        )


def _report_lr_range(console: Console, result: LrRange) -> None:
    table = Table("method", "peak learning rate")
    for name, lr in result.suggestions.items():
        table.add_row(name, f"{lr:.2e}")
    console.print(table)
    name, lr = next(iter(result.suggestions.items()))
    console.print(f"a good start: --lr-max {lr:.1e} ({name})")


def _where_to_look(console: Console, tracked: TrackedRun) -> None:
    uri = tracked.run.shown_uri.rstrip("/")
    console.print(f"run {tracked.run.run_id}")
    if uri.startswith("http"):
        experiment = tracked.run.experiment_id
        console.print(f"look at it: {uri}/#/experiments/{experiment}/runs/{tracked.run.run_id}")
    else:
        console.print(f"look at it: make ui, or: mlflow ui --backend-store-uri {uri}")


def _log_lr_range(result: LrRange, folder: Path, sink: Sink) -> None:
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
