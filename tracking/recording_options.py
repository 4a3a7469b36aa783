"""RecordingOptions: what of a run is recorded."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tracking.diagnosis.rules import RULES
from tracking.diagnosis.thresholds import check_thresholds, parse_thresholds
from tracking.hooks.layers import check_layers
from tracking.interval import Interval

__all__ = ["RecordingOptions"]


@dataclass(frozen=True)
class RecordingOptions:
    """What is recorded; docs/hand-written-loops.md explains each of them.

    Raises BadOption: ``layers``, ``every`` or ``thresholds`` cannot be used.
    """

    layers: str = "activations"
    every: str | int = 1
    record_eval: bool = False
    near_zero_eps: float = 0.05
    above_threshold: float = 1.0
    gradients: bool = False
    updates: bool = False
    diagnose: bool = True
    thresholds: str = ""

    def __post_init__(self) -> None:
        check_layers(self.layers)
        Interval(self.every)
        check_thresholds(parse_thresholds(self.thresholds), RULES)

    @classmethod
    def of(cls, config: object) -> RecordingOptions:
        """The options of a larger configuration that has them under the same names."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})
