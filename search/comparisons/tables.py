"""A comparison's figures as rows of text, for the page, the console and the run's description."""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.comparisons.result import Arm, Comparison, Contrast, Run
from search.comparisons.verdict import amount, interval, losses
from search.reports.trial_text import as_result
from tracking.report.text import as_duration

__all__ = [
    "DIFFERENCES",
    "arm_cells",
    "arm_columns",
    "contrast_cells",
    "findings_text",
    "run_cells",
]

DIFFERENCES = ("mean difference", "95 % interval", "better / same / worse", "p")


def arm_columns(result: Comparison) -> Sequence[str]:
    """What ``arm_cells`` has."""
    return ("runs", f"mean {result.objective}", "std", "least", "most", "training time")


def arm_cells(result: Comparison, arm: Arm) -> list[str]:
    """Of one value."""
    found, objective = arm.summary(result.objective), result.objective
    runs = f"{found.n}" + (f" ({losses(arm)})" if arm.lost else "")
    std = "—" if math.isnan(found.std) else amount(result, found.std)
    mean, least, most = (
        "—" if math.isnan(value) else as_result(objective, value)
        for value in (found.mean, found.least, found.most)
    )
    return [runs, mean, std, least, most, as_duration(arm.seconds)]


def contrast_cells(result: Comparison, contrast: Contrast) -> list[str]:
    """Of one value beside the baseline."""
    found = contrast.difference
    if not found.n:
        return ["—", "—", "—", "—"]
    up, down = found.above, found.below
    better, worse = (up, down) if result.objective == "accuracy" else (down, up)
    sign = "-" if found.mean < 0 else "+"
    return [
        f"{sign}{amount(result, found.mean)}",
        interval(result, contrast),
        f"{better} / {found.n - up - down} / {worse}",
        f"{contrast.p:.3g}",
    ]


def findings_text(arm: Arm) -> str:
    """What the diagnosis found in the runs of a value."""
    total = len(arm.runs)
    return ", ".join(f"{rule} in {n} of {total}" for rule, n in arm.findings) or "nothing"


def run_cells(arm: Arm, run: Run) -> list[str]:
    """Of one training."""
    state = f"{run.state}: {run.reason}" if run.reason else run.state
    figures = [as_result("accuracy", run.accuracy), as_result("loss", run.loss)]
    return [str(run.seed), arm.text, *figures, as_duration(run.seconds), state, run.run_id or "—"]
