"""Is the diagnosis right? Figures from the runs' findings, by fault and by half."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.faults.cases import Case
from tracking.records import Finding, Remedy

__all__ = [
    "WITHIN",
    "FaultScore",
    "HealthyScore",
    "Judged",
    "Remedied",
    "applicable",
    "divergence_delays",
    "fault_score",
    "healthy_score",
]

WITHIN = 0.02
"""How close to its healthy twin's accuracy a remedied run must come."""


@dataclass(frozen=True)
class Remedied:
    """A faulty run done again with a remedy applied."""

    rule: str
    """The rule whose remedy it is; empty where no finding had one that can be applied."""
    option: str
    value: str
    accuracy: float
    """NaN where training failed, or nothing could be applied."""
    twin: float
    """Accuracy of the healthy twin."""

    @property
    def helped(self) -> bool:
        """Whether the run came close to its twin, or went beyond it."""
        return self.accuracy >= self.twin - WITHIN - 1e-9


@dataclass(frozen=True)
class Judged:
    """A case, how it went, and what was found in it, what matters most first."""

    case: Case
    accuracy: float
    findings: Sequence[Finding]
    diverged: int | None = None
    """Step at which the loss diverged, if it did."""
    remedied: Remedied | None = None

    @property
    def named(self) -> Finding | None:
        """The first finding that names the fault."""
        return next((one for one in self.findings if one.rule in self.case.expected), None)

    @property
    def named_first(self) -> bool:
        """Whether the top finding names the fault."""
        return bool(self.findings) and self.findings[0].rule in self.case.expected


@dataclass(frozen=True)
class FaultScore:
    """How the diagnosis did on faulty runs."""

    runs: int
    found: int
    """Runs with the fault among the findings."""
    first: int
    """Runs with the fault as the top finding."""
    delays: tuple[int, ...]
    """Steps from the onset of each fault that was found until it was."""
    remedied: int
    """Runs that were done again with a remedy, or had none."""
    helped: int

    @property
    def median_delay(self) -> float:
        """In steps; NaN where nothing was found."""
        return statistics.median(self.delays) if self.delays else math.nan

    @property
    def largest_delay(self) -> float:
        """In steps; NaN where nothing was found."""
        return max(self.delays, default=math.nan)


@dataclass(frozen=True)
class HealthyScore:
    """How the diagnosis did on healthy runs, where every serious finding is false."""

    runs: int
    critical: int
    """Runs with a critical finding."""
    warned: int
    """Runs with a warning."""
    rules: Mapping[str, int]
    """Runs by the rule of a false finding."""


def fault_score(judged: Iterable[Judged]) -> FaultScore:
    """Figures over faulty runs."""
    runs = list(judged)
    found = [(one, one.named) for one in runs]
    again = [one.remedied for one in runs if one.remedied is not None]
    return FaultScore(
        runs=len(runs),
        found=sum(finding is not None for _, finding in found),
        first=sum(one.named_first for one in runs),
        delays=tuple(
            finding.found_step - one.case.onset for one, finding in found if finding is not None
        ),
        remedied=len(again),
        helped=sum(one.helped for one in again),
    )


def divergence_delays(judged: Iterable[Judged]) -> tuple[int, ...]:
    """Steps from divergence until a finding names the fault, over runs with too high a rate.

    Negative where it was found before. Where it was not found, recall says so.
    """
    return tuple(
        one.named.found_step - one.diverged
        for one in judged
        if one.case.fault == "lr_too_high" and one.diverged is not None and one.named is not None
    )


def healthy_score(judged: Iterable[Judged]) -> HealthyScore:
    """Figures over healthy runs."""
    runs = list(judged)
    severities = [{finding.severity for finding in one.findings} for one in runs]
    rules: dict[str, int] = {}
    for one in runs:
        for rule in sorted({f.rule for f in one.findings if f.severity in {"critical", "warning"}}):
            rules[rule] = rules.get(rule, 0) + 1
    return HealthyScore(
        runs=len(runs),
        critical=sum("critical" in each for each in severities),
        warned=sum("warning" in each for each in severities),
        rules=rules,
    )


def applicable(findings: Iterable[Finding]) -> tuple[Finding, Remedy] | None:
    """The first remedy that changes an option, in the order in which they are given.

    ``dataset`` needs no value: it stands for data that has been put right. Any other option does.
    """
    for finding in findings:
        for remedy in finding.remedies:
            if remedy.option and (remedy.value or remedy.option == "dataset"):
                return finding, remedy
    return None
