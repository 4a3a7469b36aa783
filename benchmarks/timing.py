"""Paired timings: variants take turns in one process, so that a noisy machine is noisy for all."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

__all__ = ["interleaved", "ratios_table", "summary_table", "write_report"]


def interleaved(
    variants: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds by variant and round. Each variant returns its own duration; the order alternates."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(warm_up + rounds):
        names = list(variants) if index % 2 else list(reversed(variants))
        for name in names:
            duration = variants[name]()
            if index >= warm_up:
                seconds[name].append(duration)
                print(f"round {index - warm_up + 1}/{rounds}  {name}: {duration:.2f} s", flush=True)
    return seconds


def ratios_table(
    seconds: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]]
) -> list[str]:
    """Markdown tables: each pair's ratios, formed round by round, and each variant's seconds."""
    ratios = {
        f"{over} / {under}": [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
        for over, under in pairs
    }
    return [*summary_table("ratio", ratios), "", *summary_table("seconds", seconds)]


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
    machine = (
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
