"""Which of Optuna's plots can be drawn of a study, and why not the others.

Where too little is known for a plot, it is left out with a line that says why. Trials that did not
fit into memory have the value of guessing; in the plots of values they would only stretch the axes,
so they are in the timeline alone.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

import optuna
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.outcome import infeasible, objectives

__all__ = ["PLOTS", "PlotKind", "Snapshot", "kinds_of", "quiet", "snapshot", "why_not"]


LABELS = {
    "accuracy": "validation accuracy",
    "loss": "validation loss",
    "seconds": "training seconds",
}


@dataclass(frozen=True)
class PlotKind:
    """One of Optuna's plots."""

    name: str
    title: str
    """What one sees in it."""
    hint: str
    """How to read it."""


PLOTS = (
    PlotKind("history", "History", "Each complete trial, and the best so far."),
    PlotKind("pareto_front", "Pareto front", "No trial is better than the red ones in both."),
    PlotKind(
        "importances",
        "Importance of the parameters",
        "How much of what sets the best trials apart each parameter accounts for (PED-ANOVA); "
        "with few trials, a rough guide.",
    ),
    PlotKind("slice", "Each parameter", "The later a trial, the stronger its colour."),
    PlotKind("parallel_coordinates", "Parameters together", "One line per complete trial."),
    PlotKind("timeline", "Timeline", "When each trial ran, and what became of it."),
    PlotKind(
        "intermediate_values",
        "Scores on the way",
        "At the rungs, by which trials are judged before their end. A rung's number says how many "
        "times as much training comes before it as before the first.",
    ),
)


ENOUGH = 20
"""Complete trials from which importances are more than chance."""


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment, in memory: what its plots show does not change in between."""

    study: Study
    """All its trials."""
    judged: Study
    """The same; trials that did not fit into memory are failed ones here."""
    objectives: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """What to write at the axes of the objectives."""
        return tuple(LABELS[name] for name in self.objectives)

    def cost(self, objective: int) -> Callable[[FrozenTrial], float]:
        """An objective so turned that less is better.

        Optuna's importances take the least of a ``target`` for the best, and would otherwise tell
        what makes the worst of the accuracies.
        """
        maximized = self.judged.directions[objective] == StudyDirection.MAXIMIZE

        def turned(trial: FrozenTrial) -> float:
            value = float(trial.values[objective])
            return -value if maximized else value

        return turned

    @property
    def complete(self) -> list[FrozenTrial]:
        """Feasible trials that were trained to their end."""
        trials = self.judged.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial for trial in trials if all(map(isfinite, trial.values))]


def snapshot(study: Study) -> Snapshot:
    """Copy a study into memory. Numbers, times and attributes stay as they are."""
    trials = study.get_trials(deepcopy=True)
    return Snapshot(
        _study_of(study, trials), _study_of(study, map(_judged, trials)), objectives(study)
    )


def kinds_of(shot: Snapshot) -> list[PlotKind]:
    """The plots that suit a study: a front where there are two objectives, else a history."""
    other = "history" if len(shot.objectives) > 1 else "pareto_front"
    return [kind for kind in PLOTS if kind.name != other]


def why_not(kind: PlotKind, shot: Snapshot) -> str:
    """Why a plot cannot be drawn, in one line; empty where it can."""
    trials = shot.study.get_trials(deepcopy=False)
    complete = shot.complete
    names = {name for trial in complete for name in trial.params}
    match kind.name:
        case "timeline":
            return "" if any(t.datetime_start for t in trials) else "No trial has begun yet."
        case "intermediate_values":
            judged = any(trial.intermediate_values for trial in trials)
            return "" if judged else "No trial was judged on its way."
        case "history" | "pareto_front":
            return "" if complete else "No trial is complete yet."
    if len(complete) < 2:
        return f"It takes at least two complete trials; there are {len(complete)}."
    if not names:
        return "The trials have no parameters."
    return "" if kind.name == "slice" else _too_alike(kind, complete, names)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what Optuna and matplotlib say of their own plots to themselves."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _study_of(study: Study, trials: Iterable[FrozenTrial]) -> Study:
    with quiet():
        made = optuna.create_study(study_name=study.study_name, directions=study.directions)
    made.add_trials(trials)
    return made


def _judged(trial: FrozenTrial) -> FrozenTrial:
    judged = copy.copy(trial)
    if infeasible(trial):
        judged.state, judged.values = TrialState.FAIL, None
    notes = trial.system_attrs.items()
    # Without constraints the plots need no legend of what is feasible: all that they show is.
    judged.system_attrs = {k: v for k, v in notes if not k.startswith("constraints")}
    return judged


def _too_alike(kind: PlotKind, complete: Sequence[FrozenTrial], names: set[str]) -> str:
    if len(names) < 2:
        return f"There is one parameter only ({', '.join(names)})."
    same = len({tuple(trial.values) for trial in complete}) == 1
    if kind.name == "importances" and same:
        return "All complete trials have the same value."
    if kind.name == "importances" and len(complete) < ENOUGH:
        return (
            f"{len(complete)} complete trials are too few to tell which parameter matters; it "
            f"takes {ENOUGH}."
        )
    return ""
