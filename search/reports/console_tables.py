"""Where a study stands and what it has found, for a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from search.outcome import Counts, Outcome, objectives
from search.reports.trial_text import (
    aim,
    as_result,
    as_value,
    note,
    other_options,
    parameters_text,
    results,
)
from tracking.report.text import as_duration
from tracking.shown_commands import study_command

__all__ = ["best_table", "status_table"]

FRONT = 20
"""Rows of a Pareto front on the console; all of it is in the study's page."""


def status_table(study: Study, target: int) -> Group:
    """The study's state, its best trial, and what runs now.

    ``target``: how many trials the study is to have in all.
    """
    outcome = Outcome.of(study)
    count, top = outcome.counts, outcome.best
    running = [trial for trial in outcome.trials if trial.state == TrialState.RUNNING]
    table = _facts(f"Study {study.study_name}")
    _row(table, "objective", aim(study))
    _row(table, "trials", f"{count.done} of {target} done ({_share(count, target):.0%})")
    _row(table, "by state", count.text())
    _row(table, "best so far", "none yet" if top is None else _short(study, top))
    if top is not None:
        _row(table, "with", parameters_text(top.params))
    workers = len({note(trial, "worker") or trial.number for trial in running})
    _row(table, "time left", _left(count, outcome.time_left(workers), workers))
    return Group(table, _running(running)) if running else Group(table)


def best_table(study: Study, storage: str = "") -> Group:
    """The best trial with its parameters; with two objectives the trials of the front.

    ``storage`` is what the command that asks was given as --storage.
    """
    outcome = Outcome.of(study)
    top = outcome.best
    if top is None:
        found = outcome.counts.text()
        return Group(Text(f"Study {study.study_name} has no complete trial yet: {found}."))
    if len(study.directions) > 1:
        return Group(_front(study, outcome.ranked))
    table = _facts(f"Best of study {study.study_name}: trial {top.number}")
    for name, value in results(top):
        _row(table, name, value)
    table.add_section()
    for name, value in top.params.items():
        _row(table, name, as_value(value))
    table.add_section()
    for name, value in other_options(top).items():
        _row(table, name, as_value(value))
    if note(top, "mlflow_run_id"):
        _row(table, "mlflow run", note(top, "mlflow_run_id") or "")
    retrain = study_command("retrain", study.study_name, storage)
    return Group(table, Text(f"Train it on all the training data:\n  {retrain}"))


def _facts(title: str) -> Table:
    table = Table(
        title=Text(title), title_justify="left", show_header=False, box=box.SIMPLE, expand=False
    )
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    """Cells as they are: names may have brackets, which rich would read as markup."""
    table.add_row(*map(Text, cells))


def _running(trials: Sequence[FrozenTrial]) -> Table:
    table = Table(title="Running", title_justify="left", box=box.SIMPLE)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("worker", overflow="fold")
    table.add_column("for", no_wrap=True)
    table.add_column("last rung", no_wrap=True)
    table.add_column("parameters", overflow="fold", ratio=1)
    for trial in trials:
        began = trial.datetime_start
        age = None if began is None else (datetime.now() - began).total_seconds()
        parameters = parameters_text(trial.params)
        cells = as_duration(age), _last_rung(trial), parameters
        _row(table, str(trial.number), note(trial, "worker") or "—", *cells)
    return table


def _front(study: Study, trials: Sequence[FrozenTrial]) -> Table:
    names = objectives(study)
    title = f"Study {study.study_name}: no trial is better than these in both"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE)
    for name in ("trial", *names):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("parameters", overflow="fold", ratio=1)
    for trial in trials[:FRONT]:
        pairs = zip(names, trial.values, strict=True)
        values = [as_result(name, value) for name, value in pairs]
        _row(table, str(trial.number), *values, parameters_text(trial.params))
    if len(trials) > FRONT:
        table.caption = f"and {len(trials) - FRONT} more"
    return table


def _last_rung(trial: FrozenTrial) -> str:
    rungs = trial.user_attrs.get("rungs") or [{}]
    share, accuracy = rungs[-1].get("share"), rungs[-1].get("accuracy")
    return "—" if share is None else f"{as_result('accuracy', accuracy)} at {share:.0%}"


def _short(study: Study, trial: FrozenTrial) -> str:
    pairs = zip(objectives(study), trial.values, strict=True)
    return f"trial {trial.number}: " + ", ".join(f"{n} {as_result(n, v)}" for n, v in pairs)


def _left(count: Counts, seconds: float | None, workers: int) -> str:
    if count.over:
        return "nothing runs and nothing waits"
    if not workers:
        return f"no worker runs; {count.waiting} wait"
    plural = "worker" if workers == 1 else "workers"
    known = "not known yet" if seconds is None else f"about {as_duration(seconds)}"
    return f"{known}, with {workers} {plural}"


def _share(count: Counts, target: int) -> float:
    return count.done / target if target else 1.0
