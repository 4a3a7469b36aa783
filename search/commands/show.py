"""`study status`, `best`, `trials` and `report`: what a study has come to."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna import Study
from rich.console import Console
from rich.live import Live

from pipelines.config import LOCAL_OPTIONS
from pipelines.console import user_console
from search.best_config import best_config
from search.definition import MLFLOW_RUN, StudyDefinition, refuse_comparison
from search.outcome import Outcome
from search.reports.console_tables import best_table, status_table
from search.reports.tables import trials_csv, trials_json
from search.reports.trial_lines import trials_text
from search.storage.database import answering, open_storage
from search.storage.studies import find_study
from search.storage.url import StorageUrl
from tracking.errors import BadOption, BadTracking
from tracking.shown_commands import train_command

__all__ = ["make_report", "show_best", "show_status", "show_trials"]

INTERVAL = 2.0


def show_status(name: str, url: StorageUrl) -> None:
    """Print the table of a study's state; on a terminal it lives while trials run.

    Raises BadTracking, as all of these do: the storage cannot be used or has no such study.
    """
    console = user_console()
    with _opened(name, url) as (study, definition):
        target = definition.options.trials
        if not console.is_terminal or not _running(study):
            console.print(status_table(study, target))
            return
        with Live(status_table(study, target), console=console, auto_refresh=False) as live:
            while _running(study):
                time.sleep(INTERVAL)
                live.update(status_table(study, target), refresh=True)


def show_best(name: str, url: StorageUrl, output: Path | None) -> None:
    """Print the best trial or the front, and write the best configuration to a YAML file.

    Raises BadOption: the file cannot be written, or there is no best trial yet.
    """
    with _opened(name, url) as (study, definition):
        refuse_comparison(definition, "look at its page, or at: study trials")
        found = Outcome.of(study).best
        if found is None:
            raise BadOption(f"study {name!r} has no completed trial yet; look at: study status")
        user_console().print(best_table(study, url.given))
    if output is not None:
        config = best_config(definition.base, found)
        try:
            output.write_text(config.to_yaml(without=LOCAL_OPTIONS), encoding="utf-8")
        except OSError as error:
            raise BadOption(f"output={output}: cannot be written ({error.strerror})") from None
        user_console().print(f"{output} written; to repeat it: {train_command(str(output))}")


def show_trials(name: str, url: StorageUrl, form: str) -> None:
    """Print every trial, as a table, JSON or CSV."""
    with _opened(name, url) as (study, _):
        if form == "json":
            sys.stdout.write(trials_json(study) + "\n")
        elif form == "csv":
            sys.stdout.write(trials_csv(study))
        else:
            user_console().print(trials_text(study))


def make_report(name: str, url: StorageUrl, output: Path | None) -> None:
    """Write the study's report to a folder, or to its run in MLflow."""
    # Plots and MLflow take seconds to import: not for the other commands.
    from search.comparisons.report import write_comparison
    from search.reports.report import write_report

    console = user_console()
    with _opened(name, url) as (study, definition):
        if output is None:
            _report_to_mlflow(study, definition, url.given, console)
            return
        try:
            output.mkdir(parents=True, exist_ok=True)
            if definition.compared is not None:
                written = write_comparison(study, definition, output)
            else:
                written = write_report(study, definition, output, url.given)
        except OSError as error:
            raise BadOption(f"output={output}: cannot be written ({error.strerror})") from None
        for path in written:
            console.print(path)


def _report_to_mlflow(
    study: Study, definition: StudyDefinition, storage: str, console: Console
) -> None:
    from search.comparisons.report import send_comparison
    from search.reports.report import send_report
    from tracking.mlflow_runs.attach import attached_run
    from tracking.spool import SpoolInUse

    run_id = study.user_attrs.get(MLFLOW_RUN)
    if run_id is None:
        raise BadTracking(f"study {study.study_name!r} has no run in MLflow; give --output FOLDER")
    try:
        with attached_run(run_id) as attached:
            # Where they may wait for MLflow; the folder goes when they have arrived.
            folder = attached.directory / "study"
            if definition.compared is not None:
                send_comparison(study, definition, folder, attached.sink)
            else:
                send_report(study, definition, folder, attached.sink, storage)
    except SpoolInUse:
        raise BadTracking(
            f"study {study.study_name!r} is being run in this folder, and is reported at its end; "
            "for a report now give --output FOLDER"
        ) from None
    page = "study.html" if definition.compared is None else "comparison.html"
    console.print(f"{page} is among the artifacts of run {run_id}")


@contextmanager
def _opened(name: str, url: StorageUrl) -> Iterator[tuple[Study, StudyDefinition]]:
    storage = open_storage(url, create=False)
    with answering(url):
        study = find_study(storage, name)
        yield study, StudyDefinition.of(study)


def _running(study: Study) -> bool:
    return Outcome.of(study).counts.running > 0
