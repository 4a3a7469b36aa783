"""Thresholds of rules as text: ``dead_units.share=0.3,lr_too_high.factor=4``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence

from tracking.diagnosis.rule import Rule
from tracking.errors import BadOption, did_you_mean

__all__ = ["Thresholds", "check_thresholds", "known_thresholds", "parse_thresholds"]

COUNTS = frozenset({"steps", "batches", "crashes", "layers"})
"""Thresholds that count something, of which there must be one."""
Thresholds = Mapping[str, Mapping[str, float]]
"""Values by a rule's name and a threshold's name."""


def parse_thresholds(text: str) -> dict[str, dict[str, float]]:
    """Read ``rule.threshold=number`` separated by commas; empty text gives none.

    Raises BadOption: it is written otherwise. Whether such rules exist is not checked here.
    """
    found: dict[str, dict[str, float]] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        key, _, number = part.partition("=")
        rule, _, name = key.strip().partition(".")
        try:
            found.setdefault(rule, {})[name] = float(number)
        except ValueError:
            name = ""
        if not (rule and name):
            raise BadOption(
                f"thresholds={part}: allowed: rule.threshold=number, separated by commas, "
                "such as dead_units.share=0.3"
            )
    return found


def check_thresholds(thresholds: Thresholds, rules: Sequence[type[Rule]]) -> None:
    """Raise BadOption where a rule has no such threshold, or its value makes no sense."""
    known = {rule.name: known_thresholds(rule) for rule in rules}
    for rule, values in thresholds.items():
        if rule not in known:
            hint = did_you_mean(rule, known)
            raise BadOption(f"thresholds: no rule {rule!r}; the rules: {', '.join(known)}.{hint}")
        for name, value in values.items():
            if name not in known[rule]:
                raise BadOption(
                    f"thresholds: rule {rule} has no {name!r}; "
                    f"it has: {', '.join(known[rule]) or 'none'}"
                )
            least = 1.0 if name in COUNTS else 0.0
            if not least <= value < math.inf:
                raise BadOption(f"thresholds: {rule}.{name}={value}: allowed: {least:g} and more")


def known_thresholds(rule: type[Rule]) -> dict[str, float]:
    """Names and defaults of a rule's thresholds."""
    parameters = inspect.signature(rule.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
