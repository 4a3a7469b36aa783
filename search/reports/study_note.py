"""The description of a study's run in MLflow, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.outcome import Outcome
from search.reports.trial_text import as_value, results
from tracking.shown_commands import study_command, train_command

if TYPE_CHECKING:
    from optuna import Study

__all__ = ["study_note"]


def study_note(study: Study, storage: str = "") -> str:
    """What the study has come to, the best trial, and what to do with it.

    ``storage`` as in ``study_command``.
    """
    outcome = Outcome.of(study)
    lines = [f"**Study `{study.study_name}`**: {outcome.counts.text()}."]
    top = outcome.best
    if top is not None:
        retrain = study_command("retrain", study.study_name, storage)
        rows = [*results(top), *((name, as_value(value)) for name, value in top.params.items())]
        run = top.user_attrs.get("mlflow_run_id")
        of = f" (run `{run}`)" if run else ""
        lines += [
            "",
            f"Best: trial {top.number}{of}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            f"Repeat it: `{train_command('best.yaml')}`",
            "",
            f"With the validation data too: `{retrain}`",
        ]
    lines += ["", "The plots are in `study.html` among the artifacts; each trial is a child run."]
    return "\n".join(lines)
