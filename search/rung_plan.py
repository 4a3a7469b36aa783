"""RungPlan: where in a run a trial is judged, and by what."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal, cast

__all__ = ["Rung", "RungKind", "RungPlan", "parse_shares"]

RungKind = Literal["none", "plain", "anneal", "cycle"]
ALLOWED = "allowed: anneal:EPOCHS (e.g. anneal:0.3), cycle, plain, none"
PLACES = "allowed: rising shares of the run between 0 and 1, e.g. 1/9 or 0.1,0.3"


@dataclass(frozen=True)
class Rung:
    """One place of judgement."""

    number: int
    """1, 2, ... along the run; in Optuna the step at which the trial reports its score."""
    share: float
    """Share of the run."""
    step: int
    """Optimizer steps of the run (cycle: of the short run)."""


@dataclass(frozen=True)
class RungPlan:
    """Rungs at ``shares`` of a run; ``length``: epochs that an annealing takes."""

    kind: RungKind
    shares: tuple[float, ...] = ()
    length: float = 0.0

    @classmethod
    def parse(cls, text: str, places: str) -> RungPlan:
        """From the options ``rung`` and ``rungs``. Raises ValueError: it says what is allowed."""
        kind, _, length = text.partition(":")
        if kind not in {"none", "plain", "anneal", "cycle"} or (length and kind != "anneal"):
            raise ValueError(ALLOWED)
        shares = parse_shares(places)
        if kind == "none":
            return cls("none")
        if kind != "anneal":
            return cls(cast(RungKind, kind), shares)
        try:
            epochs = float(length or 0.3)
        except ValueError:
            raise ValueError(ALLOWED) from None
        if not 0 < epochs < math.inf:
            raise ValueError("anneal:EPOCHS takes a number above 0, e.g. anneal:0.3")
        return cls("anneal", shares, epochs)

    @property
    def text(self) -> str:
        """The option ``rung`` that says the same."""
        return f"anneal:{self.length:g}" if self.kind == "anneal" else self.kind

    def rungs(self, total_steps: int, least_steps: int = 1) -> list[Rung]:
        """The rungs of a run; in one of so few steps that some coincide, the later ones.

        Those before ``least_steps`` optimizer steps are left out; the others keep their numbers.
        """
        found: dict[int, Rung] = {}
        for number, share in enumerate(self.shares, start=1):
            step = max(round(share * total_steps), 1)
            if least_steps <= step < total_steps:
                found[step] = Rung(number, share, step)
        return list(found.values())

    def anneal_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of an annealing, one at least."""
        return max(math.ceil(self.length * steps_per_epoch), 1)


def parse_shares(text: str) -> tuple[float, ...]:
    """Shares such as ``1/9`` or ``0.1,0.3``. Raises ValueError: it says what is allowed."""
    try:
        shares = tuple(float(Fraction(part.strip())) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise ValueError(PLACES) from None
    rising = all(a < b for a, b in pairwise(shares))
    if not rising or shares[0] <= 0 or shares[-1] >= 1:
        raise ValueError(PLACES)
    return shares
