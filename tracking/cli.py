"""`layerscope replay` and `layerscope report`."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["replay", "report"]


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


@click.command()
@click.argument("run_id")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the page to this file instead of logging it to the run.",
)
def report(run_id: str, output: Path | None) -> None:
    """Make a run's report.html again, from its artifacts and values in MLflow.

    MLFLOW_TRACKING_URI chooses the store. Without --output the page is logged to the run, where it
    replaces the one that is there.
    """
    from tracking.mlflow_report import make_report

    click.echo(make_report(run_id, output))
