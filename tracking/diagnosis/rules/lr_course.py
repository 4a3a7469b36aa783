"""Rules about what a learning rate brings in the long run: too low, or too high at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tracking.diagnosis.evidence import RunContext, Stretch
from tracking.diagnosis.losses import Validations, completed, guessed, guessing
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules.advice import higher_lr, known_lr, lr, usual_lr
from tracking.records import Finding, Remedy

__all__ = ["HighFinalLr", "LrTooLow"]

LEAST = 0.005
"""Share that is not rounded to 0 %."""


class LrTooLow(Rule):
    """A loss that has hardly moved at the end of the run, though nothing is unstable.

    ``fall``: of the loss beside its start; ``drift``: of the layers' scales (logarithm); ``usual``:
    the peak learning rate beside what is usual for the optimizer; ``steps``: at least so many.
    What has learned already may move little: ``known``: the first loss beside that of guessing,
    ``accuracy``: of validation, on the way from that of guessing to 1.
    """

    name = "lr_too_low"
    severity = "warning"
    needs = "steps"
    also = frozenset({"layers", "epochs"})
    cause = "The steps are so short that the weights are still near where they began."
    explains = frozenset(
        {
            "loss_not_decreasing",
            "worse_than_chance",
            "constant_predictions",
            "small_updates",
            "stopped_too_early",
        }
    )

    def __init__(
        self,
        run: RunContext,
        *,
        fall: float = 0.3,
        drift: float = 0.1,
        usual: float = 0.05,
        steps: float = 30,
        known: float = 0.5,
        accuracy: float = 0.5,
    ) -> None:
        super().__init__(run)
        self._fall, self._drift = fall, drift
        self._usual, self._steps = usual, steps
        self._known, self._accuracy = known, accuracy
        self._seen = Validations()
        self._first: dict[str, float] = {}
        self._now: dict[str, float] = {}

    def observe(self, stretch: Stretch) -> None:
        for layer, trace in stretch.layers.items():
            if layer not in self._first:
                self._first[layer] = float(trace.size[0])
            self._now[layer] = float(trace.size[-1])
        for figures in stretch.epochs:
            self._seen.add(figures)

    def findings(self, ended: bool) -> Iterator[Finding]:
        curve = self.curve
        if not ended or curve.steps < self._steps or not (curve.from_start and curve.positive):
            return
        if curve.lr_is_zero:  # in the first group of parameters: others may learn
            first, last = curve.level(0.0, 0.5).mean, curve.level(0.5, 1.0).mean
        else:
            first, last = curve.first, curve.level(0.9, 1.0).mean
        fall = 1 - last / max(first, 1e-30)
        if fall < self._fall and (curve.lr_is_zero or self._hardly_moved(fall)):
            yield self.finding(
                self._sentence(fall),
                0,
                curve.last_step,
                self._remedy(),
                fall=fall,
                peak_lr=curve.peak_lr,
                drift=self._layers_drift(),
            )

    def _hardly_moved(self, fall: float) -> bool:
        """Whether the network is near where it began, and that is not where it should be."""
        chance = guessed(self.run)
        learned_before = self.curve.first < self._known * guessing(self.run, self.curve)
        if learned_before or self._seen.accuracy > chance + self._accuracy * (1 - chance):
            return False
        usual = usual_lr(self.run)
        low = usual is not None and self.curve.peak_lr < self._usual * usual
        return fall > -0.1 and (low or self._layers_drift() < self._drift)

    def _sentence(self, fall: float) -> str:
        if self.curve.lr_is_zero:
            return "the learning rate was 0 in every step"
        course = f"fell by {fall:.0%}" if fall >= LEAST else "did not fall"
        return f"the loss {course} in the whole run"

    def _remedy(self) -> Remedy:
        if self.curve.lr_is_zero:
            return higher_lr(self.run, 10, self.curve)
        peak = known_lr(self.run) or self.curve.peak_lr
        return lr(max(usual_lr(self.run) or 0.0, 10 * peak), "raise the peak learning rate")

    def _layers_drift(self) -> float:
        drifts = [
            abs(math.log(self._now[layer] / first))
            for layer, first in self._first.items()
            if first > 0 and self._now[layer] > 0
        ]
        return float(np.median(drifts)) if drifts else math.inf


class HighFinalLr(Rule):
    """A learning rate that stays high to the end, where the loss jumps about and hardly falls.

    ``lr``: the last learning rates beside the peak; ``usual``: the peak beside what is usual for
    the optimizer; ``noise``: of the last quarter's losses beside their mean; ``progress``: of the
    last quarter beside the one before; ``steps``: at least so many. Where nothing tells what is
    usual, so that the rate may be a low one, a run goes well whose loss falls by ``little`` and
    whose last validation loss is by ``gain`` below the lowest before.
    """

    name = "high_final_lr"
    severity = "warning"
    needs = "steps"
    also = frozenset({"epochs"})
    cause = "At a high rate the weights circle around the minimum; only short steps settle into it."
    explains = frozenset({"dead_units", "collapse_cycles", "stopped_too_early"})

    def __init__(
        self,
        run: RunContext,
        *,
        lr: float = 0.3,
        usual: float = 1.0,
        noise: float = 0.1,
        progress: float = 0.1,
        steps: float = 60,
        little: float = 0.03,
        gain: float = 0.01,
    ) -> None:
        super().__init__(run)
        self._lr, self._usual, self._noise = lr, usual, noise
        self._progress, self._steps = progress, steps
        self._little, self._gain = little, gain
        self._seen = Validations()

    def observe(self, stretch: Stretch) -> None:
        for figures in stretch.epochs:
            self._seen.add(figures)

    def findings(self, ended: bool) -> Iterator[Finding]:
        curve = self.curve
        if not ended or curve.steps < self._steps or not completed(self.run, curve):
            return
        if not curve.positive or curve.lr_is_zero or curve.level(0.75, 1.0).mean <= 0:
            return
        before, last = curve.level(0.5, 0.75), curve.level(0.75, 1.0)
        high = curve.level(0.95, 1.0).lr >= self._lr * curve.peak_lr
        usual = usual_lr(self.run)
        high &= curve.peak_lr >= self._usual * (usual or 0.0)
        progress = 1 - last.mean / before.mean
        noise = last.noise / last.mean
        learned = last.mean < 0.9 * curve.first
        goes_well = usual is None and self._seen.gain > self._gain
        stands = progress < (self._little if goes_well else self._progress)
        if high and learned and stands and noise > self._noise:
            yield self.finding(
                f"the loss still varies by {noise:.0%} from batch to batch, and "
                + (f"falls by only {progress:.0%}" if progress >= LEAST else "falls no more"),
                0,
                curve.last_step,
                Remedy("let the learning rate fall to nothing", "schedule", "one_cycle"),
                Remedy("lower it for the last part", "schedule", "flat_cos"),
                noise=noise,
                progress=progress,
                final_lr=curve.level(0.95, 1.0).lr,
                peak_lr=curve.peak_lr,
            )
