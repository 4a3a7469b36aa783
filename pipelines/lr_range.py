"""The learning-rate range test: train while the rate grows, suggest a peak, leave no trace.

Source: Smith 2015 (1506.01186), section 3.3; the four suggestions are those of fastai.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from pipelines.lr_range_config import LrRangeConfig
from pipelines.optimizers import apply_values
from pipelines.run import Setup
from pipelines.schedules import ScheduleValues
from pipelines.snapshot import Snapshot
from pipelines.step import TrainStep, endless_groups

__all__ = ["LrRange", "Report", "lr_range_test", "minimum", "slide", "steep", "valley"]

Floats = npt.NDArray[np.float64]
Report = Callable[[int, float, float], None]
"""Is told the step, its learning rate and the smoothed loss."""

BETA = 0.98
# The test ends once the smoothed loss is this many times its lowest value.
DIVERGED = 4.0
# A loss that falls by less than this share of itself has not fallen.
LEAST_FALL = 0.001
# What differs by up to so many standard errors may be noise. Noise alone stays below in 99 of 100
# tests of the usual length.
ERRORS = 3.0


@dataclass(frozen=True)
class LrRange:
    """Learning rates that were tried, the smoothed loss at each, and what they suggest."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    suggestions: dict[str, float]
    """By method: valley, slide, minimum, steep. A method that finds nothing is left out."""
    diverged: bool
    """Whether the test ended early because the loss grew too large."""
    trouble: str
    """Why there are no suggestions, and what to do; empty where there are some."""


def lr_range_test(setup: Setup, options: LrRangeConfig, report: Report | None = None) -> LrRange:
    """Raise the learning rate exponentially from step to step and record the smoothed loss.

    Momentum stays at the configuration's ``momentum_max``. Afterwards weights, optimizer, random
    states and data order are bit-identical to what they were, also when the test fails.
    """
    snapshot = Snapshot(setup.model, setup.optimizer, setup.loaders.train)
    try:
        lrs, raw, losses, diverged = _curve(setup, options, report)
    finally:
        snapshot.restore()
    curve = _trimmed(lrs, losses, options.lr_steps)
    trouble = _trouble(raw, curve[1], diverged, options)
    suggestions = {} if trouble else _suggestions(*curve)
    finite = sum(map(math.isfinite, losses))
    return LrRange(tuple(lrs[:finite]), tuple(losses[:finite]), suggestions, diverged, trouble)


def _curve(
    setup: Setup, options: LrRangeConfig, report: Report | None
) -> tuple[list[float], list[float], list[float], bool]:
    """Rates, losses, smoothed losses, up to and with what ended the test; whether it diverged."""
    step = TrainStep(setup.model, setup.optimizer, setup.device, setup.step_options)
    setup.model.train()
    lrs: list[float] = []
    raw: list[float] = []
    losses: list[float] = []
    average, lowest = 0.0, math.inf
    groups = endless_groups(setup.loaders.train, setup.config.accumulate)
    for index, group in enumerate(islice(groups, options.lr_steps)):
        position = index / (options.lr_steps - 1)
        lr = options.lr_start * (options.lr_end / options.lr_start) ** position
        apply_values(setup.optimizer, ScheduleValues(lr, setup.config.momentum_max))
        loss = float(step.gradients(group))
        average = BETA * average + (1 - BETA) * loss
        smooth = average / (1 - BETA ** (index + 1))
        lrs.append(lr)
        raw.append(loss)
        losses.append(smooth)
        if report is not None:
            report(index, lr, smooth)
        if not math.isfinite(smooth) or smooth > DIVERGED * lowest:
            return lrs, raw, losses, True
        lowest = min(lowest, smooth)
        step.update()
    return lrs, raw, losses, False


def _trimmed(lrs: list[float], losses: list[float], steps: int) -> tuple[Floats, Floats]:
    """Without the first tenth, which has hardly any averaging behind it, and the last five steps,
    in which the loss diverges. A loss that is not finite can only be the last one."""
    kept = slice(steps // 10, -5)
    return np.array(lrs[kept]), np.array(losses[kept])


def _trouble(raw: list[float], trimmed: Floats, diverged: bool, options: LrRangeConfig) -> str:
    if not math.isfinite(raw[0]):
        return f"the loss of the untrained network is {raw[0]}; look at the data and the model"
    if len(trimmed) < 3:
        return (
            f"the loss diverged after {len(raw)} of {options.lr_steps} steps, too early for a "
            f"suggestion; use a lower lr_start than {options.lr_start:g} or a smaller lr_end"
        )
    if not diverged and _only_noise(np.array(raw), trimmed, options.lr_steps // 10 + 1):
        return (
            f"no learning rate from {options.lr_start:g} to {options.lr_end:g} changes the loss by "
            "more than its noise from batch to batch; use a larger lr_end, more lr_steps or a "
            "larger batch_size"
        )
    if trimmed.min() > (1 - LEAST_FALL) * trimmed[0]:
        return (
            f"the loss did not fall at any learning rate from {options.lr_start:g} to "
            f"{options.lr_end:g}; use a lower lr_start, a larger lr_end or more lr_steps"
        )
    return ""


def _only_noise(raw: Floats, curve: Floats, averaged: int) -> bool:
    """Whether the losses of the steps differ as those of batches do that a network does not learn
    from: neither does the smoothed ``curve`` fall from its first value, the mean of ``averaged``
    losses, nor are the last third of the losses others than the first.

    The noise is that from one step to the next, by its median (1.4826 of it is a normal deviation),
    which neither a trend nor a few jumps change much.
    """
    noise = 1.4826 * float(np.median(np.abs(np.diff(raw)))) / math.sqrt(2)
    third = len(raw) // 3
    moved = abs(float(raw[-third:].mean() - raw[:third].mean()))
    # Averages of those many losses, and of as many as exponential smoothing remembers.
    start, memory = 1 / averaged, (1 - BETA) / (1 + BETA)
    fallen = float(curve[0] - curve.min())
    return noise > 0 and (
        fallen <= ERRORS * noise * math.sqrt(start + memory)
        and moved <= ERRORS * noise * math.sqrt(2 / third)
    )


def _suggestions(lrs: Floats, losses: Floats) -> dict[str, float]:
    methods = {"valley": valley, "slide": slide, "minimum": minimum, "steep": steep}
    found = {name: method(lrs, losses) for name, method in methods.items()}
    return {name: lr for name, lr in found.items() if lr is not None}


def valley(lrs: Floats, losses: Floats) -> float | None:
    """The middle of the longest valley: half-way down, before its second third is over.

    The valley is the longest strictly falling subsequence of the losses; it ends where that does
    and is taken to be as wide as it is long (one loss is no valley: the first rate, then).
    """
    longest = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        above = losses[:i] > losses[i]
        if above.any():
            longest[i] = longest[:i][above].max() + 1
    end = int(longest.argmax())
    width = longest[end] if longest[end] > 1 else 0
    third = width / 3
    # The valley begins before the curve does where it spans all of it.
    return float(lrs[max(0, end - width + int(third) + int(third / 2))])


def slide(
    lrs: Floats, losses: Floats, distance: int = 15, threshold: float = 0.005
) -> float | None:
    """Where a ruler of ``distance`` steps, slid down from the right, first lies level.

    Level: the slopes at its two ends differ by ``threshold`` at most. None where the curve is
    shorter than the ruler.
    """
    if len(losses) <= distance:
        return None
    slopes = np.gradient(losses)
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
