"""What the commands do: prepare, open an MLflow run, work, say where to look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from rich.console import Console
from rich.table import Table

from pipelines.config import RunConfig
from pipelines.console import user_console
from pipelines.lr_range import LrRange, lr_range_test
from pipelines.lr_range_config import LrRangeConfig
from pipelines.progress import LrRangeProgress, ProgressReport
from pipelines.reports import log_lr_range, where_to_look
from pipelines.run import FitResult, Setup, prepare, train
from pipelines.serving import serving_model
from tracking.errors import TrainingFailed
from tracking.mlflow_runs.run_reports import reported
from tracking.mlflow_runs.session import TrackedRun, tracked_run
from tracking.records import Finding

__all__ = ["lr_find_command", "train_command"]


def train_command(
    config: RunConfig, *, register: str = "", tags: Mapping[str, str] | None = None
) -> None:
    """Train, with an MLflow run around it.

    ``register``: the name under which the model becomes a version in MLflow's registry; ``tags``:
    more tags of the run.
    """
    console = user_console()
    setup = prepare(config)
    console.print(_headline(setup))
    with _tracked(config, console) as tracked:
        tracked.sink.tags(tags or {})
        with reported(tracked, config.flat(), page=config.report) as sink:
            progress = [ProgressReport(console)]
            announced: list[Finding] = []

            def announce(finding: Finding) -> None:
                announced.append(finding)
                console.print(str(finding))

            result = train(setup, tracked.directory, progress, sink, announce=announce)
        _report(console, result, announced)
        if config.log_model:
            model = partial(serving_model, result.model, result.data)
            version = tracked.log_model(model, register)
            if version is not None:
                console.print(f"registered as {register}, version {version}")


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
            log_lr_range(result, tracked.directory / "lr_range", tracked.sink)
        if result.trouble:
            raise TrainingFailed(result.trouble)
        _report_lr_range(console, result)


@contextmanager
def _tracked(config: RunConfig, console: Console) -> Iterator[TrackedRun]:
    """An MLflow run; however it ends, the last lines on the console say where to look at it."""
    with ExitStack() as last, tracked_run(config.experiment, config.run_name) as tracked:
        last.callback(where_to_look, console, tracked)
        yield tracked


def _headline(setup: Setup) -> str:
    data, config = setup.data, setup.config
    shape = "x".join(map(str, data.image_shape))
    return (
        f"{data.name}: {len(data.train):,} training, {len(data.valid):,} validation, "
        f"{len(data.test):,} test images of {shape}, {data.num_classes} classes\n"
        f"{config.model}: {setup.summary.trainable:,} trainable parameters on {setup.device}"
    )


def _report(console: Console, result: FitResult, announced: Sequence[Finding]) -> None:
    stand = {finding.rule for finding in result.findings}
    for finding in {one.rule: one for one in announced if one.rule not in stand}.values():
        console.print(f"{finding.rule}, announced at step {finding.found_step}, did not last")
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
    console.print("the curve is lr_range/curve.png among the run's artifacts")
