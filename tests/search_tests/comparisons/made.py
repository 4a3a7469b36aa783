"""Comparisons in memory, with runs in every state, as workers leave them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna import Study, create_trial
from optuna.trial import TrialState

from pipelines.config import RunConfig
from search.comparisons.result import COMMAND, VALID_IMAGES
from search.config import CompareConfig
from search.definition import StudyDefinition, comparison_definition
from tests.search_tests.studies import new_study

__all__ = ["ACCURACIES", "add", "definition_of", "made"]

Made = tuple[Study, StudyDefinition]
ACCURACIES: dict[str, Sequence[float]] = {
    "batch": [0.98, 0.97, 0.99, 0.98],
    "none": [0.93, 0.95, 0.92, 0.94],
}


def definition_of(
    values: str = "batch,none", factor: str = "norm", **options: Any
) -> StudyDefinition:
    given = CompareConfig(factor=factor, values=values, **options)
    return comparison_definition(given, RunConfig(), ())


def add(
    study: Study,
    value: Any,
    seed: int,
    state: TrialState = TrialState.COMPLETE,
    accuracy: float = 0.9,
    factor: str = "norm",
    **notes: Any,
) -> None:
    complete = state == TrialState.COMPLETE
    figures = {"accuracy": accuracy, "loss": 1 - accuracy, "seconds": 2.0, "samples": 100}
    study.add_trial(
        create_trial(
            state=state,
            values=[accuracy] if complete else None,
            user_attrs=(figures if complete else {}) | notes,
            system_attrs={"fixed_params": {factor: value, "seed": seed}},
            constraints={"memory": -1.0} if complete else None,
        )
    )


def made(accuracies: dict[str, Sequence[float]] = ACCURACIES, **options: Any) -> Made:
    """A comparison's study with a complete run for each accuracy of each value."""
    study = new_study(name="norm-abc")
    for value, found in accuracies.items():
        for seed, accuracy in enumerate(found):
            add(study, value, seed, accuracy=accuracy, findings=["lr_too_low"])
    study.set_user_attr(VALID_IMAGES, 144)
    study.set_user_attr(COMMAND, "python layerscope.py compare --factor norm")
    return study, definition_of(",".join(accuracies), **options)
