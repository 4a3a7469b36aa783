"""Rule: what each rule of the diagnosis is, and the counting of steps that most of them do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tracking.diagnosis.evidence import RunContext, Stretch
from tracking.diagnosis.losses import LossCurve
from tracking.records import Finding, Remedy

__all__ = ["Rule", "Spell", "and_more"]

OF_MODELS = {
    "norm": frozenset({"simple_cnn"}),
    "activation": frozenset({"simple_cnn", "resnet_small"}),
}
"""Options that only some models read."""


class Rule(ABC):
    """Looks at every stretch of a run once, in order, and says what is wrong.

    A rule keeps no more than its window. Its thresholds are the keyword arguments of its
    constructor; whoever diagnoses may give others.
    """

    name: ClassVar[str]
    severity: ClassVar[str]
    needs: ClassVar[str]
    """The part of a Stretch without which it finds nothing, or ``data``."""
    also: ClassVar[frozenset[str]] = frozenset()
    """Further parts that it looks at."""
    about_layers: ClassVar[bool] = False
    """Whether it tells of layers and gradients, that is of what a network cannot learn its way out
    of, and not of the data or of the course of the loss.
    """
    cause: ClassVar[str]
    """Why what it finds happens, in one sentence."""
    explains: ClassVar[frozenset[str]] = frozenset()
    """Names of rules whose findings are mere consequences where this one finds something."""

    def __init__(self, run: RunContext) -> None:
        self.run = run
        self.curve = LossCurve()
        """The losses so far, kept by whoever shows the rule stretches, for all rules together."""

    def observe(self, stretch: Stretch) -> None:  # noqa: B027 - some need only the losses
        """Take note of what has been recorded; ``curve`` has its losses already."""

    @abstractmethod
    def findings(self, ended: bool) -> Iterator[Finding]:
        """What is wrong so far; with ``ended`` also what only a whole run shows."""

    def finding(
        self,
        summary: str,
        first_step: int,
        last_step: int,
        *remedies: Remedy | None,
        layers: tuple[str, ...] = (),
        severity: str = "",
        evidence: Mapping[str, float] | None = None,
        **more: float,
    ) -> Finding:
        """A finding of this rule; whoever asked for it fills in when it was found.

        Its evidence is that in ``evidence`` and the other keyword arguments.
        """
        numbers = {**(evidence or {}), **more}
        return Finding(
            rule=self.name,
            severity=severity or self.severity,
            summary=summary,
            cause=self.cause,
            remedies=tuple(filter(None, map(self._usable, filter(None, remedies)))),
            first_step=int(first_step),
            last_step=int(last_step),
            found_step=int(last_step),
            layers=layers,
            evidence={name: float(value) for name, value in numbers.items()},
        )

    def named(self, layer: str) -> str:
        """A layer in a sentence; the name of one in a Sequential may be a mere number."""
        if any(map(str.isalpha, layer)):
            return layer
        kind = self.run.kinds.get(layer)
        return f"layer {layer} ({kind})" if kind else f"layer {layer}"

    def _usable(self, remedy: Remedy) -> Remedy | None:
        """The remedy as this run can use it; None where it has it already."""
        options = self.run.options
        if remedy.value and _same(options.get(remedy.option), remedy.value):
            return None
        if not options:
            return Remedy(remedy.text)  # somebody's own loop, which has no options of these names
        readers = OF_MODELS.get(remedy.option, frozenset())
        if readers and options.get("model", "") not in readers:
            return Remedy(remedy.text)  # other models do not read the option
        return remedy


def _same(one: str | None, other: str) -> bool:
    """Whether two texts give an option the same value."""
    try:
        return one is not None and float(one) == float(other)
    except ValueError:
        return one == other


def and_more(layers: int, joined: str = " and") -> str:
    """How a sentence goes on about further layers, if there are any."""
    return f"{joined} {layers} more {'layers' if layers > 1 else 'layer'}" if layers else ""


class Spell:
    """Counts consecutive recorded steps that show something, across stretches.

    ``length`` is that of the spell that goes on, ``first`` its first step; ``lasted`` says whether
    any spell has reached ``needed`` steps, ``began`` and ``ended`` are the first step of the first
    such spell, and the last step of the last.
    """

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.length = 0
        self.first = 0
        self.lasted = False
        self.began = 0
        self.ended = 0

    def add(self, steps: npt.NDArray[np.int64], shown: npt.NDArray[Any]) -> None:
        """Whether each of some further steps shows it: bool (n,)."""
        if not shown.any():  # as nearly always
            self.length = 0
            return
        for step, yes in zip(steps.tolist(), shown.tolist(), strict=True):
            self._add(step, yes)

    def _add(self, step: int, shown: bool) -> None:
        if not shown:
            self.length = 0
            return
        if not self.length:
            self.first = step
        self.length += 1
        if self.length >= self.needed:
            self.began = self.began if self.lasted else self.first
            self.lasted, self.ended = True, step
