"""The benchmark's figures as Markdown: one table for each half and kind of run, and every miss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from benchmarks.faults.cases import FAULTS, HALVES
from benchmarks.faults.running import DIVERGED
from benchmarks.faults.scoring import (
    FaultScore,
    Judged,
    divergence_delays,
    fault_score,
    healthy_score,
)

__all__ = ["report"]

PROMPT = ("dead_layer", "non_finite")
"""Faults that are to be found within PROMPT_STEPS, as divergence is."""
PROMPT_STEPS = 20


def report(judged: Sequence[Judged]) -> list[str]:
    """Markdown rows about every half that has runs."""
    rows: list[str] = []
    for half in HALVES:
        own = [one for one in judged if one.case.half == half]
        if own:
            rows += [f"## {half.capitalize()} half", "", *_half(own)]
    return rows


def _half(judged: Sequence[Judged]) -> Iterator[str]:
    faulty = [one for one in judged if one.case.fault]
    healthy = [one for one in judged if not one.case.fault]
    yield from _summary(faulty, healthy)
    if faulty:
        yield from _faults(faulty)
    if healthy:
        yield from _false(healthy)
    yield from _misses(faulty)


def _summary(faulty: Sequence[Judged], healthy: Sequence[Judged]) -> Iterator[str]:
    """What is wanted and what was reached."""
    score, clean = fault_score(faulty), healthy_score(healthy)
    yield from ("| figure | n | reached | wanted | met |", "|---|---|---|---|---|")
    wanted = [
        ("fault among the findings", score.found, score.runs, 0.9, True),
        ("fault is the top finding", score.first, score.runs, 0.75, True),
        ("healthy runs with a critical finding", clean.critical, clean.runs, 0.02, False),
        ("healthy runs with a warning", clean.warned, clean.runs, 0.1, False),
        (
            "first remedy trains to within 2 points of the twin",
            score.helped,
            score.remedied,
            0.8,
            True,
        ),
    ]
    for name, count, runs, limit, at_least in wanted:
        if runs:
            share = count / runs
            met = share >= limit if at_least else share <= limit
            words = f"at {'least' if at_least else 'most'} {limit:.0%}"
            yield f"| {name} | {runs} | {share:.1%} | {words} | {_yes(met)} |"
    yield from _promptness(faulty)
    yield ""


def _promptness(faulty: Sequence[Judged]) -> Iterator[str]:
    delays = {name.replace("_", " "): fault_score(_of(faulty, name)).delays for name in PROMPT}
    delays["divergence"] = divergence_delays(faulty)
    for name, steps in delays.items():
        if steps:
            met = max(steps) <= PROMPT_STEPS
            yield (
                f"| {name}: steps until found, at worst | {len(steps)} | {max(steps)} "
                f"| at most {PROMPT_STEPS} | {_yes(met)} |"
            )


def _faults(faulty: Sequence[Judged]) -> Iterator[str]:
    yield (
        "| fault | runs | among findings | top finding | steps until found: median | largest "
        "| remedy helped | accuracy | twin |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for fault in FAULTS:
        own = _of(faulty, fault)
        if own:
            yield _row(fault, own, fault_score(own))
    yield ""
    yield (
        "Steps count from the onset of the fault. Accuracy is the median over the runs' last "
        f"validations. Divergence is a loss of {DIVERGED:g} times the first step's."
    )
    yield ""


def _row(fault: str, own: Sequence[Judged], score: FaultScore) -> str:
    remedies = f"{score.helped} of {score.remedied}" if score.remedied else ""
    twins = [one.remedied.twin for one in own if one.remedied is not None]
    return (
        f"| {fault} | {score.runs} | {score.found} | {score.first} "
        f"| {_number(score.median_delay)} | {_number(score.largest_delay)} | {remedies} "
        f"| {_accuracy(one.accuracy for one in own)} | {_accuracy(twins)} |"
    )


def _false(healthy: Sequence[Judged]) -> Iterator[str]:
    score = healthy_score(healthy)
    reached = _accuracy(one.accuracy for one in healthy)
    yield f"False findings in {score.runs} healthy runs, median accuracy {reached}:"
    yield ""
    for one in healthy:
        serious = [f for f in one.findings if f.severity != "note"]
        if serious:
            found = ", ".join(f"{f.rule} ({f.severity}, step {f.found_step})" for f in serious)
            yield f"- {one.case.name}: {found}"
    if not score.rules:
        yield "- none"
    yield ""


def _misses(faulty: Sequence[Judged]) -> Iterator[str]:
    """Every faulty run whose fault is not the top finding, or whose remedy did not help."""
    for one in faulty:
        if not one.named_first:
            rules = dict.fromkeys(finding.rule for finding in one.findings)
            found = ", ".join(rules) or "nothing"
            how = "named, but not first" if one.named else "missed"
            yield f"- {one.case.name}: {how}; found: {found}"
        again = one.remedied
        if again is not None and not again.helped:
            what = f"{again.option}={again.value} ({again.rule})" if again.option else "no option"
            yield (
                f"- {one.case.name}: {what} gave {again.accuracy:.3f}, "
                f"its twin has {again.twin:.3f}"
            )
    yield ""


def _of(judged: Iterable[Judged], fault: str) -> list[Judged]:
    return [one for one in judged if one.case.fault == fault]


def _accuracy(values: Iterable[float]) -> str:
    """The median in per cent, runs that failed counting as 0; empty for none."""
    numbers = [0.0 if math.isnan(value) else value for value in values]
    return f"{100 * median(numbers):.1f} %" if numbers else ""


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:g}"


def _yes(met: bool) -> str:
    return "yes" if met else "no"
