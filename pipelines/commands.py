"""What the commands do: prepare, open an MLflow run, work, say where to look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.checkpoint import CHECKPOINT, Checkpoint, StoppedRun
from pipelines.config import RunConfig
from pipelines.console import user_console
from pipelines.lr_range import LrRange, lr_range_test
from pipelines.lr_range_config import LrRangeConfig
from pipelines.options import config_from
from pipelines.progress import LrRangeProgress, ProgressReport
from pipelines.reports import log_lr_range, where_to_look
from pipelines.run import FitResult, Setup, prepare, train
from pipelines.serving import serving_model
from tracking import shown_commands
from tracking.errors import RecordsUnwritten, TrainingFailed
from tracking.mlflow_runs.attach import link_caller
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.run_reports import reported
from tracking.mlflow_runs.session import TrackedRun, tracked, tracked_run
from tracking.mlflow_runs.stopped import fetch_stopped_run
from tracking.records import Finding
from tracking.signals import held_back

__all__ = ["lr_find_command", "resume_command", "train_command"]

REGISTER = "layerscope.register"
"""Tag: the name under which the run's model is to be registered."""
RESUMED = "layerscope.resumed"
"""Tag: after how many steps the run was gone on with, each time."""


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
    with _tracked(config, console) as opened:
        # A run that goes on where this one was stopped registers its model too.
        opened.sink.tags({**(tags or {}), **({REGISTER: register} if register else {})})
        _train(opened, setup, console, register)


def resume_command(run_id: str, local: Mapping[str, Any]) -> None:
    """Go on with a training run that was stopped, to its end.

    ``local``: this machine's own options (data_dir, device, threads), where they are others than
    the run had. Raises BadInput: there is no such run, it was not stopped or has no checkpoint, or
    data or model are not those of the run any more; the run is as it was then.
    """
    console = user_console()
    with TemporaryDirectory(prefix="layerscope-") as folder:
        run = fetch_stopped_run(run_id, CHECKPOINT, Path(folder))
        stopped = StoppedRun(Checkpoint.load(Path(folder) / CHECKPOINT), Path(folder))
        checkpoint = stopped.checkpoint
        setup = prepare(config_from(RunConfig, checkpoint.config.model_dump() | dict(local)))
        checkpoint.check(setup.model, setup.data.digest)
        console.print(_headline(setup))
        console.print(f"going on after step {checkpoint.step:,} of {checkpoint.total_steps:,}")
        tags = run.tags
        steps = [*filter(None, [tags.get(RESUMED)]), str(checkpoint.step)]
        with _opened(tracked(partial(MlflowRun.known, run_id, reopen=True)), console) as opened:
            link_caller(opened.run, "layerscope.resumed_run")
            opened.sink.tags({RESUMED: ", ".join(steps)})
            _train(opened, setup, console, tags.get(REGISTER, ""), stopped)


def _train(
    opened: TrackedRun,
    setup: Setup,
    console: Console,
    register: str,
    stopped: StoppedRun | None = None,
) -> None:
    config = setup.config
    announced: list[Finding] = []

    def announce(finding: Finding) -> None:
        announced.append(finding)
        console.print(str(finding))

    with _kept(opened, console):
        with reported(opened, config.flat(), page=config.report) as sink:
            progress = [ProgressReport(console)]
            result = train(
                setup, opened.directory, progress, sink, announce=announce, stopped=stopped
            )
        _report(console, result, announced)
        if config.log_model:
            model = partial(serving_model, result.model, result.data)
            version = opened.log_model(model, register)
            if version is not None:
                console.print(f"registered as {register}, version {version}")


@contextmanager
def _kept(opened: TrackedRun, console: Console) -> Iterator[None]:
    """A run that is stopped takes its checkpoint along; one that trained to its end needs none."""
    try:
        yield
    except TrainingFailed:
        raise  # it would fail in the same way again
    except BaseException:
        checkpoint = opened.directory / CHECKPOINT
        with held_back(), suppress(RecordsUnwritten):
            if checkpoint.exists():
                opened.sink.artifact(checkpoint, str(Path(CHECKPOINT).parent))
                again = shown_commands.resume_command(opened.run.run_id)
                console.print(f"stopped; to go on: {again}")
        raise


def lr_find_command(config: RunConfig, options: LrRangeConfig) -> None:
    """Run the range test, with an MLflow run around it."""
    console = user_console()
    setup = prepare(config)
    console.print(_headline(setup))
    with _tracked(config, console) as opened:
        given = {name: str(value) for name, value in options.model_dump().items()}
        opened.sink.params(setup.config.flat() | given)
        with LrRangeProgress(console, options.lr_steps) as progress:
            result = lr_range_test(setup, options, progress)
        if result.lrs:
            log_lr_range(result, opened.directory / "lr_range", opened.sink)
        if result.trouble:
            raise TrainingFailed(result.trouble)
        _report_lr_range(console, result)


@contextmanager
def _tracked(config: RunConfig, console: Console) -> Iterator[TrackedRun]:
    """A new MLflow run."""
    with _opened(tracked_run(config.experiment, config.run_name), console) as opened:
        yield opened


@contextmanager
def _opened(run: AbstractContextManager[TrackedRun], console: Console) -> Iterator[TrackedRun]:
    """However the run ends, the last lines on the console say where to look at it."""
    with ExitStack() as last, run as opened:
        last.callback(where_to_look, console, opened)
        yield opened


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
