"""Rules about the learning rate: too high, too low, too high at the start, too high at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tracking.diagnosis.evidence import RunContext, Stretch
from tracking.diagnosis.losses import completed
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules.advice import clip, known_lr, lr, usual_lr, warm_up, with_norm
from tracking.diagnosis.rules.dead import RECTIFIERS
from tracking.records import Finding, Remedy

__all__ = ["HighFinalLr", "LrTooHigh", "LrTooLow", "ShortWarmUp"]


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
        self._sum = self._worst = 0.0
        self._began = -1
        self._relapsed = 0
        self._found: tuple[int, float] | None = None
        self._last = 0
        self._peak = 0.0

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
            if math.isfinite(loss):
                self._step(step, loss, rate, size)

    def _step(self, step: int, loss: float, rate: float, size: float) -> None:
        above = self._loss.add(loss, rate, size)
        self._sum = 0.9 * self._sum + max(0.0, above - self._rise)
        if above > self._rise:
            self._began = step if self._began < 0 else self._began
            self._worst = max(self._worst, math.exp(above))
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
        if self._found is None:
            return
        first, rate = self._found
        recovered = self._loss.value < 0.5 * self._loss.start
        yield self.finding(
            f"the loss rose to {max(self._worst, 1.0):.2g} times its start at a learning rate of "
            f"{rate:.2g}",
            first,
            self._last,
            lr(self._gentle(), "lower the peak learning rate"),
            warm_up(),
            with_norm(),
            clip(),
            severity="warning" if recovered else "critical",
            rise=self._worst,
            lr=rate,
            lowest_loss=self._loss.lowest,
            lr_at_lowest=self._loss.lr_at_lowest,
        )

    def _gentle(self) -> float | None:
        """A peak at which it should work: below the rate at which the loss was lowest."""
        peak = known_lr(self.run) or self._peak or None
        if peak is None:
            return None
        rates = [peak / 10, usual_lr(self.run)]
        if self._loss.lr_at_lowest > 0 and self._loss.lowest < 0.8 * self._loss.start:
            rates.append(self._loss.lr_at_lowest)
        return min(rate for rate in rates if rate is not None)


class ShortWarmUp(Rule):
    """A learning rate that is high from the first step, and does damage in the first steps.

    ``lr``: the first learning rate beside the peak; ``jump``: of a batch's loss beside the first;
    ``dying``: channels that fall silent, as a share of all and on average over the layers behind
    rectifiers; ``within``: steps.
    """

    name = "short_warm_up"
    severity = "warning"
    needs = "steps"
    also = frozenset({"layers"})
    cause = (
        "Untrained weights have steep, unrelated gradients, and an optimizer's averages know "
        "nothing yet: full steps from the beginning throw the network far off."
    )
    explains = frozenset(
        {
            "dead_units",
            "dead_layer",
            "collapse_cycles",
            "exploding_activations",
            "constant_predictions",
            "worse_than_chance",
            "loss_not_decreasing",
            "vanishing_gradients",
        }
    )

    def __init__(
        self,
        run: RunContext,
        *,
        lr: float = 0.5,
        jump: float = 2.0,
        dying: float = 0.35,
        within: float = 15,
    ) -> None:
        super().__init__(run)
        self._lr, self._jump = lr, jump
        self._dying, self._within = dying, within
        self._silent: dict[str, tuple[float, float]] = {}
        self._worst = 0.0
        self._step = 0

    def observe(self, stretch: Stretch) -> None:
        early = [name for name, trace in stretch.layers.items() if trace.step[0] < self._within]
        for layer in early:
            trace = stretch.layers[layer]
            silent = trace.dead_channels[trace.step < self._within]
            if len(silent) and self.run.kinds.get(layer) in RECTIFIERS:
                first, most = self._silent.get(layer, (silent[0], 0.0))
                self._silent[layer] = first, float(np.fmax(most, np.nanmax(silent, initial=0)))
        if stretch.steps is None:
            return
        begun = stretch.steps.step < self._within
        if begun.any():
            losses = np.where(np.isfinite(stretch.steps.loss), stretch.steps.loss, -np.inf)[begun]
            if losses.max() > self._worst:
                self._worst = float(losses.max())
                self._step = int(stretch.steps.step[begun][losses.argmax()])

    def findings(self, ended: bool) -> Iterator[Finding]:
        curve = self.curve
        if not curve.steps or not self.run.classes:
            return
        start = max(curve.first, math.log(max(2, self.run.classes)))
        rises = [most - first for first, most in self._silent.values()]
        dying = float(np.nanmean(rises)) if rises else 0.0
        jumped = self._worst > self._jump * start
        if curve.first_lr >= self._lr * curve.peak_lr and (jumped or dying > self._dying):
            yield self.finding(
                f"the loss jumps to {self._worst / start:.2g} times its start by step {self._step}"
                if jumped
                else f"{dying:.0%} of the channels fall silent in the first steps",
                0,
                self._step,
                warm_up(),
                Remedy("begin lower: a larger div", "div", "25"),
                first_lr=curve.first_lr,
                peak_lr=curve.peak_lr,
                jump=self._worst / start,
                dying=dying,
            )


class LrTooLow(Rule):
    """A loss that has hardly moved at the end of the run, though nothing is unstable.

    ``fall``: of the loss beside its start; ``drift``: of the layers' scales (logarithm); ``usual``:
    the peak learning rate beside what is usual for the optimizer; ``steps``: at least so many.
    """

    name = "lr_too_low"
    severity = "warning"
    needs = "steps"
    also = frozenset({"layers"})
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
    ) -> None:
        super().__init__(run)
        self._fall, self._drift = fall, drift
        self._usual, self._steps = usual, steps
        self._first: dict[str, float] = {}
        self._now: dict[str, float] = {}

    def observe(self, stretch: Stretch) -> None:
        for layer, trace in stretch.layers.items():
            if layer not in self._first:
                self._first[layer] = float(trace.size[0])
            self._now[layer] = float(trace.size[-1])

    def findings(self, ended: bool) -> Iterator[Finding]:
        curve = self.curve
        if not ended or curve.steps < self._steps:
            return
        last = curve.level(0.9, 1.0)
        fall = 1 - last.mean / curve.first
        drift = self._layers_drift()
        usual = usual_lr(self.run)
        low = usual is not None and curve.peak_lr < self._usual * usual
        still = drift < self._drift
        if -0.1 < fall < self._fall and (still or low):
            peak = known_lr(self.run) or curve.peak_lr
            yield self.finding(
                f"the loss fell by {fall:.0%} in the whole run",
                0,
                curve.last_step,
                lr(max(usual or 0.0, 10 * peak), "raise the peak learning rate"),
                fall=fall,
                peak_lr=curve.peak_lr,
                drift=drift,
            )

    def _layers_drift(self) -> float:
        drifts = [
            abs(math.log(self._now[layer] / first))
            for layer, first in self._first.items()
            if first > 0 and self._now[layer] > 0
        ]
        return float(np.median(drifts)) if drifts else math.inf


class HighFinalLr(Rule):
    """A learning rate that stays high to the end, where the loss jumps about and falls no more.

    ``lr``: the last learning rates beside the peak; ``usual``: the peak beside what is usual for
    the optimizer; ``noise``: of the last quarter's losses beside their mean; ``progress``: of the
    last quarter beside the one before; ``steps``: at least so many.
    """

    name = "high_final_lr"
    severity = "warning"
    needs = "steps"
    cause = "At a high rate the weights circle around the minimum; only short steps settle into it."
    explains = frozenset({"dead_units", "collapse_cycles", "small_batch_norm", "stopped_too_early"})

    def __init__(
        self,
        run: RunContext,
        *,
        lr: float = 0.3,
        usual: float = 1.0,
        noise: float = 0.1,
        progress: float = 0.1,
        steps: float = 60,
    ) -> None:
        super().__init__(run)
        self._lr, self._usual, self._noise = lr, usual, noise
        self._progress, self._steps = progress, steps

    def findings(self, ended: bool) -> Iterator[Finding]:
        curve = self.curve
        if not ended or curve.steps < self._steps or not completed(self.run, curve):
            return
        before, last = curve.level(0.5, 0.75), curve.level(0.75, 1.0)
        high = curve.level(0.95, 1.0).lr >= self._lr * curve.peak_lr
        high &= curve.peak_lr >= self._usual * (usual_lr(self.run) or 0.0)
        progress = 1 - last.mean / before.mean
        noise = last.noise / last.mean
        learned = last.mean < 0.9 * curve.first
        if high and learned and progress < self._progress and noise > self._noise:
            yield self.finding(
                f"the loss still varies by {noise:.0%} from batch to batch, and falls no more",
                0,
                curve.last_step,
                Remedy("let the learning rate fall to nothing", "schedule", "one_cycle"),
                Remedy("lower it for the last part", "schedule", "flat_cos"),
                noise=noise,
                progress=progress,
                final_lr=curve.level(0.95, 1.0).lr,
                peak_lr=curve.peak_lr,
            )
