"""What rules look at: what was recorded since the last look, as arrays, and what is known besides.

A value that a record does not have is NaN here, so that comparisons with it come out false.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

__all__ = [
    "DataFacts",
    "EpochFigures",
    "Floats",
    "GradientTrace",
    "InputFigures",
    "Ints",
    "LayerTrace",
    "NormFigures",
    "RunContext",
    "StepTrace",
    "Stretch",
    "UpdateTrace",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LayerTrace:
    """Activation statistics of one layer over n recorded steps of training, in ascending order.

    See docs/statistics.md for what they mean.
    """

    step: Ints
    count: Ints
    mean: Floats
    std: Floats
    min: Floats
    max: Floats
    near_zero: Floats
    dead_channels: Floats
    dead_lasting: Floats
    nonfinite: Ints

    @cached_property
    def size(self) -> Floats:
        """Root mean square of the activations."""
        return np.sqrt(self.mean * self.mean + self.std * self.std)


@dataclass(frozen=True)
class StepTrace:
    """What the first parameter group of the optimizer used in n steps, in ascending order."""

    step: Ints
    loss: Floats
    lr: Floats
    batch_size: Floats


@dataclass(frozen=True)
class GradientTrace:
    """Gradients at one layer's output over n recorded steps, in ascending order."""

    step: Ints
    count: Ints
    norm: Floats
    mean_abs: Floats
    nonfinite: Ints


@dataclass(frozen=True)
class UpdateTrace:
    """Updates of one parameter over n recorded steps, in ascending order."""

    step: Ints
    ratio: Floats
    nonfinite: Ints


@dataclass(frozen=True)
class EpochFigures:
    """A validation after an epoch."""

    step: int
    """Optimizer steps done."""
    loss: float
    accuracy: float
    top_class: float = float("nan")
    """Share of the class that is predicted most often."""


@dataclass(frozen=True)
class InputFigures:
    """What went into the model in one training batch, as the model got it."""

    step: int
    samples: int
    mean: float
    """Of the finite values, as for the next three; NaN where there are none."""
    std: float
    min: float
    max: float
    nonfinite: int
    constant: float
    """Share of the samples in which every value is the same."""
    classes: int = 0
    """Different labels; 0 where labels are not known, as for the next two."""
    lowest_label: int = 0
    highest_label: int = 0


@dataclass(frozen=True)
class NormFigures:
    """How far a batch-norm layer's running statistics are from a validation batch's own."""

    step: int
    layer: str
    shift: float
    """Root mean square over the channels of (batch mean - running mean) / running std."""
    scale: float
    """Root mean square over the channels of ln(batch variance / running variance)."""
    samples: int = 0
    """In the first training batch since the last validation; 0 where there was none, as for the
    next."""
    values: int = 0
    """Of each channel in that batch: samples times points."""


@dataclass(frozen=True)
class DataFacts:
    """What is known of the data before training."""

    train: int
    """Images, as for the next."""
    valid: int
    class_counts: tuple[int, ...]
    """Training images of each class."""
    overlap: int = 0
    """Validation images that are training images too."""


@dataclass(frozen=True)
class RunContext:
    """What rules may know of a run besides what was recorded."""

    options: Mapping[str, str] = field(default_factory=dict)
    """The run's options as text, where they are known."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Names of the layers' classes, such as ReLU."""
    classes: int | None = None
    total_steps: int | None = None
    """Optimizer steps that the run is to have."""
    data: DataFacts | None = None

    def completed(self, expected_steps: int | None, scaled: bool) -> RunContext:
        """With what a loop's own arguments tell; ``scaled``: a gradient scaler works in it."""
        return replace(
            self,
            options={**self.options, **({"precision": "fp16"} if scaled else {})},
            total_steps=self.total_steps or expected_steps,
        )


@dataclass(frozen=True)
class Stretch:
    """What was recorded since the last look. Any of it may be missing.

    Layers and parameters are there only with at least one row.
    """

    steps: StepTrace | None = None
    layers: Mapping[str, LayerTrace] = field(default_factory=dict)
    """By name, in the model's order, as for the next."""
    gradients: Mapping[str, GradientTrace] = field(default_factory=dict)
    updates: Mapping[str, UpdateTrace] = field(default_factory=dict)
    epochs: Sequence[EpochFigures] = ()
    inputs: Sequence[InputFigures] = ()
    norms: Sequence[NormFigures] = ()
