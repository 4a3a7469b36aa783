"""A learning rate that is too high at the start."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tracking.diagnosis.evidence import RunContext, Stretch
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules.advice import warm_up
from tracking.diagnosis.rules.layer_kinds import RECTIFIERS
from tracking.records import Finding, Remedy

__all__ = ["ShortWarmUp"]

ENOUGH = 32
"""Images whose mean loss is compared: that of two may jump by chance."""


class ShortWarmUp(Rule):
    """A learning rate that is high from the first step, and does damage in the first steps.

    ``lr``: the first learning rate beside the peak; ``jump``: of a batch's loss beside the first,
    or of a moving average over some 32 images where batches are smaller; ``dying``: channels that
    fall silent, as a share of all and on average over the layers behind rectifiers; ``within``:
    steps.
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
        self._loss = math.nan
        self._worst = 0.0
        self._step = 0

    def observe(self, stretch: Stretch) -> None:
        early = [name for name, trace in stretch.layers.items() if trace.step[0] < self._within]
        for layer in early:
            trace = stretch.layers[layer]
            # NaN is not above 0 either, but its channels are not silent.
            silent = trace.dead_channels[(trace.step < self._within) & (trace.nonfinite == 0)]
            if len(silent) and self.run.kinds.get(layer) in RECTIFIERS:
                first, most = self._silent.get(layer, (silent[0], 0.0))
                self._silent[layer] = first, float(np.fmax(most, np.nanmax(silent, initial=0)))
        if stretch.steps is None:
            return
        begun = (stretch.steps.step < self._within) & np.isfinite(stretch.steps.loss)
        rows = (stretch.steps.step, stretch.steps.loss, stretch.steps.batch_size)
        for step, loss, size in zip(*(row[begun].tolist() for row in rows), strict=True):
            self._take(step, loss, size)

    def _take(self, step: int, loss: float, batch_size: float) -> None:
        weight = batch_size / ENOUGH if batch_size < ENOUGH else 1.0
        self._loss = loss if math.isnan(self._loss) else self._loss + weight * (loss - self._loss)
        if self._loss > self._worst:
            self._worst, self._step = self._loss, step

    def findings(self, ended: bool) -> Iterator[Finding]:
        curve = self.curve
        if not curve.steps or not self.run.classes or not (curve.from_start and curve.positive):
            return
        start = max(curve.first, math.log(max(2, self.run.classes)))
        rises = [most - first for first, most in self._silent.values()]
        known = [rise for rise in rises if math.isfinite(rise)]
        dying = float(np.mean(known)) if known else 0.0
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
