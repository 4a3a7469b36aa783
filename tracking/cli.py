"""`layerscope replay`, `layerscope report` and `layerscope diagnose`."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["diagnose", "replay", "report"]


@click.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
def replay(directory: Path | None) -> None:
    """Send records that are still waiting to MLflow.

    DIRECTORY is a run's folder or a folder of such folders; by default .layerscope, or
    LAYERSCOPE_RECORDS.
    """
    from tracking.mlflow_runs.replay import replay_all

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
    from tracking.mlflow_runs.report import make_report

    click.echo(make_report(run_id, output))


@click.command()
@click.argument("run_id")
@click.option("--json", "as_text", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--thresholds",
    default="",
    metavar="RULE.NAME=NUMBER,...",
    help="Other thresholds for rules, such as dead_units.share=0.3.",
)
def diagnose(run_id: str, as_text: bool, thresholds: str) -> None:
    """Say what is wrong with a run's training, why, and what to do.

    MLFLOW_TRACKING_URI chooses the store. The run's records are looked at once more; the exit code
    is 0 whatever is found.
    """
    from rich.console import Console

    from tracking.diagnosis.thresholds import parse_thresholds
    from tracking.mlflow_runs.diagnosis import as_json, diagnose_run, show

    found = diagnose_run(run_id, parse_thresholds(thresholds))
    if as_text:
        click.echo(as_json(found))
    else:
        show(found, Console(highlight=False, markup=False, emoji=False))
