"""Rules about where the training loss goes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tracking.diagnosis.evidence import RunContext, Stretch
from tracking.diagnosis.losses import Validations, completed, guessed, guessing
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules.advice import known_lr, lr, usual_lr
from tracking.records import Finding, Remedy

__all__ = ["LossNotDecreasing", "StoppedTooEarly"]

TINY = 1e-30
ODD = 10
"""A learning rate so many times the usual one, or so small a part of it, is the first suspect."""


class LossNotDecreasing(Rule):
    """A training loss that stays where it was, while validation tells nothing better.

    ``fall``: beside its start; ``steps``: at least. What has learned already may stay where it is:
    ``accuracy``: of validation, beside guessing's; ``known``: the loss beside guessing's.
    """

    name = "loss_not_decreasing"
    severity = "warning"
    needs = "steps"
    also = frozenset({"epochs"})
    cause = (
        "The labels do not belong to the images, nothing passes through the network, or the "
        "learning rate is far from right."
    )

    def __init__(
        self,
        run: RunContext,
        *,
        fall: float = 0.05,
        steps: float = 60,
        accuracy: float = 1.5,
        known: float = 0.5,
    ) -> None:
        super().__init__(run)
        self._fall, self._steps = fall, steps
        self._accuracy, self._known = accuracy, known
        self._seen = Validations()

    def observe(self, stretch: Stretch) -> None:
        for figures in stretch.epochs:
            self._seen.add(figures)

    def findings(self, ended: bool) -> Iterator[Finding]:
        curve = self.curve
        total = self.run.total_steps or math.inf
        if curve.steps < self._steps or not (ended or curve.steps >= total / 2):
            return
        if not (curve.from_start and curve.positive):
            return
        if self._seen.accuracy > self._accuracy * guessed(self.run):
            return  # slowly, but it learns
        chance = guessing(self.run, curve)
        last = curve.level(0.8, 1.0)
        start = min(curve.first, chance)
        if last.mean > max((1 - self._fall) * start, self._known * chance):
            usual = usual_lr(self.run)
            other = lr(usual, "take a learning rate that is usual for the optimizer")
            labels = Remedy("check that labels and images belong together", "dataset")
            odd = usual is not None and not usual / ODD < curve.peak_lr < ODD * usual
            yield self.finding(
                f"after {curve.steps:,} steps the loss is {last.mean:.3g}; it began at "
                f"{curve.first:.3g}",
                0,
                curve.last_step,
                *((other, labels) if odd else (labels, other)),
                first=curve.first,
                last=last.mean,
            )


class StoppedTooEarly(Rule):
    """A run that ended while it still got better, at a learning rate that was not low.

    ``progress``: of the last fifth's losses beside the fifth before; ``lr``: the last learning
    rates beside the peak; ``loss``: smallest beside that of guessing; ``steps``: at least so many;
    ``worse``: the last validation loss above the lowest, from which more steps make it no better.
    """

    name = "stopped_too_early"
    severity = "warning"
    needs = "steps"
    also = frozenset({"epochs"})
    cause = "The run ended before the network had learned what it can learn."

    def __init__(
        self,
        run: RunContext,
        *,
        progress: float = 0.05,
        lr: float = 0.3,
        loss: float = 0.2,
        steps: float = 20,
        worse: float = 0.05,
    ) -> None:
        super().__init__(run)
        self._progress, self._lr = progress, lr
        self._loss, self._steps = loss, steps
        self._worse = worse
        self._seen = Validations()

    def observe(self, stretch: Stretch) -> None:
        for figures in stretch.epochs:
            self._seen.add(figures)

    def findings(self, ended: bool) -> Iterator[Finding]:
        curve = self.curve
        if not ended or curve.steps < self._steps or not completed(self.run, curve):
            return
        if not curve.positive or curve.lr_is_zero or self._seen.rise > self._worse:
            return
        before, last = curve.level(0.6, 0.8), curve.level(0.8, 1.0)
        progress = 1 - last.mean / max(before.mean, TINY)
        high = curve.level(0.9, 1.0).lr >= self._lr * curve.peak_lr
        chance = guessing(self.run, curve)
        if high and progress > self._progress and last.mean > self._loss * chance:
            epochs = self.run.options.get("epochs", "")
            more = str(5 * int(epochs)) if epochs.isdigit() else ""
            yield self.finding(
                f"the loss fell by {progress:.0%} in the last fifth of the run",
                round(0.8 * curve.last_step),
                curve.last_step,
                Remedy("train several times as long", "epochs", more),
                Remedy("let the learning rate fall to nothing", "schedule", "one_cycle"),
                progress=progress,
                last_loss=last.mean,
                peak_lr=known_lr(self.run) or curve.peak_lr,
            )
