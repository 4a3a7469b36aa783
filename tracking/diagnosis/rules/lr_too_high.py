"""A learning rate that throws the loss up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tracking.diagnosis.evidence import RunContext, Stretch
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules.advice import clip, known_lr, lr, usual_lr, warm_up, with_norm
from tracking.records import Finding

__all__ = ["LrTooHigh"]

EXPLODED = 1e3
"""Times its start: what to call it."""


@dataclass(frozen=True)
class _Height:
    """How high the smoothed loss stood, and where."""

    times: float
    """Beside its start."""
    step: int
    lr: float


class _Smoothed:
    """The loss as a moving average, beside the loss at the start."""

    def __init__(self, run: RunContext) -> None:
        # A network that knows nothing of C classes has a loss of ln C.
        self.chance = math.log(run.classes) if run.classes and run.classes > 1 else math.nan
        self.start = math.nan
        self.value = math.nan
        self.lowest = math.inf
        self.lr_at_lowest = math.nan

    def add(self, loss: float, lr: float, batch_size: float) -> float:
        """Take a step's loss; gives the logarithm of the average beside the start's."""
        if math.isnan(self.start):
            self.start = np.fmax(loss, self.chance)
            self.value = loss
        weight = 0.3 if not batch_size < 32 else 0.1
        self.value += weight * (loss - self.value)
        if self.value < self.lowest:
            self.lowest, self.lr_at_lowest = self.value, lr
        return math.log(max(self.value, 1e-30) / max(self.start, 1e-30))


class LrTooHigh(Rule):
    """A loss that rises above where it began, or relapses there after having fallen.

    ``absurd``: a peak so many times what is usual for the optimizer needs a fifth of the evidence.
    The evidence is summed up: ``rise`` is what counts of the logarithm of the smoothed loss beside
    its start; ``area`` is the sum, over the last ten steps or so, that makes a finding. A relapse
    is from below ``low`` of the start to above ``high`` of it, for ``steps`` steps.
    """

    name = "lr_too_high"
    severity = "critical"
    about_layers = True
    needs = "steps"
    cause = (
        "The steps are longer than the region in which the gradient tells the way down, so each "
        "one lands higher up, or throws away what was learned."
    )
    explains = frozenset(
        {
            "exploding_activations",
            "exploding_gradients",
            "large_updates",
            "dead_layer",
            "dead_units",
            "collapse_cycles",
            "non_finite",
            "constant_predictions",
            "worse_than_chance",
            "loss_not_decreasing",
            "high_final_lr",
            "vanishing_gradients",
            "saturated",
            "short_warm_up",
            "small_batch_norm",
            "stopped_too_early",
            "overfitting",
        }
    )

    def __init__(
        self,
        run: RunContext,
        *,
        rise: float = 0.1,
        area: float = 2.0,
        low: float = 0.6,
        high: float = 0.95,
        steps: float = 5,
        absurd: float = 100.0,
    ) -> None:
        super().__init__(run)
        self._absurd = absurd * (usual_lr(run) or math.inf)
        self._rise, self._area = rise, area
        self._low, self._high, self._steps = low, high, steps
        self._loss = _Smoothed(run)
        self._sum = 0.0
        self._worst = _Height(0.0, -1, math.nan)
        self._began = -1
        self._relapsed = 0
        self._found: tuple[int, float] | None = None
        self._last = 0
        self._peak = 0.0
        self._comparable = True  # a loss that may be negative has no multiples

    def observe(self, stretch: Stretch) -> None:
        if stretch.steps is None:
            return
        trace = stretch.steps
        for step, loss, rate, size in zip(
            trace.step.tolist(),
            trace.loss.tolist(),
            trace.lr.tolist(),
            trace.batch_size.tolist(),
            strict=True,
        ):
            self._peak = max(self._peak, rate)
            if loss <= 0:
                self._comparable = False
            if math.isfinite(loss) and self._comparable:
                self._step(step, loss, rate, size)

    def _step(self, step: int, loss: float, rate: float, size: float) -> None:
        above = self._loss.add(loss, rate, size)
        self._sum = 0.9 * self._sum + max(0.0, above - self._rise)
        if above > self._rise:
            self._began = step if self._began < 0 else self._began
            height = _Height(math.exp(above), step, rate)
            self._worst = max(self._worst, height, key=lambda one: one.times)
        elif self._sum < 0.1:
            self._began = -1 if self._found is None else self._began
        fallen = self._loss.lowest < self._low * self._loss.start
        back = fallen and self._loss.value > self._high * self._loss.start
        self._relapsed = self._relapsed + 1 if back else 0
        area = self._area / 5 if self._peak >= self._absurd else self._area
        if self._sum >= area or self._relapsed >= self._steps:
            first = self._began if self._began >= 0 else step
            self._found = self._found or (first, rate)
            self._last = step

    def findings(self, ended: bool) -> Iterator[Finding]:
        if self._found is None or not self._comparable:
            return
        first, rate = self._found
        rate = self._worst.lr if self._worst.times else rate
        recovered = self._loss.value < 0.5 * self._loss.start
        yield self.finding(
            f"{self._course()} at a learning rate of {rate:.2g}",
            first,
            self._last,
            lr(self._gentle(), "lower the peak learning rate"),
            warm_up(),
            with_norm(),
            clip(),
            severity="warning" if recovered else "critical",
            rise=self._worst.times,
            lr=rate,
            lowest_loss=self._loss.lowest,
            lr_at_lowest=self._loss.lr_at_lowest,
        )

    def _course(self) -> str:
        worst, start = self._worst, self._loss.start
        if worst.times:
            course = "exploded," if worst.times > EXPLODED else "rose"
            height = f"to {worst.times:.2g} times its start ({start:.2g})"
            return f"the smoothed loss {course} {height} by step {worst.step},"
        low = self._loss.lowest
        return f"the smoothed loss fell to {low:.2g} and went back to where it began ({start:.2g}),"

    def _gentle(self) -> float | None:
        """A peak at which it should work: below the rate at which the loss was lowest."""
        peak = known_lr(self.run) or self._peak or None
        if peak is None:
            return None
        rates = [peak / 10, usual_lr(self.run)]
        if self._loss.lr_at_lowest > 0 and self._loss.lowest < 0.8 * self._loss.start:
            rates.append(self._loss.lr_at_lowest)
        return min(rate for rate in rates if rate is not None)
