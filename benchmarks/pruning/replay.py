"""Replay: studies over recorded curves, with Optuna's own pruners and the project's default.

A study draws the recorded configurations in an order of its own seed, none twice until all have
been drawn. Each is charged the training samples up to where the pruner ends it, with those that its
rungs take aside. It is over when a configuration has been trained to its end that comes within
``GOAL`` of the best one known.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from benchmarks.pruning.curves import Curve
from pipelines.config import RunConfig
from search.algorithms.pruners import rung_score
from search.config import StudyConfig

__all__ = [
    "GOAL",
    "MOST_TRIALS",
    "Outcome",
    "Score",
    "Strategy",
    "accuracy",
    "epochs_of",
    "replay",
    "rungs_of",
]

GOAL = 0.002
MOST_TRIALS = 400


@dataclass(frozen=True)
class Score:
    """What a pruner is told, and what it costs to know it."""

    step: int
    """Of the report to Optuna."""
    share: float
    """Of the run itself that has been trained by then."""
    aside: int
    """Training samples beside it."""
    value: float


@dataclass(frozen=True)
class Strategy:
    """How a study prunes."""

    name: str
    scores: Callable[[Curve], Sequence[Score]]
    pruner: Callable[[], BasePruner]


@dataclass(frozen=True)
class Outcome:
    """What a study came to."""

    runs: float
    """Training samples, in whole runs."""
    trials: int
    complete: int
    found: bool


def accuracy(curve: Curve) -> float:
    """Validation accuracy at the end; that of guessing where the run diverged."""
    return float(curve["final"][0]) if curve["final"] else 0.1


def epochs_of(curve: Curve) -> list[Score]:
    """Validation accuracy after each epoch but the last, as Optuna's examples report it."""
    history = curve["epochs"]
    return [
        Score(epoch, epoch / len(history), 0, figures[0])
        for epoch, figures in enumerate(history[:-1], start=1)
    ]


def rungs_of(curve: Curve, options: StudyConfig) -> list[Score]:
    """The scores of a study's rungs, as its trials would report them.

    A run that has diverged by then has NaN there, which every pruner takes for hopeless.
    """
    plan = options.plan
    kind = plan.text
    rows = {row["share"]: row for row in curve["cycles" if kind == "cycle" else "rungs"]}
    scores = []
    steps = round(curve["samples"] / curve["config"].get("batch_size", RunConfig().batch_size))
    for rung in plan.rungs(steps, options.rung_least_steps):
        row = next((row for share, row in rows.items() if math.isclose(share, rung.share)), None)
        value, aside = math.nan, 0
        if row is not None:
            right, loss, aside = row[kind]
            value = rung_score(right, loss, options) if math.isfinite(loss) else math.nan
        share = 0.0 if kind == "cycle" else rung.share
        scores.append(Score(rung.number, share, aside, value))
    return scores


def replay(curves: Sequence[Curve], strategy: Strategy, seed: int) -> Outcome:
    """One study."""
    goal = max(map(accuracy, curves)) - GOAL
    order = random.Random(seed)
    waiting: list[Curve] = []
    study = optuna.create_study(
        study_name=f"{strategy.name} {seed}", direction="maximize", pruner=strategy.pruner()
    )
    samples, whole, complete = 0.0, curves[0]["samples"], 0
    for trials in range(1, MOST_TRIALS + 1):
        waiting = waiting or order.sample(list(curves), len(curves))
        curve = waiting.pop()
        spent, kept = _trial(study, curve, strategy)
        samples += spent
        complete += kept
        if kept and accuracy(curve) >= goal:
            return Outcome(samples / whole, trials, complete, found=True)
    return Outcome(samples / whole, MOST_TRIALS, complete, found=False)


def _trial(study: optuna.Study, curve: Curve, strategy: Strategy) -> tuple[float, bool]:
    """Samples spent on a trial, and whether it was trained to its end."""
    trial = study.ask()
    whole, done, aside = curve["samples"], 0.0, 0
    for score in strategy.scores(curve):
        done = max(done, score.share)
        aside += score.aside
        hopeless = math.isnan(score.value)
        if not hopeless:
            trial.report(score.value, score.step)
        if hopeless or trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return done * whole + aside, False
    # Those that diverge late are charged a whole run: where they did was not recorded.
    study.tell(trial, accuracy(curve))
    return whole + aside, curve["final"] is not None
