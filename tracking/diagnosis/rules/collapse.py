"""Collapse cycles: activations grow, crash, and begin again (fastbook, chapter 13)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tracking.diagnosis.evidence import Floats, Ints, LayerTrace, RunContext, Stretch
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules.advice import gentler_lr, kaiming, warm_up, with_norm
from tracking.records import Finding

__all__ = ["CollapseCycles"]


SAMPLES = 16
"""Images that are looked at together: the scale of fewer is a matter of what they show."""


class _Together:
    """Joins the rows of a layer, so many at a time, as if their batches had been one."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._waiting: list[tuple[float, ...]] = []

    def add(self, trace: LayerTrace) -> tuple[Ints, Floats]:
        """Take further rows; gives the last steps and the scales of what is complete."""
        if self.rows == 1:
            return trace.step, trace.std * (1 - trace.near_zero)
        squares = trace.mean**2 + trace.std**2
        columns = (trace.step, trace.count, trace.mean, squares, trace.near_zero)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        self._waiting += [row for row in rows if np.isfinite(row).all()]
        whole = len(self._waiting) // self.rows * self.rows
        table = np.array(self._waiting[:whole]).reshape(-1, self.rows, len(columns))
        del self._waiting[:whole]
        count = table[:, :, 1]
        mean, square, near_zero = np.moveaxis(
            (table[:, :, 2:] * count[:, :, None]).sum(1) / count.sum(1)[:, None], 1, 0
        )
        std = np.sqrt(np.maximum(square - mean**2, 0.0))
        return table[:, -1, 0].astype(np.int64), std * (1 - near_zero)


@dataclass
class _Layer:
    """Follows the scale of one layer's activations from trough to peak to crash."""

    together: _Together
    trough: float = np.inf
    peak: float = 0.0
    peak_step: int = 0
    grown: bool = False
    crashes: list[int] = field(default_factory=list)
    count: int = 0


def _batch_size(stretch: Stretch) -> float:
    """Of the first step in it; 0 or NaN where it is not known."""
    if stretch.inputs:
        return stretch.inputs[0].samples
    if stretch.steps is None or not len(stretch.steps.step):
        return 0.0
    return float(stretch.steps.batch_size[0])


class CollapseCycles(Rule):
    """Counts crashes of a layer's scale that follow a growth.

    The scale is the standard deviation times the share of activations that are not near zero,
    over as many recorded steps as have 16 images together. ``growth``: from the trough to the peak;
    ``crash``: from the peak down, within ``within`` steps, or so many times those that are looked
    at together; ``crashes``: how many make a finding; ``least``: smallest peak that counts.
    """

    name = "collapse_cycles"
    severity = "warning"
    about_layers = True
    needs = "layers"
    also = frozenset({"inputs", "steps"})
    cause = (
        "Updates too large for untrained weights let the activations grow until a step throws "
        "them back to zero, and what was learned is lost each time."
    )
    explains = frozenset(
        {"dead_units", "loss_not_decreasing", "vanishing_gradients", "constant_predictions"}
    )

    def __init__(
        self,
        run: RunContext,
        *,
        growth: float = 3.0,
        crash: float = 5.0,
        within: float = 20,
        crashes: float = 2,
        least: float = 0.02,
    ) -> None:
        super().__init__(run)
        self._growth, self._crash = growth, crash
        self._within, self._crashes, self._least = within, crashes, least
        self._layers: dict[str, _Layer] = {}
        self._rows = 0
        """Recorded steps that are looked at together; 0 as long as batch sizes are not known."""

    def observe(self, stretch: Stretch) -> None:
        if not self._rows and (samples := _batch_size(stretch)) > 0:
            self._rows = math.ceil(SAMPLES / samples)
        for layer, trace in stretch.layers.items():
            if layer not in self._layers:
                self._layers[layer] = _Layer(_Together(max(1, self._rows)))
            self._follow(self._layers[layer], *self._layers[layer].together.add(trace))

    def _follow(self, state: _Layer, step: Ints, scale: Floats) -> None:
        if not len(scale):
            return
        quiet = scale.min() * self._crash > max(scale.max(), state.peak)
        if quiet and state.peak:
            # Nothing can have crashed; what is left to do is to remember the extremes.
            for at in (int(scale.argmax()), -1):
                self._note(state, int(step[at]), float(scale[at]))
            state.trough = min(state.trough, float(scale.min()))
            return
        for at, value in zip(step.tolist(), scale.tolist(), strict=True):
            self._note(state, at, value)

    def _note(self, state: _Layer, step: int, value: float) -> None:
        if not np.isfinite(value):
            return
        if value > state.peak or step - state.peak_step > self._within * state.together.rows:
            state.peak, state.peak_step = value, step
        state.trough = min(state.trough, value)
        if value > self._growth * state.trough:
            state.grown = True
        if state.grown and value * self._crash < state.peak and state.peak > self._least:
            state.count += 1
            if len(state.crashes) < 100:
                state.crashes.append(step)
            state.grown, state.trough = False, value
            state.peak, state.peak_step = value, step

    def findings(self, ended: bool) -> Iterator[Finding]:
        crashed = {n: s for n, s in self._layers.items() if s.count >= self._crashes}
        if crashed:
            worst = max(crashed, key=lambda name: crashed[name].count)
            state = crashed[worst]
            steps = {
                f"crash_{n}": float(step) for n, step in enumerate(state.crashes[:10], start=1)
            }
            evidence = {"crashes": float(state.count), "layers_crashed": float(len(crashed))}
            yield self.finding(
                f"the activations of {self.named(worst)} grew and crashed {state.count} times",
                state.crashes[0],
                state.crashes[-1],
                *(gentler_lr(self.run), warm_up(), with_norm(), kaiming(self.run)),
                layers=tuple(crashed),
                evidence=evidence | steps,
            )
