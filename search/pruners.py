"""The pruner of a study, from its options.

Pruners see one report at each rung (search/rung_plan.py), as step 1, reduction, reduction^2, ...,
so that Optuna's pruners, which count in such resources, meet each rung exactly once.
"""

from __future__ import annotations

from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
)

from search.config import StudyConfig
from search.health import HealthPruner, HealthRule

__all__ = ["make_pruner"]


def make_pruner(options: StudyConfig) -> BasePruner:
    """The pruner that the options name, under the diagnosis of the layers."""
    pruner = _make(options)
    rule = HealthRule(options.health)
    return HealthPruner(pruner, rule) if rule else pruner


def _make(options: StudyConfig) -> BasePruner:
    kind, _, bound = options.pruner.partition(":")
    match kind:
        case "halving":
            return SuccessiveHalvingPruner(min_resource=1, reduction_factor=options.reduction)
        case "hyperband":
            most = options.reduction**options.rungs
            return HyperbandPruner(1, most, options.reduction)
        case "median":
            return MedianPruner()
        case "threshold":
            worst = float(bound)
            if options.objective == "loss":
                return ThresholdPruner(upper=worst)
            return ThresholdPruner(lower=worst)
    return NopPruner()
