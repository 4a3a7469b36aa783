"""The pruner of a study, from its options.

Pruners see one report at each rung (search/rung_plan.py), whose step is the rung's number: 1, 2 and
so on. A score goes the way of the study's objective. Where that is accuracy and the validation loss
is to be compared, it is exp(-loss): the geometric mean of the probabilities given to the right
classes, which lies between 0 and 1 as an accuracy does, and orders trials as the loss does. Where
accuracy is compared, the loss decides among equals, which pruners would all let go on.
"""

from __future__ import annotations

import math

from optuna.pruners import BasePruner, MedianPruner, NopPruner, ThresholdPruner

from search.algorithms.halving import Halving, Hyperband
from search.algorithms.health import HealthPruner, HealthRule
from search.config import StudyConfig

__all__ = ["make_pruner", "rung_score"]

TIE = 1e-6
"""Of equal accuracies that with the lower loss is better. Less than one image of a million."""


def make_pruner(options: StudyConfig) -> HealthPruner:
    """The pruner that the options name, under the diagnosis of the layers."""
    return HealthPruner(_make(options), HealthRule(options.health))


def rung_score(accuracy: float, loss: float, options: StudyConfig) -> float:
    """What a pruner compares, by the study's direction."""
    if options.objective == "loss":
        return loss
    certainty = math.exp(-loss)
    return certainty if options.judged_by == "loss" else accuracy + TIE * certainty


def _make(options: StudyConfig) -> BasePruner:
    kind, _, bound = options.pruner.partition(":")
    match kind:
        case "halving":
            return Halving(options.reduction, _bootstrap(options))
        case "hyperband":
            return Hyperband(len(options.plan.shares), options.reduction, _bootstrap(options))
        case "median":
            return MedianPruner()
        case "threshold":
            worst = float(bound)
            minimises = options.objective == "loss"
            return ThresholdPruner(upper=worst) if minimises else ThresholdPruner(lower=worst)
    return NopPruner()


def _bootstrap(options: StudyConfig) -> int:
    """Fewer in a study of few trials, which would else train none to its end; and none where the
    first trial is what the range test suggests."""
    return 0 if options.lr_prior else min(options.bootstrap, options.trials // 5)
