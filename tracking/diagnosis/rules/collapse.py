"""Collapse cycles: activations grow, crash, and begin again (fastbook, chapter 13)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tracking.diagnosis.evidence import LayerTrace, RunContext, Stretch
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules.advice import gentler_lr, kaiming, warm_up, with_norm
from tracking.records import Finding

__all__ = ["CollapseCycles"]


@dataclass
class _Layer:
    """Follows the scale of one layer's activations from trough to peak to crash."""

    trough: float = np.inf
    peak: float = 0.0
    peak_step: int = 0
    grown: bool = False
    crashes: list[int] = field(default_factory=list)
    count: int = 0


class CollapseCycles(Rule):
    """Counts crashes of a layer's scale that follow a growth.

    The scale is the standard deviation times the share of activations that are not near zero.
    ``growth``: from the trough to the peak; ``crash``: from the peak down, within ``within``
    steps; ``crashes``: how many make a finding; ``least``: smallest peak that counts.
    """

    name = "collapse_cycles"
    severity = "warning"
    about_layers = True
    needs = "layers"
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

    def observe(self, stretch: Stretch) -> None:
        for layer, trace in stretch.layers.items():
            state = self._layers.setdefault(layer, _Layer())
            self._follow(state, trace)

    def _follow(self, state: _Layer, trace: LayerTrace) -> None:
        scale = trace.std * (1 - trace.near_zero)
        quiet = scale.min() * self._crash > max(scale.max(), state.peak)
        if quiet and state.peak:
            # Nothing can have crashed; what is left to do is to remember the extremes.
            for at in (int(scale.argmax()), -1):
                self._note(state, int(trace.step[at]), float(scale[at]))
            state.trough = min(state.trough, float(scale.min()))
            return
        for step, value in zip(trace.step.tolist(), scale.tolist(), strict=True):
            self._note(state, step, value)

    def _note(self, state: _Layer, step: int, value: float) -> None:
        if not np.isfinite(value):
            return
        if value > state.peak or step - state.peak_step > self._within:
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
