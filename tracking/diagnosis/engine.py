"""Diagnosis: lets every rule look at what was recorded, and puts the findings in order."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import fields, replace
from itertools import chain

from tracking.diagnosis.evidence import (
    GradientTrace,
    LayerTrace,
    RunContext,
    StepTrace,
    Stretch,
    UpdateTrace,
)
from tracking.diagnosis.losses import LossCurve
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules import RULES
from tracking.diagnosis.text import SEVERITIES
from tracking.diagnosis.thresholds import Thresholds, check_thresholds
from tracking.reasons import one_line
from tracking.records import Finding

__all__ = ["Diagnosis", "ranked"]

log = logging.getLogger("layerscope")


LATE = 20
"""Steps by which evidence of a cause may come after that of its consequence."""


class Diagnosis:
    """What is wrong with a run, kept up to date while it is recorded.

    ``thresholds`` are keyword arguments of rules, by the rule's name. Raises BadOption: there is no
    such rule or threshold.
    """

    def __init__(
        self,
        run: RunContext,
        thresholds: Thresholds | None = None,
        rules: Sequence[type[Rule]] = RULES,
    ) -> None:
        thresholds = thresholds or {}
        check_thresholds(thresholds, rules)
        self._rules = [rule(run, **thresholds.get(rule.name, {})) for rule in rules]
        self._curve = LossCurve()
        for one in self._rules:
            one.curve = self._curve
        self._current: dict[str, list[Finding]] = {}
        self._found: dict[str, int] = {}
        self._step = 0

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything found so far, what matters most first."""
        explains = {rule.name: rule.explains for rule in self._rules}
        return ranked(chain.from_iterable(self._current.values()), explains)

    @property
    def found(self) -> dict[str, int]:
        """By the name of a rule, the step by which its findings that stand were found."""
        return dict(self._found)

    def recall(self, stretches: Iterable[Stretch], found: Mapping[str, int]) -> None:
        """Show the rules once more what a diagnosis has seen that had ``found`` so much."""
        for stretch in stretches:
            self.observe(stretch)
        self._found.update(found)
        self._news()

    def observe(self, stretch: Stretch) -> list[Finding]:
        """Show the rules what has been recorded; gives what is found for the first time."""
        self._step = max(self._step, _last_step(stretch))
        if stretch.steps is not None:
            self._curve.add(stretch.steps)
        there = {field.name for field in fields(stretch) if _some(getattr(stretch, field.name))}
        for rule in list(self._rules):
            # Most stretches have one part; rules that do not look at it have nothing new to say.
            if not there.isdisjoint({rule.needs, *rule.also}) or rule.name not in self._current:
                self._guarded(rule, stretch, ended=False)
        return self._news()

    def end(self) -> list[Finding]:
        """The run is over; gives what only this shows."""
        for rule in list(self._rules):
            self._guarded(rule, None, ended=True)
        return self._news()

    def _guarded(self, rule: Rule, stretch: Stretch | None, *, ended: bool) -> None:
        """A rule that fails, perhaps a user's own, must not fail the training: it is left out."""
        try:
            if stretch is not None:
                rule.observe(stretch)
            found = list(rule.findings(ended))
            if any(finding.severity not in SEVERITIES for finding in found):
                raise ValueError(f"severities are {', '.join(SEVERITIES)}")
            self._current[rule.name] = found
        except Exception as error:
            log.warning("rule %s failed and is left out (%s)", rule.name, one_line(error))
            self._rules.remove(rule)
            self._current.pop(rule.name, None)

    def _news(self) -> list[Finding]:
        new = []
        for name, findings in self._current.items():
            if not findings:
                self._found.pop(name, None)  # should it come back, it is new
            for index, finding in enumerate(findings):
                known = finding.rule in self._found
                step = self._found.setdefault(finding.rule, max(self._step, finding.first_step))
                findings[index] = replace(finding, found_step=step)
                if not known:
                    new.append(findings[index])
        return sorted(new, key=self.findings.index) if len(new) > 1 else new


def ranked(
    findings: Iterable[Finding], explains: Mapping[str, frozenset[str]]
) -> tuple[Finding, ...]:
    """Findings in order of importance: each one that another explains comes after that one.

    What explains others has the weight of the worst of them. ``explains``: by a rule's name, the
    names of those that follow from it. Of two that explain each other it is the one that began
    first; and what began well before a finding is no consequence of it.
    """
    findings = list(findings)
    indices = range(len(findings))
    direct = {
        one: {
            other
            for other in indices
            if other != one and _explains(findings[one], findings[other], explains)
        }
        for one in indices
    }
    under = {one: _reached(one, direct) for one in indices}
    above = {one: [other for other in indices if one in under[other]] for one in indices}
    own = [SEVERITIES.index(finding.severity) for finding in findings]
    worst = {one: min(own[other] for other in {one, *under[one]}) for one in indices}

    def place(one: int) -> tuple[int, int, int, int, int]:
        heaviest = min(worst[other] for other in (one, *above[one]))
        return heaviest, worst[one], len(above[one]), own[one], findings[one].first_step

    return tuple(findings[one] for one in sorted(indices, key=place))


def _explains(one: Finding, other: Finding, explains: Mapping[str, frozenset[str]]) -> bool:
    if other.rule not in explains.get(one.rule, ()):
        return False
    if one.rule in explains.get(other.rule, ()):
        return (one.first_step, one.rule) < (other.first_step, other.rule)
    return one.first_step <= other.first_step + LATE


def _reached(start: int, direct: Mapping[int, set[int]]) -> set[int]:
    """What follows from a finding, directly or by way of others."""
    found: set[int] = set()
    coming = [start]
    while coming:
        new = direct[coming.pop()] - found
        found |= new
        coming += new
    return found


def _some(part: object) -> bool:
    return part is not None and (not isinstance(part, Sized) or len(part) > 0)


def _last_step(stretch: Stretch) -> int:
    traces: list[LayerTrace | StepTrace | GradientTrace | UpdateTrace] = [
        *([stretch.steps] if stretch.steps is not None else []),
        *stretch.layers.values(),
        *stretch.gradients.values(),
        *stretch.updates.values(),
    ]
    steps = [int(trace.step[-1]) for trace in traces if len(trace.step)]
    steps += [one.step for one in stretch.inputs]
    # What validation shows comes after so many steps: the last of them was the one before.
    steps += [max(0, one.step - 1) for one in stretch.epochs]
    steps += [max(0, one.step - 1) for one in stretch.norms]
    return max(steps, default=0)
