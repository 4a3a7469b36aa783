"""What a comparison leaves to look at: a page, a table for programs, a description, all trials."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq
from optuna import Study
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from search.comparisons.charts import charts_of
from search.comparisons.result import Comparison, comparison_of
from search.comparisons.tables import (
    CONTRAST_COLUMNS,
    arm_cells,
    arm_columns,
    beside,
    contrast_cells,
    remarks,
    run_cells,
)
from search.comparisons.verdict import caveats, verdict
from search.definition import StudyDefinition
from search.reports.page import render_template
from search.reports.tables import trials_table
from tracking import __version__
from tracking.diagnosis.files import plain
from tracking.report.text import as_duration
from tracking.sink import Sink

__all__ = ["comparison_note", "comparison_table", "send_comparison", "write_comparison"]

FORMAT = 1


@dataclass(frozen=True)
class ComparisonPage:
    """What the page says; all of it is escaped by the template."""

    result: Comparison
    title: str
    headline: list[tuple[str, str]]
    verdicts: list[str]
    caveats: list[str]
    columns: list[str]
    values: list[tuple[str, list[str], str]]
    """Value, figures, what the diagnosis found."""
    beside: str
    difference_columns: list[str]
    differences: list[tuple[str, list[str]]]
    runs: list[list[str]]


def send_comparison(study: Study, definition: StudyDefinition, folder: Path, sink: Sink) -> None:
    """Write the report into a folder and hand it to a sink."""
    for path in write_comparison(study, definition, folder):
        sink.artifact(path)


def write_comparison(study: Study, definition: StudyDefinition, folder: Path) -> list[Path]:
    """Write ``comparison.html``, ``comparison.json`` and ``trials.parquet`` into a new folder.

    ``comparison.json``: ``factor``, ``objective``, ``arms`` (each value's ``text`` and ``runs``),
    ``contrasts`` (``difference``: the values seed by seed, their mean, std, the 95 % interval
    ``low`` to ``high``, ``p`` of the sign-flip test alone; ``p`` beside it is adjusted),
    ``verdicts`` and ``caveats``. null stands for what is not known.
    """
    result = comparison_of(study, definition)
    folder.mkdir(parents=True, exist_ok=True)
    page, table, trials = (
        folder / name for name in ("comparison.html", "comparison.json", "trials.parquet")
    )
    text = render_template("comparison.html", _page(result), charts_of(result))
    page.write_text(text, encoding="utf-8")
    table.write_text(json.dumps(_content(result), indent=1) + "\n", encoding="utf-8")
    pq.write_table(trials_table(study), trials)
    return [page, table, trials]


def comparison_table(result: Comparison) -> Group:
    """For a terminal."""
    values = _table(result.factor, arm_columns(result))
    for arm in result.arms:
        values.add_row(arm.text, *map(Text, arm_cells(result, arm)))
    differences = _table(beside(result), CONTRAST_COLUMNS)
    for contrast in result.contrasts:
        differences.add_row(contrast.text, *map(Text, contrast_cells(result, contrast)))
    sentences = [Text(verdict(result, contrast)) for contrast in result.contrasts]
    return Group(values, differences, *sentences)


def comparison_note(result: Comparison) -> str:
    """The description of the comparison's run in MLflow, in Markdown."""
    columns = [result.factor, *arm_columns(result)]
    rows = [[arm.text, *arm_cells(result, arm)] for arm in result.arms]
    lines = [
        f"**Comparison of `{result.factor}`** on {result.about}",
        "",
        *(f"- {verdict(result, contrast)}" for contrast in result.contrasts),
        "",
        *(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)),
        "",
        f"`comparison.html` among the artifacts shows every run. Repeat it: `{result.command}`",
    ]
    return "\n".join(lines)


def _page(result: Comparison) -> ComparisonPage:
    runs = sorted(
        (
            (run.seed, place, run_cells(arm, run))
            for place, arm in enumerate(result.arms)
            for run in arm.runs
        ),
    )
    spent = [run.seconds for arm in result.arms for run in arm.complete.values() if run.seconds]
    complete = sum(len(arm.complete) for arm in result.arms)
    return ComparisonPage(
        result=result,
        title=f"{result.factor}: {', '.join(arm.text for arm in result.arms)}",
        headline=[
            ("seeds", str(len(result.seeds))),
            ("runs trained", f"{complete} of {len(runs)}"),
            ("time spent training", as_duration(sum(spent))),
        ],
        verdicts=[verdict(result, contrast) for contrast in result.contrasts],
        caveats=caveats(result),
        columns=list(arm_columns(result)),
        values=[(arm.text, arm_cells(result, arm), remarks(arm)) for arm in result.arms],
        beside=beside(result),
        difference_columns=list(CONTRAST_COLUMNS),
        differences=[(one.text, contrast_cells(result, one)) for one in result.contrasts],
        runs=[cells for _, _, cells in runs],
    )


def _content(result: Comparison) -> object:
    sentences = {
        "verdicts": [verdict(result, contrast) for contrast in result.contrasts],
        "caveats": caveats(result),
    }
    return plain({"format": FORMAT, "version": __version__, **asdict(result), **sentences})


def _table(first: str, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column(first, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table
