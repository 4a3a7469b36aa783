"""Saturation: units of a bounded non-linearity that sit at its bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tracking.diagnosis.evidence import Floats, LayerTrace, RunContext, Stretch
from tracking.diagnosis.rule import Rule, Spell, and_more
from tracking.diagnosis.rules.advice import gentler_lr, kaiming, rectified, with_norm
from tracking.diagnosis.rules.layer_kinds import BOUNDS
from tracking.records import Finding

__all__ = ["Saturated"]


@dataclass
class _Bounded:
    spell: Spell
    level: float = 0.0


class Saturated(Rule):
    """Units of a bounded non-linearity that sit at its bounds, where its slope is nothing.

    ``level``: mean square of the outputs, with the bounds at -1 and 1: 0 in the middle, 1 where
    all are at a bound; ``late``: the same for a layer that has come there by learning, after
    ``early`` steps, since networks that train well drive some of their units to the bounds;
    ``steps``: consecutive recorded steps.
    """

    name = "saturated"
    severity = "warning"
    about_layers = True
    needs = "layers"
    cause = (
        "The inputs of the non-linearity are so large that its outputs stay at their bounds, where "
        "no gradient passes: layers before it learn nothing."
    )
    explains = frozenset(
        {
            "vanishing_gradients",
            "loss_not_decreasing",
            "worse_than_chance",
            "constant_predictions",
            "lr_too_low",
        }
    )

    def __init__(
        self,
        run: RunContext,
        *,
        level: float = 0.85,
        late: float = 0.96,
        early: float = 50,
        steps: float = 10,
    ) -> None:
        super().__init__(run)
        self._level, self._late = level, late
        self._early, self._steps = early, int(steps)
        self._layers: dict[str, _Bounded] = {}

    def observe(self, stretch: Stretch) -> None:
        for layer, trace in stretch.layers.items():
            bounds = BOUNDS.get(self.run.kinds.get(layer, ""))
            if bounds is not None:
                state = self._layers.setdefault(layer, _Bounded(Spell(self._steps)))
                level = _level(trace, *bounds)
                limits = np.where(trace.step < self._early, self._level, self._late)
                state.spell.add(trace.step, level >= limits)
                state.level = float(level[-1])

    def findings(self, ended: bool) -> Iterator[Finding]:
        stuck = {layer: state for layer, state in self._layers.items() if state.spell.lasted}
        if stuck:
            worst = max(stuck, key=lambda layer: stuck[layer].level)
            yield self.finding(
                f"the units of {self.named(worst)} are saturated"
                + and_more(len(stuck) - 1, ", and those of"),
                min(state.spell.began for state in stuck.values()),
                max(state.spell.ended for state in stuck.values()),
                *(kaiming(self.run), with_norm(), rectified(), gentler_lr(self.run)),
                layers=tuple(stuck),
                level=stuck[worst].level,
            )


def _level(trace: LayerTrace, low: float, high: float) -> Floats:
    middle, half = (low + high) / 2, (high - low) / 2
    return (trace.std**2 + (trace.mean - middle) ** 2) / half**2
