"""A trial's figures in words, for the console and for the study's page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from search.outcome import objectives
from tracking.report.text import as_duration, as_number, as_share

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = [
    "RESULTS",
    "aim",
    "as_result",
    "as_value",
    "end_of",
    "note",
    "number_of",
    "other_options",
    "parameters_text",
    "plain",
    "results",
    "utc",
]

AIMS = {"accuracy": "highest validation accuracy", "loss": "lowest validation loss"}

RESULTS = {
    "accuracy": "validation accuracy",
    "loss": "validation loss",
    "seconds": "training time",
    "samples": "training images seen",
    "aside_seconds": "time for rungs",
    "aside_samples": "images for rungs",
}


def as_result(name: str, value: float | None) -> str:
    """A figure of a trial: accuracy in %, times in hours, minutes and seconds, the rest plain."""
    if value is None or not math.isfinite(value):
        return as_number(value)
    if name == "accuracy":
        return as_share(value)
    return as_duration(value) if name.endswith("seconds") else as_number(value)


def as_value(value: Any) -> str:
    """A parameter's value: three significant digits, and true, false and lists as flags take them.

    Whole numbers stay as they are.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ",".join(map(as_value, value))
    return "none" if value is None else str(value)


def number_of(trial: FrozenTrial, name: str) -> float | None:
    """A number among a trial's user attributes; None where it is missing or no number."""
    value = trial.user_attrs.get(name)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def note(trial: FrozenTrial, name: str) -> str | None:
    """A text among a trial's user attributes; None where it is missing."""
    value = trial.user_attrs.get(name)
    return None if value is None else str(value)


def end_of(trial: FrozenTrial) -> str | None:
    """Why a trial did not end well; None where nothing was noted."""
    return note(trial, "reason") or note(trial, "infeasible")


def results(trial: FrozenTrial) -> list[tuple[str, str]]:
    """The figures that a trial has: what it is, and the figure."""
    known = ((name, number_of(trial, name)) for name in RESULTS)
    return [(RESULTS[name], as_result(name, value)) for name, value in known if value is not None]


def parameters_text(values: Mapping[str, Any]) -> str:
    """Such as ``batch_size 64, lr_max 0.0312``."""
    return ", ".join(f"{name} {as_value(value)}" for name, value in values.items())


def utc(moment: datetime | None) -> datetime | None:
    """Optuna's times are local and say no zone; in universal time."""
    return None if moment is None else moment.astimezone(UTC)


def plain(value: Any) -> str:
    """A value that fits no column's type, as JSON."""
    return json.dumps(value, default=str)


def aim(study: Study) -> str:
    """What a study looks for, in words."""
    names = objectives(study)
    if len(names) > 1:
        return "high validation accuracy and few training seconds"
    return AIMS[names[0]]


def other_options(trial: FrozenTrial) -> dict[str, Any]:
    """The options of a trial's run that are not parameters under the same name.

    Such as ``lr_max`` where ``lr_max@64`` was searched.
    """
    config = trial.user_attrs.get("config")
    if not isinstance(config, dict):
        return {}
    return {name: value for name, value in config.items() if name not in trial.params}
