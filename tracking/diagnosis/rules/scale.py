"""Rules about the size of activations: not finite, exploding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tracking.diagnosis.evidence import LayerTrace, RunContext, Stretch
from tracking.diagnosis.rule import Rule, Spell
from tracking.diagnosis.rules.advice import clip, gentler_lr, kaiming, with_norm
from tracking.records import Finding, Remedy

__all__ = ["ExplodingActivations", "NonFinite"]


class NonFinite(Rule):
    """NaN or infinities, and where they were first.

    ``grown``: root mean square of a layer, up to that step, from which they are an overflow.
    """

    name = "non_finite"
    severity = "critical"
    about_layers = True
    needs = "layers"
    also = frozenset({"inputs", "steps", "gradients"})
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

    def __init__(self, run: RunContext, *, grown: float = 1e3) -> None:
        super().__init__(run)
        self._grown = grown
        self._scaled = run.options.get("precision") == "fp16"
        self._first: _Origin | None = None
        self._share = self._largest = 0.0
        self._last = 0
        self._loss_known = False
        self._layers_known = -1

    def observe(self, stretch: Stretch) -> None:
        for figures in stretch.inputs:
            if figures.nonfinite:
                self._note(figures.step, 0, "the input")
        for place, (layer, trace) in enumerate(stretch.layers.items(), start=1):
            self._look_at_layer(place, layer, trace)
        for layer, gradient in stretch.gradients.items():
            if self._scaled:
                break  # a scaler seeks the largest scale by overflowing now and then
            if gradient.nonfinite.any():
                at = int(np.flatnonzero(gradient.nonfinite)[0])
                self._note(int(gradient.step[at]), LATER, f"the gradient at {self.named(layer)}")
        self._look_at_loss(stretch)

    def _look_at_layer(self, place: int, layer: str, trace: LayerTrace) -> None:
        self._layers_known = max(self._layers_known, int(trace.step[-1]))
        wrong = np.flatnonzero(trace.nonfinite)
        if len(wrong):
            at = int(wrong[0])
            if self._note(int(trace.step[at]), place, layer):
                self._share = float(trace.nonfinite[at] / max(1, trace.count[at]))
            self._last = max(self._last, int(trace.step[wrong[-1]]))
        # A loss that is not finite may be known before the layers of the steps before it are.
        before = trace.size[trace.step <= self._first.step] if self._first else trace.size
        if len(before):
            self._largest = max(self._largest, float(np.fmax.reduce(before)))

    def _look_at_loss(self, stretch: Stretch) -> None:
        if stretch.steps is None:
            return
        finite = np.isfinite(stretch.steps.loss)
        self._loss_known = self._loss_known or bool(finite.any())  # else nobody tells it
        if self._loss_known and not finite.all():
            self._note(int(stretch.steps.step[np.flatnonzero(~finite)[0]]), LATER, "the loss")

    def _note(self, step: int, place: int, name: str) -> bool:
        """Keep the first step and, within it, what comes first in the network."""
        self._last = max(self._last, step)
        origin = _Origin(step, place, name)
        if self._first is not None and origin >= self._first:
            return False
        self._first, self._share = origin, 0.0
        return True

    def findings(self, ended: bool) -> Iterator[Finding]:
        first = self._first
        if first is None:
            return
        if first.place == LATER and not ended and self._layers_known < first.step:
            return  # the layers of that step will tell more
        of_layer = 0 < first.place < LATER
        where = self.named(first.name) if of_layer else first.name
        yield self.finding(
            f"NaN or infinity, first in {where} at step {first.step}",
            first.step,
            self._last,
            *self._remedies(first),
            layers=(first.name,) if of_layer else (),
            share=self._share,
            largest_before=self._largest,
        )

    def _remedies(self, first: _Origin) -> list[Remedy]:
        if first.place == 0:
            return [Remedy("remove the images that hold no numbers", "dataset")]
        if self.run.options.get("precision") == "fp16":
            return [Remedy("compute in a wider format", "precision", "bf16"), clip()]
        if self._largest > self._grown:
            return [gentler_lr(self.run), clip(), with_norm()]
        # Nothing had grown: such values come from outside.
        return [Remedy("look at the data of that step"), clip(), gentler_lr(self.run)]


LATER = 1_000_000
"""Place of what comes after every layer of a step."""


@dataclass(frozen=True, order=True)
class _Origin:
    """Where something was seen; the earliest is the smallest."""

    step: int
    place: int
    """Among the layers, from 1; 0 for the input."""
    name: str


class ExplodingActivations(Rule):
    """Activations far larger than they began, or than any scale at which a network learns.

    ``scale``: root mean square of a layer; ``growth``: beside its own first steps; ``steps``:
    consecutive recorded steps.
    """

    name = "exploding_activations"
    severity = "warning"
    about_layers = True
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
            size = trace.size
            first = self._first.setdefault(layer, float(size[0]))
            spell = self._spells.setdefault(layer, Spell(self._steps))
            large = (size > self._scale) & (size > self._growth * first)
            spell.add(trace.step, large | (size > self._scale * self._growth))
            self._worst[layer] = max(self._worst.get(layer, 0.0), float(np.fmax.reduce(size)))

    def findings(self, ended: bool) -> Iterator[Finding]:
        layers = [layer for layer, spell in self._spells.items() if spell.lasted]
        if layers:
            first = min(layers, key=lambda layer: self._spells[layer].began)
            yield self.finding(
                f"the activations of {self.named(first)} reach {self._worst[first]:.3g}",
                self._spells[first].began,
                max(self._spells[layer].ended for layer in layers),
                *(with_norm(), gentler_lr(self.run), kaiming(self.run), clip()),
                layers=(first,),
                root_mean_square=self._worst[first],
                at_first=self._first[first],
                layers_exploding=len(layers),
            )
