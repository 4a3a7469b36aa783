"""Rules about the size of activations: not finite, exploding, saturated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tracking.diagnosis.evidence import Floats, LayerTrace, RunContext, Stretch
from tracking.diagnosis.rule import Rule, Spell
from tracking.diagnosis.rules.advice import clip, gentler_lr, kaiming, rectified, with_norm
from tracking.records import Finding, Remedy

__all__ = ["ExplodingActivations", "NonFinite", "Saturated"]


class NonFinite(Rule):
    """NaN or infinities, and where they were first."""

    name = "non_finite"
    severity = "critical"
    needs = "layers"
    cause = (
        "An overflow, a division by zero or damaged data; from there it spreads through every "
        "layer, and through the update into the weights."
    )
    explains = frozenset(
        {
            "constant_predictions",
            "worse_than_chance",
            "loss_not_decreasing",
            "dead_layer",
            "dead_units",
            "collapse_cycles",
            "vanishing_gradients",
            "stopped_too_early",
            "lr_too_low",
        }
    )

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._step: int | None = None
        self._where = ""
        self._share = 0.0
        self._last = 0

    def observe(self, stretch: Stretch) -> None:
        for figures in stretch.inputs:
            if figures.nonfinite:
                self._note(figures.step, "the input", 0.0)
        for layer, trace in stretch.layers.items():
            if trace.nonfinite.any():
                at = int(np.flatnonzero(trace.nonfinite)[0])
                share = trace.nonfinite[at] / max(1, trace.count[at])
                self._note(int(trace.step[at]), layer, float(share))
                self._last = max(self._last, int(trace.step[trace.nonfinite > 0][-1]))
        self._look_at_loss(stretch)
        for layer, gradient in stretch.gradients.items():
            if gradient.nonfinite.any():
                at = int(np.flatnonzero(gradient.nonfinite)[0])
                self._note(int(gradient.step[at]), f"the gradient at {layer}", 0.0)

    def _look_at_loss(self, stretch: Stretch) -> None:
        if stretch.steps is not None and len(stretch.steps.step):
            wrong = ~np.isfinite(stretch.steps.loss) & ~np.isnan(stretch.steps.lr)
            wrong &= stretch.steps.batch_size > 0
            known = np.isfinite(stretch.steps.loss).any() or self._loss_known
            self._loss_known = bool(known)
            if known and wrong.any():
                self._note(int(stretch.steps.step[np.flatnonzero(wrong)[0]]), "the loss", 0.0)

    _loss_known = False

    def _note(self, step: int, where: str, share: float) -> None:
        """Keep the first step; within a step, what comes first in the network."""
        earlier = self._step is None or step < self._step
        layer_first = step == self._step and self._where == "the loss" and where != "the loss"
        if earlier or layer_first:
            self._step, self._where, self._share = step, where, share
        self._last = max(self._last, step)

    def findings(self, ended: bool) -> Iterator[Finding]:
        if self._step is None:
            return
        remedies = [clip(), gentler_lr(self.run)]
        if self.run.options.get("precision") == "fp16":
            remedies.insert(0, Remedy("compute in a wider format", "precision", "bf16"))
        if self._where == "the input":
            remedies.insert(0, Remedy("remove the images that hold no numbers", "dataset"))
        layers = () if self._where.startswith("the ") else (self._where,)
        yield self.finding(
            f"NaN or infinity, first in {self._where} at step {self._step}",
            self._step,
            self._last,
            *remedies,
            layers=layers,
            share=self._share,
        )


class ExplodingActivations(Rule):
    """Activations far larger than they began, or than any scale at which a network learns.

    ``scale``: root mean square of a layer; ``growth``: beside its own first steps; ``steps``:
    consecutive recorded steps.
    """

    name = "exploding_activations"
    severity = "warning"
    needs = "layers"
    cause = "Each layer passes on more than it gets, or the weights grew out of all proportion."
    explains = frozenset({"saturated", "non_finite", "constant_predictions"})

    def __init__(
        self,
        run: RunContext,
        *,
        scale: float = 100.0,
        growth: float = 30.0,
        steps: float = 3,
    ) -> None:
        super().__init__(run)
        self._scale, self._growth, self._steps = scale, growth, int(steps)
        self._first: dict[str, float] = {}
        self._worst: dict[str, float] = {}
        self._spells: dict[str, Spell] = {}

    def observe(self, stretch: Stretch) -> None:
        for layer, trace in stretch.layers.items():
            size = _root_mean_square(trace)
            first = self._first.setdefault(layer, float(size[0]))
            spell = self._spells.setdefault(layer, Spell(self._steps))
            large = (size > self._scale) & (size > self._growth * first)
            spell.add(trace.step, large | (size > self._scale * self._growth))
            self._worst[layer] = max(self._worst.get(layer, 0.0), float(np.nanmax(size, initial=0)))

    def findings(self, ended: bool) -> Iterator[Finding]:
        layers = [layer for layer, spell in self._spells.items() if spell.lasted]
        if layers:
            first = min(layers, key=lambda layer: self._spells[layer].began)
            yield self.finding(
                f"the activations of {first} reach {self._worst[first]:.3g}",
                self._spells[first].began,
                max(self._spells[layer].ended for layer in layers),
                *(with_norm(), gentler_lr(self.run), kaiming(), clip()),
                layers=(first,),
                root_mean_square=self._worst[first],
                at_first=self._first[first],
                layers_exploding=len(layers),
            )


BOUNDS = {
    "Tanh": (-1.0, 1.0),
    "Sigmoid": (0.0, 1.0),
    "Hardtanh": (-1.0, 1.0),
    "Hardsigmoid": (0.0, 1.0),
    "Softsign": (-1.0, 1.0),
}
"""Of the non-linearities that have two."""


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
                f"the units of {worst} are saturated"
                + (f", and those of {len(stuck) - 1} more layers" if len(stuck) > 1 else ""),
                min(state.spell.began for state in stuck.values()),
                max(state.spell.ended for state in stuck.values()),
                *(kaiming(), with_norm(), rectified(), gentler_lr(self.run)),
                layers=tuple(stuck),
                level=stuck[worst].level,
            )


def _root_mean_square(trace: LayerTrace) -> Floats:
    return np.sqrt(trace.std**2 + trace.mean**2)


def _level(trace: LayerTrace, low: float, high: float) -> Floats:
    middle, half = (low + high) / 2, (high - low) / 2
    return (trace.std**2 + (trace.mean - middle) ** 2) / half**2
