"""The learning-rate range test: train while the rate grows, suggest a peak, leave no trace.

Source: Smith 2015 (1506.01186), section 3.3; the four suggestions are those of fastai.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from pipelines.config import LrRangeConfig
from pipelines.loaders import Batch, Loader
from pipelines.optimizers import apply_values
from pipelines.run import Setup
from pipelines.schedules import ScheduleValues
from pipelines.snapshot import Snapshot
from pipelines.step import TrainStep, batch_groups
from tracking.errors import TrainingFailed

__all__ = ["LrRange", "lr_range_test", "minimum", "slide", "steep", "valley"]

Floats = npt.NDArray[np.float64]

BETA = 0.98
# The test ends once the smoothed loss is this many times its lowest value.
DIVERGED = 4.0


@dataclass(frozen=True)
class LrRange:
    """Learning rates that were tried, the smoothed loss at each, and what they suggest."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    suggestions: dict[str, float]
    """By method: valley, slide, minimum, steep. A method that finds nothing is left out."""
    diverged: bool
    """Whether the test ended early because the loss grew too large."""


def lr_range_test(setup: Setup, options: LrRangeConfig) -> LrRange:
    """Raise the learning rate exponentially from step to step and record the smoothed loss.

    Momentum stays at the configuration's ``momentum_max``. Afterwards weights, optimizer, random
    states and data order are bit-identical to what they were, also when the test fails.

    Raises TrainingFailed: the loss is not finite from the start, or the curve is too short for any
    suggestion.
    """
    snapshot = Snapshot(setup.model, setup.optimizer, setup.loaders.train)
    try:
        lrs, losses, diverged = _curve(setup, options)
    finally:
        snapshot.restore()
    suggestions = _suggestions(np.array(lrs), np.array(losses), options.lr_steps)
    if not suggestions:
        raise TrainingFailed(
            f"the loss diverged after {len(losses)} of {options.lr_steps} steps, too early for a "
            f"suggestion; use a lower lr_start than {options.lr_start:g} or a smaller lr_end"
        )
    return LrRange(tuple(lrs), tuple(losses), suggestions, diverged)


def _curve(setup: Setup, options: LrRangeConfig) -> tuple[list[float], list[float], bool]:
    step = TrainStep(setup.model, setup.optimizer, setup.device, setup.step_options)
    setup.model.train()
    lrs: list[float] = []
    losses: list[float] = []
    average, lowest = 0.0, math.inf
    groups = _endless(setup.loaders.train, setup.config.accumulate)
    for index, group in enumerate(islice(groups, options.lr_steps)):
        position = index / (options.lr_steps - 1)
        lr = options.lr_start * (options.lr_end / options.lr_start) ** position
        apply_values(setup.optimizer, ScheduleValues(lr, setup.config.momentum_max))
        loss = float(step.gradients(group))
        average = BETA * average + (1 - BETA) * loss
        smooth = average / (1 - BETA ** (index + 1))
        if not math.isfinite(smooth) or smooth > DIVERGED * lowest:
            return lrs, losses, True
        lrs.append(lr)
        losses.append(smooth)
        lowest = min(lowest, smooth)
        step.update()
    return lrs, losses, False


def _endless(loader: Loader, accumulate: int) -> Iterator[list[Batch]]:
    while True:
        yield from batch_groups(loader, accumulate)


def _suggestions(lrs: Floats, losses: Floats, steps: int) -> dict[str, float]:
    # The first tenth has hardly any averaging behind the loss, the last five steps are diverging.
    lrs, losses = lrs[steps // 10 : -5], losses[steps // 10 : -5]
    if len(lrs) < 3:
        return {}
    methods = {"valley": valley, "slide": slide, "minimum": minimum, "steep": steep}
    found = {name: method(lrs, losses) for name, method in methods.items()}
    return {name: lr for name, lr in found.items() if lr is not None}


def valley(lrs: Floats, losses: Floats) -> float | None:
    """The middle of the longest valley: half-way down, before its second third is over.

    The valley is the longest strictly falling subsequence of the losses; it ends where that does
    and is taken to be as wide as it is long.
    """
    longest = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        above = losses[:i] > losses[i]
        if above.any():
            longest[i] = longest[:i][above].max() + 1
    end = int(longest.argmax())
    width = longest[end] if longest[end] > 1 else 0
    third = width / 3
    return float(lrs[end - width + int(third) + int(third / 2)])


def slide(
    lrs: Floats, losses: Floats, distance: int = 15, threshold: float = 0.005
) -> float | None:
    """Where a ruler of ``distance`` steps, slid down from the right, first lies level.

    Level: the slopes at its two ends differ by ``threshold`` at most. None where the curve is
    shorter than the ruler.
    """
    slopes = np.gradient(losses)
    if len(losses) <= distance:
        return None
    right = len(losses) - 1
    lr = lrs[right - distance]
    while right >= distance and abs(slopes[right] - slopes[right - distance]) > threshold:
        lr = lrs[right - distance]
        right -= 1
    return float(lr)


def minimum(lrs: Floats, losses: Floats) -> float | None:
    """A tenth of the rate at which the loss is lowest."""
    return float(lrs[losses.argmin()]) / 10


def steep(lrs: Floats, losses: Floats) -> float | None:
    """Where the loss falls fastest against the logarithm of the rate."""
    return float(lrs[(np.diff(losses) / np.diff(np.log(lrs))).argmin()])
