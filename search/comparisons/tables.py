"""A comparison's figures as rows of text, for the page, the console and the run's description."""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.comparisons.result import Arm, Comparison, Contrast, Run
from search.comparisons.verdict import bare, losses
from search.reports.trial_text import as_result
from tracking.report.text import as_duration

__all__ = [
    "CONTRAST_COLUMNS",
    "arm_cells",
    "arm_columns",
    "beside",
    "contrast_cells",
    "remarks",
    "run_cells",
]

CONTRAST_COLUMNS = ("difference", "95 % interval", "better", "same", "worse", "p")
"""What ``contrast_cells`` has."""


def arm_columns(result: Comparison) -> Sequence[str]:
    """What ``arm_cells`` has."""
    return ("runs", f"mean {result.objective}", "std", "least", "most", "time")


def beside(result: Comparison) -> str:
    """What contrasts are, and in what unit."""
    unit = "points " if result.objective == "accuracy" else ""
    return f"{unit}beside {result.arms[0].text}"


def arm_cells(result: Comparison, arm: Arm) -> list[str]:
    """Of one value."""
    found, objective = arm.summary(result.objective), result.objective
    runs = f"{found.n} of {len(arm.runs)}" if len(arm.runs) > found.n else f"{found.n}"
    std = "—" if math.isnan(found.std) else as_result(objective, found.std)
    mean, least, most = (
        "—" if math.isnan(value) else as_result(objective, value)
        for value in (found.mean, found.least, found.most)
    )
    return [runs, mean, std, least, most, as_duration(arm.seconds)]


def contrast_cells(result: Comparison, contrast: Contrast) -> list[str]:
    """Of one value beside the baseline."""
    found = contrast.difference
    if not found.n:
        return ["—"] * len(CONTRAST_COLUMNS)
    up, down = found.above, found.below
    better, worse = (up, down) if result.objective == "accuracy" else (down, up)
    ends = [bare(result, end, signed=True) for end in (found.low, found.high)]
    return [
        bare(result, found.mean, signed=True),
        "—" if math.isnan(found.low) else " to ".join(ends),
        *map(str, (better, found.n - up - down, worse)),
        f"{contrast.p:.3g}",
    ]


def remarks(arm: Arm) -> str:
    """How runs of a value ended otherwise, and what the diagnosis found in them."""
    total = len(arm.runs)
    found = [f"{rule} in {n} of {total}" for rule, n in arm.findings]
    return ", ".join([*([losses(arm)] if arm.lost else []), *found]) or "nothing found"


def run_cells(arm: Arm, run: Run) -> list[str]:
    """Of one training."""
    state = run.reason if run.reason.startswith(run.state) else f"{run.state}: {run.reason}"
    state = state if run.reason else run.state
    figures = [as_result("accuracy", run.accuracy), as_result("loss", run.loss)]
    return [str(run.seed), arm.text, *figures, as_duration(run.seconds), state, run.run_id or "—"]
