"""LossCurve: the training loss of a whole run in bounded memory, with its trend and its noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tracking.diagnosis.evidence import EpochFigures, RunContext, StepTrace

__all__ = [
    "Level",
    "LossCurve",
    "Validations",
    "completed",
    "guessed",
    "guessing",
    "usual_answer",
]

BINS = 240
KNOWN = 0.9
"""Share of a run after which a loss must have been finite for its end to be judged."""


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
        self.last_finite = -1
        """The last step with a finite loss."""
        self.steps = 0
        """Steps with a finite loss."""
        self.from_start = True
        """Whether the first step is among them; not in a run that goes on from a checkpoint."""
        self.positive = True
        """Whether no loss was below 0, so that one can be compared with another as a ratio."""
        self.peak_lr = 0.0
        self.first_lr = math.nan
        self._width = 1
        # Steps, losses, squared differences from the loss before, and learning rates of each bin.
        self._sums: list[list[float]] = []
        self._before = math.nan

    @property
    def lr_is_zero(self) -> bool:
        """Whether no step so far had another learning rate than 0."""
        return self.steps > 0 and self.peak_lr == 0

    def add(self, trace: StepTrace) -> None:
        """Take further steps, in order."""
        if len(trace.step):
            if self.last_step < 0:
                self.from_start = bool(trace.step[0] == 0)
            self.last_step = int(trace.step[-1])
        # A few steps come at a time, while a training waits: NumPy's many functions, none of them
        # in the processor's caches then, take ten times as long as this.
        rows = zip(trace.step.tolist(), trace.loss.tolist(), trace.lr.tolist(), strict=True)
        for step, loss, lr in rows:
            if math.isfinite(loss):
                self.last_finite = step
                self._add(loss, lr)

    def _add(self, loss: float, lr: float) -> None:
        if self.steps == 0:
            self.first, self.first_lr, self._before = loss, lr, loss
        place = self.steps // self._width
        if place == BINS:
            pairs = zip(self._sums[::2], self._sums[1::2], strict=True)
            self._sums = [[a + b for a, b in zip(*pair, strict=True)] for pair in pairs]
            self._width *= 2
            place //= 2
        if place == len(self._sums):
            self._sums.append([0.0, 0.0, 0.0, 0.0])
        bin_ = self._sums[place]
        bin_[0] += 1
        bin_[1] += loss
        bin_[2] += (loss - self._before) ** 2
        bin_[3] += lr
        self.positive = self.positive and loss >= 0
        self._before = loss
        self.peak_lr = max(self.peak_lr, lr)
        self.steps += 1

    def level(self, begin: float, end: float) -> Level:
        """The steps between two shares of the run so far; NaN where there are none."""
        used = -(-self.steps // self._width)
        first, last = math.floor(begin * used), math.ceil(end * used)
        if first == last:
            return Level(math.nan, math.nan, math.nan, 0)
        steps, losses, squares, lrs = map(sum, zip(*self._sums[first:last], strict=True))
        # Independent noise of variance v makes differences of variance 2 v.
        return Level(losses / steps, math.sqrt(squares / steps / 2), lrs / steps, int(steps))


class Validations:
    """Takes what validation showed, one after the other, and keeps the ends and the best."""

    def __init__(self) -> None:
        self.count = 0
        self.last: EpochFigures | None = None
        self.best: EpochFigures | None = None
        """With the lowest loss, the first of those; so is the next."""
        self.best_before: EpochFigures | None = None
        """Of those before the last."""

    def add(self, figures: EpochFigures) -> None:
        """Take the next."""
        self.count += 1
        self.last, self.best_before = figures, self.best
        if self.best is None or figures.loss < self.best.loss or math.isnan(self.best.loss):
            self.best = figures

    @property
    def accuracy(self) -> float:
        """Of the last; NaN where there is none."""
        return self.last.accuracy if self.last else math.nan

    @property
    def rise(self) -> float:
        """How far the last loss is above the lowest, as a share of that; NaN where unknown."""
        if self.last is None or self.best is None or not self.best.loss > 0:
            return math.nan
        return self.last.loss / self.best.loss - 1

    @property
    def gain(self) -> float:
        """How far the last loss is below the lowest before, as a share of that; NaN likewise."""
        if self.last is None or self.best_before is None or not self.best_before.loss > 0:
            return math.nan
        return 1 - self.last.loss / self.best_before.loss


def completed(run: RunContext, curve: LossCurve) -> bool:
    """Whether the run had all its steps, as far as is known, and a loss to the end.

    One that failed never came to its end, and one whose loss is NaN shows nothing there.
    """
    known = curve.last_finite >= KNOWN * curve.last_step
    return known and (run.total_steps is None or curve.last_step + 1 >= run.total_steps)


def guessing(run: RunContext, curve: LossCurve) -> float:
    """The cross entropy of guessing; the first loss where it is not known."""
    return math.log(run.classes) if run.classes and run.classes > 1 else curve.first


def guessed(run: RunContext) -> float:
    """The accuracy of one answer for all images; that for two classes where nothing is known."""
    return max(usual_answer(run), 1 / max(2, run.classes or 2))


def usual_answer(run: RunContext) -> float:
    """Share of the class that has the most training images; 0 where it is not known."""
    counts = run.data.class_counts if run.data else ()
    return max(counts) / sum(counts) if counts and sum(counts) else 0.0
