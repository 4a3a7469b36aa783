"""`layerscope replay`."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["replay"]


@click.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
def replay(directory: Path | None) -> None:
    """Send records that are still waiting to MLflow.

    DIRECTORY is a run's folder or a folder of such folders; by default .layerscope, or
    LAYERSCOPE_RECORDS.
    """
    from tracking.replay import replay_all

    for line in replay_all(directory):
        click.echo(line)
