"""RungPlan: where in a run a trial is judged, and by what."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

__all__ = ["Rung", "RungKind", "RungPlan"]

RungKind = Literal["none", "plain", "anneal", "cycle"]
ALLOWED = "allowed: anneal:EPOCHS (e.g. anneal:0.3), cycle, plain, none"


@dataclass(frozen=True)
class Rung:
    """One place of judgement."""

    resource: int
    """What Optuna's pruners take as the step of a report: 1, reduction, reduction^2, ..."""
    share: float
    """Share of the run."""
    step: int
    """Optimizer steps of the run (cycle: of the short run)."""


@dataclass(frozen=True)
class RungPlan:
    """``count`` rungs, the last of them at 1/reduction of the run, each earlier one at 1/reduction
    of the next.

    ``length``: epochs that an annealing takes.
    """

    kind: RungKind
    count: int
    reduction: int
    length: float = 0.0

    @classmethod
    def parse(cls, text: str, count: int, reduction: int) -> RungPlan:
        """From the option ``rung``. Raises ValueError: it says what is allowed."""
        kind, _, length = text.partition(":")
        if kind not in {"none", "plain", "anneal", "cycle"}:
            raise ValueError(ALLOWED)
        if kind != "anneal":
            if length:
                raise ValueError(ALLOWED)
            return cls(cast(RungKind, kind), count if kind != "none" else 0, reduction)
        try:
            epochs = float(length or 0.3)
        except ValueError:
            raise ValueError(ALLOWED) from None
        if not 0 < epochs < math.inf:
            raise ValueError("anneal:EPOCHS takes a number above 0, e.g. anneal:0.3")
        return cls("anneal", count, reduction, epochs)

    @property
    def text(self) -> str:
        """The option that says the same."""
        return f"anneal:{self.length:g}" if self.kind == "anneal" else self.kind

    def rungs(self, total_steps: int) -> list[Rung]:
        """The rungs of a run; in one of so few steps that some coincide, the later ones."""
        found: dict[int, Rung] = {}
        for index in range(self.count):
            share = self.reduction ** (index - self.count)
            step = max(round(share * total_steps), 1)
            if step < total_steps:
                found[step] = Rung(self.reduction**index, share, step)
        return list(found.values())

    def anneal_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of an annealing, one at least."""
        return max(math.ceil(self.length * steps_per_epoch), 1)
