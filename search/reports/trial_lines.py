"""Trials as lines of text, as they end and as `study trials` lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.outcome import Outcome, objectives
from search.reports.trial_text import as_result, note, number_of, parameters_text
from tracking.report.text import as_duration

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["trial_line", "trials_text"]


def trial_line(study: Study, trial: FrozenTrial, state: str, *, top: bool = False) -> str:
    """Number, state, result, seconds, parameters; ``top``: it is the best one so far."""
    parts = [f"trial {trial.number:>3}", f"{state:<10}"]
    if state == "complete" and trial.values:
        pairs = zip(objectives(study), trial.values, strict=True)
        parts.append("  ".join(f"{name} {as_result(name, value)}" for name, value in pairs))
    if top:
        parts.append("best")
    seconds = number_of(trial, "seconds")
    if seconds and "seconds" not in objectives(study):
        parts.append(as_duration(seconds))
    parts.append(parameters_text(trial.params))
    why = note(trial, "reason") or note(trial, "infeasible")
    return "  ".join(part for part in parts if part) + (f"\n           {why}" if why else "")


def trials_text(study: Study) -> str:
    """Every trial of a study, a line or two each."""
    outcome = Outcome.of(study)
    lines = [
        trial_line(study, trial, outcome.states[trial.number], top=trial is outcome.best)
        for trial in outcome.trials
    ]
    return "\n".join(lines) or "no trials yet"
