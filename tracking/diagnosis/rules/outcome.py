"""Rules about what comes of a training: losses, predictions, validation."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tracking.diagnosis.evidence import EpochFigures, RunContext, Stretch
from tracking.diagnosis.losses import LossCurve, completed
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules.advice import known_lr, lr, usual_lr
from tracking.records import Finding, Remedy

__all__ = [
    "ConstantPredictions",
    "LossNotDecreasing",
    "Overfitting",
    "StoppedTooEarly",
    "WorseThanChance",
]


TINY = 1e-30


class LossNotDecreasing(Rule):
    """A training loss that stays where it was. ``fall``: beside its start; ``steps``: at least."""

    name = "loss_not_decreasing"
    severity = "warning"
    needs = "steps"
    cause = (
        "The labels do not belong to the images, nothing passes through the network, or the "
        "learning rate is far from right."
    )

    def __init__(self, run: RunContext, *, fall: float = 0.05, steps: float = 60) -> None:
        super().__init__(run)
        self._fall, self._steps = fall, steps

    def findings(self, ended: bool) -> Iterator[Finding]:
        curve = self.curve
        total = self.run.total_steps or math.inf
        if curve.steps < self._steps or not (ended or curve.steps >= total / 2):
            return
        if not (curve.from_start and curve.positive):
            return
        chance = _guessing(self.run, curve)
        last = curve.level(0.8, 1.0)
        start = min(curve.first, chance)
        if last.mean > (1 - self._fall) * start:
            yield self.finding(
                f"after {curve.steps:,} steps the loss is {last.mean:.3g}; it began at "
                f"{curve.first:.3g}",
                0,
                curve.last_step,
                Remedy("check that labels and images belong together", "dataset"),
                lr(usual_lr(self.run), "try a usual learning rate"),
                first=curve.first,
                last=last.mean,
            )


class _EpochRule(Rule):
    """Keeps the validations of a run."""

    needs = "epochs"

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._first: EpochFigures | None = None
        self._last: EpochFigures | None = None
        self._epochs = 0

    def observe(self, stretch: Stretch) -> None:
        for figures in stretch.epochs:
            self._first = self._first or figures
            self._last = figures
            self._epochs += 1


class ConstantPredictions(_EpochRule):
    """One answer for nearly all images, in two validations on end or the last.

    ``share``: of the validation images; ``steps``: optimizer steps done by then, before the end.
    """

    name = "constant_predictions"
    severity = "critical"
    cause = "What reaches the last layer does not depend on the image."
    explains = frozenset({"worse_than_chance", "loss_not_decreasing"})

    def __init__(self, run: RunContext, *, share: float = 0.97, steps: float = 100) -> None:
        super().__init__(run)
        self._share, self._steps = share, steps
        self._often = 0
        self._began = 0

    def observe(self, stretch: Stretch) -> None:
        super().observe(stretch)
        for figures in stretch.epochs:
            self._began = self._began if self._often else figures.step
            self._often = self._often + 1 if self._shows(figures) else 0

    def _shows(self, figures: EpochFigures) -> bool:
        # Where one class makes up most of the data, its name is no bad answer.
        counts = self.run.data.class_counts if self.run.data else ()
        usual = max(counts) / sum(counts) if counts and sum(counts) else 0.0
        return figures.top_class >= max(self._share, min(0.999, usual + 0.05))

    def findings(self, ended: bool) -> Iterator[Finding]:
        last = self._last
        if last is None or not self._often:
            return
        if ended or (self._often >= 2 and last.step >= self._steps):
            yield self.finding(
                f"{last.top_class:.0%} of the validation images get the same answer",
                self._began,
                last.step,
                lr(usual_lr(self.run), "try a usual learning rate"),
                Remedy("normalise the activations of each layer", "norm", "batch"),
                share=last.top_class,
                accuracy=last.accuracy,
            )


class WorseThanChance(_EpochRule):
    """Validation no better than guessing. ``margin``: accuracy beside that of guessing."""

    name = "worse_than_chance"
    severity = "warning"
    cause = "Validation images or labels differ from those of training, or nothing was learned."
    explains = frozenset({"overfitting", "loss_not_decreasing"})

    def __init__(self, run: RunContext, *, margin: float = 1.5) -> None:
        super().__init__(run)
        self._margin = margin

    def findings(self, ended: bool) -> Iterator[Finding]:
        last = self._last
        if not ended or last is None or not self.run.classes or self.run.classes < 2:
            return
        chance = 1 / self.run.classes
        if last.accuracy < min(self._margin * chance, (1 + chance) / 2):
            yield self.finding(
                f"validation accuracy is {last.accuracy:.1%}; guessing gives {chance:.1%}",
                0,
                last.step,
                Remedy("check that labels and images belong together", "dataset"),
                lr(usual_lr(self.run), "try a usual learning rate"),
                accuracy=last.accuracy,
                chance=chance,
            )


class Overfitting(_EpochRule):
    """Validation that gets worse while training gets better.

    ``rise``: of the validation loss above its lowest; ``gap``: of validation above training loss.
    """

    name = "overfitting"
    severity = "warning"
    also = frozenset({"steps"})
    cause = "The network has learned the training images by heart, with what is chance in them."

    def __init__(self, run: RunContext, *, rise: float = 0.25, gap: float = 1.0) -> None:
        super().__init__(run)
        self._rise, self._gap = rise, gap
        self._best = math.inf
        self._best_step = 0

    def observe(self, stretch: Stretch) -> None:
        super().observe(stretch)
        for figures in stretch.epochs:
            if figures.loss < self._best:
                self._best, self._best_step = figures.loss, figures.step

    def findings(self, ended: bool) -> Iterator[Finding]:
        last = self._last
        if last is None or self._epochs < 3 or not self.curve.steps:
            return
        if not (self.curve.from_start and self.curve.positive):
            return
        train = self.curve.level(0.9, 1.0).mean
        risen = last.loss > (1 + self._rise) * self._best
        apart = last.loss > (1 + self._gap) * train
        fitted = train < 0.5 * self.curve.first
        if risen and apart and fitted:
            yield self.finding(
                f"validation loss is {last.loss:.3g}, its best was {self._best:.3g} at step "
                f"{self._best_step}; training loss is {train:.2g}",
                self._best_step,
                last.step,
                Remedy("stop when validation gets no better", "patience", "2"),
                Remedy("vary the images", "augment", "crop-flip"),
                Remedy("decay the weights more", "weight_decay", "0.1"),
                validation=last.loss,
                best=self._best,
                training=train,
            )


class StoppedTooEarly(Rule):
    """A run that ended while it still got better, at a learning rate that was not low.

    ``progress``: of the last fifth's losses beside the fifth before; ``lr``: the last learning
    rates beside the peak; ``loss``: smallest beside that of guessing; ``steps``: at least so many.
    """

    name = "stopped_too_early"
    severity = "warning"
    needs = "steps"
    cause = "The run ended before the network had learned what it can learn."

    def __init__(
        self,
        run: RunContext,
        *,
        progress: float = 0.05,
        lr: float = 0.3,
        loss: float = 0.2,
        steps: float = 20,
    ) -> None:
        super().__init__(run)
        self._progress, self._lr = progress, lr
        self._loss, self._steps = loss, steps

    def findings(self, ended: bool) -> Iterator[Finding]:
        curve = self.curve
        if not ended or curve.steps < self._steps or not completed(self.run, curve):
            return
        if not curve.positive:
            return
        before, last = curve.level(0.6, 0.8), curve.level(0.8, 1.0)
        progress = 1 - last.mean / max(before.mean, TINY)
        high = curve.level(0.9, 1.0).lr >= self._lr * curve.peak_lr
        chance = _guessing(self.run, curve)
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


def _guessing(run: RunContext, curve: LossCurve) -> float:
    """The cross entropy of guessing; the first loss where it is not known."""
    return math.log(run.classes) if run.classes and run.classes > 1 else curve.first
