"""study.html: a study on one self-contained page, which opens anywhere and needs no network."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from optuna.trial import FrozenTrial

import tracking
from pipelines.config import RunConfig
from search.outcome import Counts, Outcome
from search.reports.charts import Chart, charts_of
from search.reports.plot_kinds import Snapshot
from search.reports.trial_text import (
    aim,
    as_result,
    as_value,
    end_of,
    note,
    number_of,
    other_options,
    results,
    utc,
)
from tracking.report.charts import packed
from tracking.report.pages import packed_plotly, page_environment
from tracking.report.text import as_date, as_duration
from tracking.short_names import short
from tracking.shown_commands import study_command, train_command

__all__ = ["StudyPage", "render", "render_template", "study_page"]

PAGE = Path(__file__).with_name("report_page")
SHARED_STYLE = Path(tracking.__file__).parent / "report" / "template" / "style.css"
ROWS = 10
"""Trials in the table of the best ones, and of a front."""
FAILED = 20
"""Trials in the table of those that failed."""

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class StudyPage:
    """What the page says in words and tables; all of it is escaped by the template."""

    name: str
    about: str
    two: bool
    """Whether there are two objectives."""
    labels: Sequence[str]
    state: str
    """finished, running, or not finished."""
    headline: Pairs
    facts: Pairs
    best: Pairs | None
    commands: Sequence[str]
    columns: Sequence[str]
    numbers: int
    """How many of the columns, from the left, hold figures."""
    rows: Sequence[Sequence[str]]
    more_rows: int
    ended: Sequence[tuple[str, str, str]]
    more_ended: int


def study_page(
    shot: Snapshot,
    base: RunConfig,
    target: int,
    configs: Mapping[str, FrozenTrial],
    storage: str = "",
) -> StudyPage:
    """Gather what the page says. ``configs``: file names of configurations that repeat trials;
    ``storage`` as in ``study_command``.
    """
    study, two = shot.study, len(shot.objectives) > 1
    outcome = Outcome.of(study)
    top, count = outcome.ranked, outcome.counts
    failed = _failed(outcome)
    columns, numbers = _columns(shot, top[:ROWS])
    return StudyPage(
        name=study.study_name,
        about=f"{base.model} on {base.dataset}, {base.epochs} epochs a trial: {aim(study)}",
        two=two,
        labels=shot.labels,
        state=_state(count, target),
        headline=_headline(shot, top, count, target),
        facts=_facts(outcome.trials, count),
        best=_best(top[0]) if top else None,
        commands=_commands(study.study_name, configs, storage, two=two),
        columns=list(columns),
        numbers=numbers,
        rows=[[read(trial) for read in columns.values()] for trial in top[:ROWS]],
        more_rows=max(0, len(top) - ROWS),
        ended=failed[:FAILED],
        more_ended=max(0, len(failed) - FAILED),
    )


def render(page: StudyPage, shot: Snapshot) -> str:
    """The page as text. Below 6 million bytes for studies of some thousand trials."""
    return render_template("page.html", page, charts_of(shot))


def render_template(name: str, page: object, charts: Sequence[Chart]) -> str:
    """One of the templates as text, with ``page`` and ``charts`` in it and all that it needs."""
    return (
        _environment()
        .get_template(name)
        .render(
            page=page,
            charts=charts,
            data=packed(json.dumps([list(chart.figures) for chart in charts])),
            plotly=packed_plotly(),
            style=SHARED_STYLE.read_text("utf-8") + (PAGE / "style.css").read_text("utf-8"),
            script=(PAGE / "page.js").read_text("utf-8"),
            version=tracking.__version__,
            now=time.time(),
        )
    )


@cache
def _environment() -> Environment:
    filters: dict[str, Callable[..., str]] = {"date": as_date, "short": short}
    return page_environment(PAGE, filters)


def _state(count: Counts, target: int) -> str:
    if count.running:
        return "running"
    return "finished" if count.over and count.done >= target else "not finished"


def _headline(shot: Snapshot, top: Sequence[FrozenTrial], count: Counts, target: int) -> Pairs:
    figures = [("trials done", f"{count.done} of {target}")]
    trials = shot.study.get_trials(deepcopy=False)
    spent = [number_of(t, name) or 0 for t in trials for name in ("seconds", "aside_seconds")]
    if any(spent):
        figures.append(("time spent training", as_duration(sum(spent))))
    if not top:
        return figures
    if len(shot.objectives) > 1:
        figures.insert(0, ("trials on the front", str(len(top))))
    name, label = shot.objectives[0], shot.labels[0]
    best_value = (f"best {label}", as_result(name, top[0].values[0]))
    return [best_value, *figures, ("best trial", str(top[0].number))]


def _facts(trials: Sequence[FrozenTrial], count: Counts) -> Pairs:
    began = [t.datetime_start for t in trials if t.datetime_start]
    ended = [t.datetime_complete for t in trials if t.datetime_complete]
    workers = {note(t, "worker") for t in trials} - {None}
    facts = [("trials", count.text())]
    if workers:
        facts.append(("workers", f"{len(workers)} so far"))
    for name, moment in (
        ("began", min(began, default=None)),
        ("last end", max(ended, default=None)),
    ):
        when = utc(moment)
        if when is not None:
            facts.append((name, as_date(when.timestamp())))
    return facts


def _best(trial: FrozenTrial) -> Pairs:
    rows = [("trial", str(trial.number)), *results(trial)]
    rows += [(name, as_value(value)) for name, value in trial.params.items()]
    rows += [(name, as_value(value)) for name, value in other_options(trial).items()]
    run = note(trial, "mlflow_run_id")
    return rows if run is None else [*rows, ("MLflow run", run)]


def _commands(
    name: str, configs: Mapping[str, FrozenTrial], storage: str, *, two: bool
) -> list[str]:
    commands = [train_command(file) for file in configs]
    if commands and not two:
        commands.append(study_command("retrain", name, storage))
    return commands[:ROWS]


def _columns(shot: Snapshot, rows: Sequence[FrozenTrial]) -> tuple[dict[str, Any], int]:
    """Heading -> what stands below it for a trial."""
    columns: dict[str, Any] = {"trial": lambda trial: str(trial.number)}
    for name, label in (
        ("accuracy", "validation accuracy"),
        ("loss", "validation loss"),
        ("seconds", "training time"),
    ):
        columns[label] = lambda trial, name=name: _figure(shot, trial, name)
    numbers = len(columns)
    for name in dict.fromkeys(name for trial in rows for name in trial.params):
        columns[name] = lambda trial, name=name: _parameter(trial, name)
    return columns | {"MLflow run": lambda trial: note(trial, "mlflow_run_id") or "—"}, numbers


def _figure(shot: Snapshot, trial: FrozenTrial, name: str) -> str:
    """The value that the trial is judged by, where it is that; else what was noted."""
    judged = dict(zip(shot.objectives, trial.values, strict=True))
    return as_result(name, judged.get(name, number_of(trial, name)))


def _parameter(trial: FrozenTrial, name: str) -> str:
    return as_value(trial.params[name]) if name in trial.params else "—"


def _failed(outcome: Outcome) -> list[tuple[str, str, str]]:
    states = ((trial, outcome.states[trial.number]) for trial in outcome.trials)
    return [
        (str(trial.number), state, end_of(trial) or "Nothing was noted: its worker may have died.")
        for trial, state in states
        if state in {"failed", "infeasible", "retried"}
    ]
