"""Rules about how a network begins: what its initial weights do to the activations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from tracking.diagnosis.evidence import RunContext, Stretch
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules.advice import kaiming, with_norm
from tracking.records import Finding

__all__ = ["PoorInitialisation", "VanishingStart"]


class _StartRule(Rule):
    """Keeps the root mean square of every layer in the first step, before any update."""

    needs = "layers"

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._sizes: dict[str, float] | None = None

    def observe(self, stretch: Stretch) -> None:
        """Look at the first step alone: later ones show what the updates did."""
        if self._sizes is None and stretch.layers:
            self._sizes = {
                layer: math.hypot(trace.mean[0], trace.std[0])
                for layer, trace in stretch.layers.items()
                if trace.step[0] == 0 and np.isfinite(trace.mean[0])
            }


class VanishingStart(_StartRule):
    """Activations that become smaller and smaller with depth.

    Sizes are root mean squares. ``fall``: of the smallest beside the first layer's; ``near``:
    largest size that is as good as nothing (a third of it needs no fall); ``layers``: how many
    must be so small.
    """

    name = "vanishing_start"
    severity = "warning"
    about_layers = True
    cause = (
        "Each layer passes on less than it gets: the deep ones hardly depend on the image, and "
        "hardly any gradient comes back through them."
    )
    explains = frozenset(
        {
            "vanishing_gradients",
            "loss_not_decreasing",
            "worse_than_chance",
            "constant_predictions",
            "lr_too_low",
            "poor_initialisation",
            "small_updates",
            "dead_layer",
            "dead_units",
            "collapse_cycles",
        }
    )

    def __init__(
        self, run: RunContext, *, fall: float = 0.1, near: float = 0.06, layers: float = 4
    ) -> None:
        super().__init__(run)
        self._fall, self._near, self._layers = fall, near, layers

    def findings(self, ended: bool) -> Iterator[Finding]:
        sizes = self._sizes or {}
        if len(sizes) < 3:
            return
        names = list(sizes)
        inner = names[:-1]  # the scores may be as small as they like at the beginning
        smallest = min(inner, key=lambda name: sizes[name])
        fall = sizes[smallest] / max(sizes[names[0]], 1e-30)
        small = [name for name in inner if sizes[name] < self._near]
        vanished = fall < self._fall or sizes[smallest] < self._near / 3
        if vanished and len(small) >= self._layers:
            yield self.finding(
                f"at the start the activations fall to {sizes[smallest]:.2g} by "
                f"{self.named(smallest)}",
                0,
                0,
                *(with_norm(), kaiming(self.run)),
                layers=tuple(small),
                first=sizes[names[0]],
                smallest=sizes[smallest],
                fall=fall,
            )


class PoorInitialisation(_StartRule):
    """Variance that changes too much from one recorded layer to the next, or is far too large.

    ``ratio``: of the mean squares of consecutive layers; ``scale``: of a layer's root mean square.
    """

    name = "poor_initialisation"
    severity = "warning"
    about_layers = True
    cause = (
        "The initial weights do not suit the layer's width and non-linearity, so activations grow "
        "or shrink from layer to layer."
    )
    explains = frozenset(
        {
            "exploding_activations",
            "exploding_gradients",
            "vanishing_gradients",
            "saturated",
            "lr_too_high",
            "short_warm_up",
            "dead_layer",
            "dead_units",
            "collapse_cycles",
            "loss_not_decreasing",
            "worse_than_chance",
            "constant_predictions",
            "large_updates",
            "non_finite",
        }
    )

    def __init__(self, run: RunContext, *, ratio: float = 40.0, scale: float = 20.0) -> None:
        super().__init__(run)
        self._ratio, self._scale = ratio, scale

    def findings(self, ended: bool) -> Iterator[Finding]:
        sizes = self._sizes or {}
        if len(sizes) < 2:
            return
        names = list(sizes)
        pairs = list(pairwise(names))
        jumps = {pair: _jump(sizes[pair[0]], sizes[pair[1]]) for pair in pairs[:-1] or pairs}
        (before, after), jump = max(jumps.items(), key=lambda item: item[1])
        largest = max(names, key=lambda name: sizes[name])
        if jump < self._ratio and sizes[largest] < self._scale:
            return
        where = after if jump >= self._ratio else largest
        yield self.finding(
            f"at the start activations go from {sizes[before]:.2g} at {self.named(before)} "
            f"to {sizes[after]:.2g} at {self.named(after)}"
            if jump >= self._ratio
            else f"at the start the activations of {self.named(largest)} are as large as "
            f"{sizes[largest]:.2g}",
            0,
            0,
            *(kaiming(self.run), with_norm()),
            layers=(where,),
            variance_ratio=jump,
            largest=sizes[largest],
        )


def _jump(one: float, other: float) -> float:
    low, high = sorted((max(one, 1e-30), max(other, 1e-30)))
    return (high / low) ** 2
