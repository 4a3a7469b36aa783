"""What a study leaves to look at: a page, pictures, the best configuration, and all trials."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
from optuna import Study
from optuna.trial import FrozenTrial

from pipelines.config import LOCAL_OPTIONS, RunConfig
from search.best_config import best_config
from search.definition import StudyDefinition
from search.outcome import Outcome
from search.reports.page import render, study_page
from search.reports.plot_kinds import PLOTS, Snapshot, snapshot
from search.reports.plots import save_plots
from search.reports.tables import trials_table
from tracking.errors import BadOption
from tracking.sink import Sink

__all__ = ["send_report", "write_report"]

BEST = re.compile(r"best(-\d+)?\.yaml")
UNFINISHED = "<!doctype html><title>Study</title><p>This report has not been finished.\n"


def send_report(
    study: Study, definition: StudyDefinition, folder: Path, sink: Sink, storage: str = ""
) -> None:
    """Write the report into a folder and hand it to a sink, laid out as there."""
    for path in write_report(study, definition, folder, storage):
        sink.artifact(path, path.parent.relative_to(folder).as_posix().strip("."))


def write_report(
    study: Study, definition: StudyDefinition, folder: Path, storage: str = ""
) -> list[Path]:
    """Write the report into a folder, making it, and return the files.

    ``study.html`` · ``plots/NAME.png`` · ``trials.parquet`` · ``best.yaml``, where there is a best
    trial, which ``layerscope train --config best.yaml`` repeats; with two objectives a
    ``best-NUMBER.yaml`` for each trial on the front. What an earlier report has left in the folder
    is replaced.

    Args:
        study: read once, at the beginning.
        definition: what the runs of all trials have in common, the objective ("accuracy,seconds"
            has a front in place of a best trial), and how many trials there are to be in all.
        folder: where to.
        storage: what --storage said, for the commands on the page.

    Raises:
        BadOption: the folder has no report, but a file of such a name.
    """
    shot = snapshot(study)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_earlier(folder)
    page = folder / "study.html"
    # First, or what an interrupted command has left would be taken for files of somebody's own.
    page.write_text(UNFINISHED, encoding="utf-8")
    base, options = definition.base, definition.options
    configs = _configs(shot, base, front="," in options.objective)
    files = []
    for name, (config, _) in configs.items():
        files.append(folder / name)
        files[-1].write_text(config.to_yaml(without=LOCAL_OPTIONS), encoding="utf-8")
    files.append(folder / "trials.parquet")
    pq.write_table(trials_table(shot.study), files[-1])
    pictures, _ = save_plots(shot, folder / "plots")
    trials = {name: trial for name, (_, trial) in configs.items()}
    words = study_page(shot, base, options.trials, trials, storage)
    page.write_text(render(words, shot), encoding="utf-8")
    return [page, *pictures, *files]


def _configs(
    shot: Snapshot, base: RunConfig, *, front: bool
) -> dict[str, tuple[RunConfig, FrozenTrial]]:
    """File name -> configuration and the trial that it repeats."""
    configs = {}
    best = Outcome.of(shot.study).ranked
    for trial in best if front else best[:1]:
        with suppress(BadOption):  # another version's, which this one cannot repeat
            name = f"best-{trial.number}.yaml" if front else "best.yaml"
            configs[name] = (best_config(base, trial), trial)
    return configs


def _remove_earlier(folder: Path) -> None:
    """A trial may be on the front no more, and a plot may not be drawn this time."""
    best = [path for path in folder.glob("best*.yaml") if BEST.fullmatch(path.name)]
    pictures = [folder / "plots" / f"{kind.name}.png" for kind in PLOTS]
    files = [path for path in [*best, folder / "trials.parquet", *pictures] if path.exists()]
    if files and not (folder / "study.html").exists():
        raise BadOption(
            f"{files[0]} is there already, and not of a report: name another folder for this one"
        )
    for path in files:
        path.unlink()
