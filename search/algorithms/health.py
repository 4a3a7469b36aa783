"""HealthPruner: stops a trial by what its layers show, before its accuracy does.

A decorating pruner: it looks at the trial's findings first, and then asks the pruner that it wraps.
The judge (search/trials/judge.py) notes findings as they come, and asks at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from optuna.pruners import BasePruner

from tracking.errors import BadOption, did_you_mean

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["HEALTH", "HealthPruner", "HealthRule"]

HEALTH = "health"
"""The trial's user attribute with its findings so far: objects with rule, severity, summary."""


class HealthRule:
    """Which findings stop a trial: ``critical`` or ``warning`` (those of that severity, about
    layers), names of rules separated by commas, or ``none``.

    Raises BadOption: no such rule.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._severities = {"critical": {"critical"}, "warning": {"critical", "warning"}}.get(text)
        self._rules = frozenset[str]()
        if self._severities is None and text != "none":
            self._rules = frozenset(name.strip() for name in text.split(","))
            for name in sorted(self._rules):
                _check(name)

    def first(self, findings: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """The first finding that stops a trial."""
        return next((finding for finding in findings if self._stops(finding)), None)

    def _stops(self, finding: Mapping[str, Any]) -> bool:
        if self._severities is not None:
            return finding["severity"] in self._severities and finding["rule"] in _layer_rules()
        return finding["rule"] in self._rules


class HealthPruner(BasePruner):
    """Prunes a trial with a finding that ``rule`` names; else ``wrapped`` decides, once on a score.

    Findings come at any step. A pruner that compares scores would be asked again about that of a
    rung which the trial has left, and others have come there since.
    """

    def __init__(self, wrapped: BasePruner, rule: HealthRule) -> None:
        self.wrapped = wrapped
        self._rule = rule
        self._answers: dict[tuple[int, int | None], bool] = {}

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to end."""
        if self._rule.first(trial.user_attrs.get(HEALTH, ())) is not None:
            return True
        score = trial.number, trial.last_step
        if score not in self._answers:
            self._answers[score] = self.wrapped.prune(study, trial)
        return self._answers[score]


@cache
def _layer_rules() -> frozenset[str]:
    from tracking.diagnosis.rules import RULES

    return frozenset(rule.name for rule in RULES if rule.about_layers)


def _check(name: str) -> None:
    from tracking.diagnosis.rules import RULES

    known = [rule.name for rule in RULES]
    if name not in known:
        raise BadOption(
            f"health={name}: allowed: critical, warning, none, or rules of the diagnosis "
            f"(docs/diagnosis.md) separated by commas.{did_you_mean(name, known)}"
        )
