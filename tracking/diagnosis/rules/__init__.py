"""The rules, one family a file. A further rule is a further class, and a place in RULES."""

from __future__ import annotations

from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules.collapse import CollapseCycles
from tracking.diagnosis.rules.data import (
    ConstantInputs,
    InputsNotNormalised,
    LabelsOutOfRange,
    OneClassBatches,
    TrainValidOverlap,
)
from tracking.diagnosis.rules.dead import DeadLayer, DeadUnits
from tracking.diagnosis.rules.gradients import ExplodingGradients, VanishingGradients
from tracking.diagnosis.rules.loss import LossNotDecreasing, StoppedTooEarly
from tracking.diagnosis.rules.lr_course import HighFinalLr, LrTooLow
from tracking.diagnosis.rules.lr_too_high import LrTooHigh
from tracking.diagnosis.rules.norms import SmallBatchNorm
from tracking.diagnosis.rules.saturation import Saturated
from tracking.diagnosis.rules.scale import ExplodingActivations, NonFinite
from tracking.diagnosis.rules.short_warm_up import ShortWarmUp
from tracking.diagnosis.rules.start import PoorInitialisation, VanishingStart
from tracking.diagnosis.rules.updates import LargeUpdates, SmallUpdates
from tracking.diagnosis.rules.validation import (
    ConstantPredictions,
    Overfitting,
    WorseThanChance,
)

__all__ = ["RULES"]

RULES: tuple[type[Rule], ...] = (
    ConstantInputs,
    InputsNotNormalised,
    LabelsOutOfRange,
    OneClassBatches,
    TrainValidOverlap,
    PoorInitialisation,
    VanishingStart,
    LrTooHigh,
    ShortWarmUp,
    LrTooLow,
    HighFinalLr,
    NonFinite,
    ExplodingActivations,
    CollapseCycles,
    DeadLayer,
    DeadUnits,
    Saturated,
    ExplodingGradients,
    VanishingGradients,
    LargeUpdates,
    SmallUpdates,
    SmallBatchNorm,
    ConstantPredictions,
    WorseThanChance,
    LossNotDecreasing,
    Overfitting,
    StoppedTooEarly,
)
