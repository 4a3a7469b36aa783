"""The values that travel from hooks to tables, rules and sinks. All of them are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "DatasetInfo",
    "Finding",
    "GradientRecord",
    "HyperParams",
    "LayerStats",
    "Metric",
    "Remedy",
    "UpdateRecord",
]


@dataclass(frozen=True, slots=True)
class HyperParams:
    """What one parameter group of the optimizer used in one step."""

    step: int
    """Optimizer steps done before this one."""
    epoch: int | None
    group: str
    """The group's ``name``, or its index as text."""
    lr: float | None
    """None for optimizers without one, or that find their own."""
    momentum: float | None
    """SGD's momentum or Adam's beta1; None for optimizers without either."""
    weight_decay: float | None
    batch_size: int | None
    """Samples whose gradients the step used."""
    loss: float | None
    """Mean training loss over those samples."""
    loss_smooth: float | None
    """Exponential moving average of the loss (0.98), bias-corrected."""
    time: float
    """Seconds since the Unix epoch."""
    options: Mapping[str, float] = field(default_factory=dict)
    """The group's other numbers: beta2, eps, nesterov, dampening, ..."""


@dataclass(frozen=True, slots=True)
class LayerStats:
    """Statistics of one layer's output over one batch, or over all batches of one optimizer step.

    ``mean``, ``std`` (n-1), ``min``, ``max`` and ``near_zero`` are over the finite elements and
    None where there are none; ``dead_channels`` is None where the output has no dimension 1.
    """

    step: int
    layer: str
    mode: str
    """``train`` or ``eval``."""
    count: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    near_zero: float | None
    above: int
    dead_channels: float | None
    dead_lasting: float | None
    """Share of the channels dead in this and the 19 recorded steps before; None likewise."""
    nonfinite: int
    hist: npt.NDArray[np.int64]
    """82 counts: underflow, 80 bins over [-10, 10), overflow."""
    time: float
    """Seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class GradientRecord:
    """The gradient of the loss with respect to one layer's output, over one optimizer step.

    ``norm`` and ``mean_abs`` are over the finite elements and None where there are none.
    """

    step: int
    layer: str
    count: int
    norm: float | None
    """Euclidean (L2) norm."""
    mean_abs: float | None
    zeros: float | None
    """Share of the elements that are exactly 0; None where there are no elements."""
    nonfinite: int
    time: float
    """Seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """What one optimizer step changed in one parameter tensor."""

    step: int
    parameter: str
    count: int
    update_norm: float | None
    """L2 norm of the change, over the elements where it is finite; None where there are none."""
    weight_norm: float | None
    """L2 norm before the change, over the finite elements; None where there are none."""
    ratio: float | None
    """``update_norm / weight_norm``; None where that is not defined."""
    nonfinite: int
    """Elements whose change is NaN or infinite."""
    time: float
    """Seconds since the Unix epoch."""


class Metric(NamedTuple):
    """One point of one metric. There are hundreds in a flush, and tuples are made at once."""

    key: str
    value: float
    step: int
    time: float
    """Seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What identifies the data a run was trained on."""

    name: str
    digest: str
    source: str
    """A path, or a description where there is none."""
    image_shape: tuple[int, int, int]
    """(channels, height, width)"""
    classes: tuple[str, ...]
    sizes: Mapping[str, int]
    """Images in each split: train, valid, test."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something that can be done about a finding."""

    text: str
    option: str = ""
    """The option of a training run that it changes; empty where no option does it."""
    value: str = ""
    """What the option is to be, as text."""

    def __str__(self) -> str:
        """With the option that carries it out."""
        if self.option and self.value:
            return f"{self.text} (--{self.option.replace('_', '-')} {self.value})"
        return self.text


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a training, why, and what to do."""

    rule: str
    severity: str
    """``critical`` (it cannot come right by itself), ``warning`` or ``note``."""
    summary: str
    """What was seen, in one line."""
    cause: str
    """Why that happens, in one sentence."""
    remedies: tuple[Remedy, ...]
    """In the order in which to try them."""
    first_step: int
    """First step that shows it."""
    last_step: int
    found_step: int
    """Last step that had been recorded when it was found."""
    layers: tuple[str, ...] = ()
    """In the model's order; parameters where the rule is about them."""
    evidence: Mapping[str, float] = field(default_factory=dict)
    """The numbers it rests on, by name."""

    def __str__(self) -> str:
        """In one line, with the first remedy."""
        remedy = f"; try: {self.remedies[0]}" if self.remedies else ""
        return f"{self.severity} at step {self.found_step}: {self.summary} ({self.rule}){remedy}"
