"""Paired timings: variants take turns in one process, so that a noisy machine is noisy for all."""

from __future__ import annotations

import datetime
import gc
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = [
    "Figures",
    "Target",
    "interleaved",
    "of_figures",
    "paired",
    "processor",
    "ratios_table",
    "summary_table",
    "targets_table",
    "write_report",
]

Figures = Mapping[str, float]
"""What one run of a variant came to, by name."""


@dataclass(frozen=True)
class Target:
    """A ratio of two series, and what is wanted of its median: at most or at least the limit."""

    over: str
    under: str
    limit: float | None = None
    """None where the ratio is shown and nothing is wanted of it."""
    at_least: bool = False

    def __str__(self) -> str:
        return f"{self.over} / {self.under}"

    def verdict(self, ratio: float) -> tuple[str, str]:
        """What is wanted, and whether a ratio is good enough, in words; empty without a limit."""
        if self.limit is None:
            return "", ""
        met = ratio >= self.limit if self.at_least else ratio <= self.limit
        return f"at {'least' if self.at_least else 'most'} {self.limit:g}", "yes" if met else "no"


def interleaved(
    variants: Mapping[str, Callable[[], float | Figures]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds by variant and round. Each variant returns its own duration; the order alternates.

    A variant that returns several figures gives a series ``variant: figure`` for each of them.
    """
    series: dict[str, list[float]] = {}
    for index in range(warm_up + rounds):
        names = list(variants) if index % 2 else list(variants)[::-1]
        for name in names:
            gc.collect()  # what one variant leaves behind is not for the next one to clear away
            figures = _named(name, variants[name]())
            if index >= warm_up:
                for key, value in figures.items():
                    series.setdefault(key, []).append(value)
                    print(f"round {index - warm_up + 1}/{rounds}  {key}: {value:.4g}", flush=True)
    return series


def _named(variant: str, result: float | Figures) -> Figures:
    if isinstance(result, Mapping):
        return {f"{variant}: {figure}": value for figure, value in result.items()}
    return {variant: result}


def of_figures(series: Mapping[str, Sequence[float]], *figures: str) -> dict[str, Sequence[float]]:
    """Those of the series ``variant: figure`` that are of one of the figures."""
    return {name: values for name, values in series.items() if name.split(": ")[-1] in figures}


def paired(series: Mapping[str, Sequence[float]], over: str, under: str) -> list[float]:
    """The ratios of two series, formed round by round."""
    return [a / b for a, b in zip(series[over], series[under], strict=True)]


def ratios_table(
    seconds: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]]
) -> list[str]:
    """Markdown tables: each pair's ratios, formed round by round, and each variant's seconds."""
    ratios = {f"{over} / {under}": paired(seconds, over, under) for over, under in pairs}
    return [*summary_table("ratio", ratios), "", *summary_table("seconds", seconds)]


def targets_table(series: Mapping[str, Sequence[float]], targets: Sequence[Target]) -> list[str]:
    """Markdown rows: each target's ratios with their spread, and whether the median meets it."""
    rows = ["| ratio | n | median | range | wanted | met |", "|---|---|---|---|---|---|"]
    for target in targets:
        ratios = paired(series, target.over, target.under)
        median = statistics.median(ratios)
        spread = f"{min(ratios):.3f} - {max(ratios):.3f}"
        wanted, met = target.verdict(median)
        rows.append(f"| {target} | {len(ratios)} | {median:.3f} | {spread} | {wanted} | {met} |")
    return rows


def summary_table(heading: str, series: Mapping[str, Sequence[float]]) -> list[str]:
    """Markdown rows: n, median, mean, standard deviation (n - 1) and range of each series."""
    rows = [f"| {heading} | n | median | mean | std | range |", "|---|---|---|---|---|---|"]
    for name, values in series.items():
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        numbers = [statistics.median(values), statistics.mean(values), std]
        figures = " | ".join(f"{number:.3f}" for number in numbers)
        spread = f"{min(values):.3f} - {max(values):.3f}"
        rows.append(f"| {name} | {len(values)} | {figures} | {spread} |")
    return rows


def write_report(path: Path, title: str, command: str, rows: Sequence[str]) -> None:
    """A Markdown file with the figures, the command, the machine and the date; printed too."""
    cpu = processor(torch.device("cpu"))
    parts = [cpu, f"{os.cpu_count()} cores", f"{torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        parts.append(processor(torch.device("cuda")))
    machine = ", ".join([*parts, f"torch {torch.__version__}"])
    lines = [
        f"# {title}",
        "",
        f"`{command}` on {datetime.date.today().isoformat()}; {machine}.",
        "",
        *rows,
        "",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def processor(device: torch.device) -> str:
    """What a device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
