"""Rules about updates, where they are recorded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tracking.diagnosis.evidence import Floats, RunContext, Stretch
from tracking.diagnosis.rule import Rule, Spell
from tracking.diagnosis.rules.advice import gentler_lr, higher_lr
from tracking.records import Finding

__all__ = ["LargeUpdates", "SmallUpdates"]


class _UpdateRule(Rule):
    """Follows the median over the parameters of the update-to-weight ratio."""

    needs = "updates"

    def __init__(self, run: RunContext, steps: float) -> None:
        super().__init__(run)
        self._spell = Spell(int(steps))
        self._ratio = 0.0

    def observe(self, stretch: Stretch) -> None:
        by_step: dict[int, list[float]] = {}
        for trace in stretch.updates.values():
            for step, ratio in zip(trace.step.tolist(), trace.ratio.tolist(), strict=True):
                if np.isfinite(ratio):
                    by_step.setdefault(step, []).append(ratio)
        if by_step:
            steps = np.array(sorted(by_step))
            medians = np.array([np.median(by_step[step]) for step in steps.tolist()])
            shown = self._shows(medians)
            self._spell.add(steps, shown)
            if shown.any():
                self._ratio = float(medians[shown][-1])

    @abstractmethod
    def _shows(self, ratios: Floats) -> npt.NDArray[np.bool_]:
        """Whether it shows what the rule is about."""


class SmallUpdates(_UpdateRule):
    """Steps that leave the weights as they are. ``ratio``: of update to weight; ``steps``."""

    name = "small_updates"
    severity = "warning"
    cause = (
        "Each step changes the weights by next to nothing, so the run ends before they have moved."
    )
    explains = frozenset({"loss_not_decreasing"})

    def __init__(self, run: RunContext, *, ratio: float = 1e-6, steps: float = 30) -> None:
        super().__init__(run, steps)
        self._least = ratio

    def _shows(self, ratios: Floats) -> npt.NDArray[np.bool_]:
        return ratios < self._least

    def findings(self, ended: bool) -> Iterator[Finding]:
        if self._spell.lasted and self._spell.began <= self._spell.needed:
            yield self.finding(
                "no step changes the weights: the learning rate is 0"
                if self.curve.lr_is_zero
                else f"a step changes the weights by {self._ratio:.1g} of their size",
                self._spell.began,
                self._spell.ended,
                higher_lr(self.run, 100, self.curve),
                ratio=self._ratio,
            )


class LargeUpdates(_UpdateRule):
    """Steps that replace the weights. ``ratio``: of update to weight; ``steps``."""

    name = "large_updates"
    severity = "warning"
    cause = "Each step changes the weights so much that what was learned before is lost."
    explains = frozenset({"exploding_activations", "collapse_cycles", "dead_units", "dead_layer"})

    def __init__(self, run: RunContext, *, ratio: float = 0.3, steps: float = 10) -> None:
        super().__init__(run, steps)
        self._most = ratio

    def _shows(self, ratios: Floats) -> npt.NDArray[np.bool_]:
        return ratios > self._most

    def findings(self, ended: bool) -> Iterator[Finding]:
        if self._spell.lasted:
            yield self.finding(
                f"a step changes the weights by {self._ratio:.1g} of their size",
                self._spell.began,
                self._spell.ended,
                gentler_lr(self.run),
                ratio=self._ratio,
            )
