"""LossCurve: the training loss of a whole run in bounded memory, with its trend and its noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tracking.diagnosis.evidence import Floats, RunContext, StepTrace

__all__ = ["Level", "LossCurve", "completed"]

BINS = 240


@dataclass(frozen=True)
class Level:
    """The loss over some part of a run."""

    mean: float
    noise: float
    """Standard deviation around the trend, from differences of neighbouring steps."""
    lr: float
    """Mean learning rate."""
    steps: int


class LossCurve:
    """Takes losses and learning rates step by step, and sums neighbouring steps into bins.

    When all bins are full, neighbours are joined, so memory does not grow with the steps.
    """

    def __init__(self) -> None:
        self.first = math.nan
        """The first finite loss: before any update, where the run was recorded from its start."""
        self.last_step = -1
        self.steps = 0
        """Steps with a finite loss."""
        self.from_start = True
        """Whether the first step is among them; not in a run that goes on from a checkpoint."""
        self.positive = True
        """Whether no loss was below 0, so that one can be compared with another as a ratio."""
        self.peak_lr = 0.0
        self.first_lr = math.nan
        self._width = 1
        # Rows: steps, losses, squared differences from the loss before, learning rates.
        self._sums = np.zeros((BINS, 4))
        self._before = math.nan

    def add(self, trace: StepTrace) -> None:
        """Take further steps, in order."""
        if len(trace.step):
            if self.last_step < 0:
                self.from_start = bool(trace.step[0] == 0)
            self.last_step = int(trace.step[-1])
        known = np.isfinite(trace.loss)
        if known.any():
            self._add(trace.loss[known], trace.lr[known])

    def _add(self, losses: Floats, lrs: Floats) -> None:
        if self.steps == 0:
            self.first, self.first_lr = float(losses[0]), float(lrs[0])
            self._before = self.first
        while self.steps + len(losses) > BINS * self._width:
            self._sums[: BINS // 2] = self._sums[0::2] + self._sums[1::2]
            self._sums[BINS // 2 :] = 0
            self._width *= 2
        places = (self.steps + np.arange(len(losses))) // self._width
        self.positive = self.positive and bool((losses >= 0).all())
        differences = np.diff(losses, prepend=self._before)
        ones = np.ones_like(losses)
        np.add.at(self._sums, places, np.stack([ones, losses, differences**2, lrs], axis=1))
        self._before = float(losses[-1])
        self.peak_lr = max(self.peak_lr, float(lrs.max()))
        self.steps += len(losses)

    def level(self, begin: float, end: float) -> Level:
        """The steps between two shares of the run so far; NaN where there are none."""
        used = -(-self.steps // self._width)
        first, last = math.floor(begin * used), math.ceil(end * used)
        steps, losses, squares, lrs = self._sums[first:last].sum(axis=0)
        if not steps:
            return Level(math.nan, math.nan, math.nan, 0)
        # Independent noise of variance v makes differences of variance 2 v.
        return Level(losses / steps, math.sqrt(squares / steps / 2), lrs / steps, int(steps))


def completed(run: RunContext, curve: LossCurve) -> bool:
    """Whether the run had all its steps, as far as is known; a failed one never came to its end."""
    return run.total_steps is None or curve.last_step + 1 >= run.total_steps
