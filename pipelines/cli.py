"""`layerscope train`, `layerscope resume` and `layerscope lr-find`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipelines.config import LOCAL_OPTIONS, RunConfig
from pipelines.flags import config_file, config_flags
from pipelines.lr_range_config import LrRangeConfig
from pipelines.options import config_from, configs_from, given_options
from tracking.mlflow_runs.uploads import start_uploader
from tracking.quick_imports import quick_imports

__all__ = ["lr_find", "resume", "train"]


@click.command()
@config_file
@config_flags(RunConfig)
def train(config_path: Path | None, **flags: Any) -> None:
    """Train a network, record what happens inside it, and log all of it to MLflow."""
    config = config_from(RunConfig, given_options(flags, config_path))
    start_uploader()
    # Torch and MLflow take seconds to import: not for --help, and not to refuse an option.
    with quick_imports():
        from pipelines.commands import train_command

    train_command(config)


@click.command()
@click.argument("run_id")
@config_flags(RunConfig, LOCAL_OPTIONS)
def resume(run_id: str, **local: Any) -> None:
    """Go on with a training run that was stopped, and log the rest to the same run in MLflow.

    The result is that of a run that nobody has stopped. All options are those of the run, but for
    this machine's own.
    """
    given = given_options(local)
    start_uploader()
    with quick_imports():
        from pipelines.commands import resume_command

    resume_command(run_id, given)


@click.command("lr-find")
@config_file
@config_flags(LrRangeConfig)
@config_flags(RunConfig)
def lr_find(config_path: Path | None, **flags: Any) -> None:
    """Find a good peak learning rate: the range test, its curve and its suggestions."""
    options, config = configs_from(LrRangeConfig, RunConfig, given_options(flags, config_path))
    start_uploader()
    with quick_imports():
        from pipelines.commands import lr_find_command

    lr_find_command(config, options)
