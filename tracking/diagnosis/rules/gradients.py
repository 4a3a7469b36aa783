"""Rules about gradients, where they are recorded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tracking.diagnosis.evidence import GradientTrace, RunContext, Stretch
from tracking.diagnosis.rule import Rule, Spell
from tracking.diagnosis.rules.advice import (
    clip,
    gentler_lr,
    kaiming,
    rectified,
    with_norm,
)
from tracking.records import Finding

__all__ = ["ExplodingGradients", "VanishingGradients"]


class _GradientRule(Rule):
    """Follows gradients at the first and at the last recorded layer."""

    needs = "gradients"

    def __init__(self, run: RunContext, steps: float) -> None:
        super().__init__(run)
        self._spell = Spell(int(steps))
        self._layer = ""

    def observe(self, stretch: Stretch) -> None:
        if len(stretch.gradients) < 2:
            return
        names = list(stretch.gradients)
        first, last = stretch.gradients[names[0]], stretch.gradients[names[-1]]
        # Layers that are not used in every step have rows of their own.
        steps, at_first, at_last = np.intersect1d(first.step, last.step, return_indices=True)
        if len(steps):
            self._layer = names[0]
            shown = self._shows(_Ends(first, at_first), _Ends(last, at_last))
            self._spell.add(steps, shown)

    @abstractmethod
    def _shows(self, first: _Ends, last: _Ends) -> npt.NDArray[np.bool_]:
        """Whether it shows what the rule is about."""


class _Ends:
    """Gradients at one end of the network, in the steps that both ends have."""

    def __init__(self, trace: GradientTrace, rows: npt.NDArray[np.intp]) -> None:
        self.norm = trace.norm[rows]
        self.nonfinite = trace.nonfinite[rows] > 0
        self.size = self.norm / np.sqrt(np.maximum(trace.count[rows], 1))
        """Root mean square."""


class VanishingGradients(_GradientRule):
    """Gradients that hardly reach the first layers.

    ``tiny``: root mean square; ``fall``: at the first recorded layer beside the last; ``steps``:
    consecutive recorded steps.
    """

    name = "vanishing_gradients"
    severity = "warning"
    about_layers = True
    cause = "On the way back each layer makes the gradient smaller, so the first learn nothing."
    explains = frozenset(
        {
            "loss_not_decreasing",
            "worse_than_chance",
            "constant_predictions",
            "lr_too_low",
            "collapse_cycles",
            "dead_units",
        }
    )

    def __init__(
        self, run: RunContext, *, tiny: float = 1e-9, fall: float = 1e-4, steps: float = 10
    ) -> None:
        super().__init__(run, steps)
        self._tiny, self._fall = tiny, fall
        self._first = self._last = 0.0

    def _shows(self, first: _Ends, last: _Ends) -> npt.NDArray[np.bool_]:
        fallen = (first.size < self._fall * last.size) | (first.size < self._tiny)
        if fallen.any():
            at = int(np.flatnonzero(fallen)[-1])
            self._first, self._last = float(first.size[at]), float(last.size[at])
        return np.asarray(fallen)

    def findings(self, ended: bool) -> Iterator[Finding]:
        if self._spell.lasted:
            yield self.finding(
                f"the root mean square of the gradient at {self.named(self._layer)} is "
                f"{self._first:.2g}, at the last layer {self._last:.2g}",
                self._spell.began,
                self._spell.ended,
                *(with_norm(), kaiming(self.run), rectified()),
                layers=(self._layer,),
                first=self._first,
                last=self._last,
            )


class ExplodingGradients(_GradientRule):
    """Gradients that grow on the way back, also where they end as infinities or NaN.

    ``growth``: at the first recorded layer beside the last (root mean squares); ``norm``: L2 norm
    of the first layer's gradient; ``steps``: consecutive recorded steps. Gradients that are not
    finite and have not grown before are left to NonFinite: damaged data makes them too.
    """

    name = "exploding_gradients"
    severity = "warning"
    about_layers = True
    cause = "On the way back each layer multiplies the gradient by more than 1."
    explains = frozenset({"non_finite", "lr_too_high", "exploding_activations", "collapse_cycles"})

    def __init__(
        self, run: RunContext, *, growth: float = 30.0, norm: float = 1e3, steps: float = 3
    ) -> None:
        super().__init__(run, steps)
        self._growth, self._norm = growth, norm
        # A scaler seeks the largest scale by overflowing now and then.
        self._scaled = run.options.get("precision") == "fp16"
        self._largest = self._most = 0.0
        self._shown = False
        """At the last step."""

    def _shows(self, first: _Ends, last: _Ends) -> npt.NDArray[np.bool_]:
        known = last.size > 0
        growth = np.divide(first.size, last.size, out=np.zeros(len(known)), where=known)
        large = (growth > self._growth) | (first.norm > self._norm)
        if large.any():
            self._largest = max(self._largest, float(np.fmax.reduce(first.norm[large])))
            self._most = max(self._most, float(np.fmax.reduce(growth[large])))
        return large if self._scaled else self._carried_on(large, first.nonfinite)

    def _carried_on(
        self, large: npt.NDArray[np.bool_], nonfinite: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """What has grown goes on where it is not finite any more."""
        shown = large.copy()
        for at, overflow in enumerate(nonfinite.tolist()):
            shown[at] |= overflow and self._shown
            self._shown = bool(shown[at])
        return shown

    def findings(self, ended: bool) -> Iterator[Finding]:
        if self._spell.lasted:
            yield self.finding(
                self._sentence(),
                self._spell.began,
                self._spell.ended,
                *(clip(), with_norm(), kaiming(self.run), gentler_lr(self.run)),
                layers=(self._layer,),
                norm=self._largest,
                growth=self._most,
            )

    def _sentence(self) -> str:
        where = f"the gradient at {self.named(self._layer)}"
        if self._largest > self._norm:
            return f"the L2 norm of {where} reaches {self._largest:.2g}"
        return (
            f"the root mean square of {where} reaches {self._most:.2g} times that at the last layer"
        )
