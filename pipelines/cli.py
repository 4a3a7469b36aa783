"""`layerscope train` and `layerscope lr-find`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pipelines.config import RunConfig
from pipelines.flags import config_flags
from pipelines.lr_range_config import LrRangeConfig
from pipelines.options import config_from, read_config
from tracking.quick_imports import quick_imports
from tracking.uploads import start_uploader

__all__ = ["lr_find", "train"]

config_file = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="YAML file with options, such as a run's config.yaml; flags override it.",
)


@click.command()
@config_file
@config_flags(RunConfig)
def train(config_path: Path | None, **flags: Any) -> None:
    """Train a network, record what happens inside it, and log all of it to MLflow."""
    config = config_from(RunConfig, _given(config_path, flags))
    start_uploader()
    # Torch and MLflow take seconds to import: not for --help, and not to refuse an option.
    with quick_imports():
        from pipelines.commands import train_command

    train_command(config)


@click.command("lr-find")
@config_file
@config_flags(LrRangeConfig)
@config_flags(RunConfig)
def lr_find(config_path: Path | None, **flags: Any) -> None:
    """Find a good peak learning rate: the range test, its curve and its suggestions."""
    given = _given(config_path, flags)
    own = {name: given.pop(name) for name in LrRangeConfig.model_fields if name in given}
    options = config_from(LrRangeConfig, own)
    config = config_from(RunConfig, given)
    start_uploader()
    with quick_imports():
        from pipelines.commands import lr_find_command

    lr_find_command(config, options)


def _given(config_path: Path | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    given = read_config(config_path) if config_path else {}
    return given | {name: value for name, value in flags.items() if value is not None}
