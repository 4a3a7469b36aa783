"""Does memory grow with the length of a run? And how long do its records take?

    python -m benchmarks.memory [--rounds 3] [--steps 100000]

Everything is done in processes of its own, so that each has a peak of its own: a run of 1,000 steps
is recorded, then a long one; the long one's rows are written once more, read back, and drawn. The
model has 20 layers and next to no work, so that its steps take little time themselves.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click

from benchmarks import long_run
from benchmarks.timing import Figures, summary_table, write_report

__all__: list[str] = []

RESULTS = Path(__file__).parent / "results" / "memory.md"
SHORT = 1_000
GROWTH = 50.0
"""MiB that the long run's recording may take more than the short one's."""
DRAWN_WITHIN = 5.0
"""Seconds for the pictures of the long run."""


def one_round(steps: int) -> dict[str, float]:
    """Figures by what was done, each of it in a fresh process."""
    with tempfile.TemporaryDirectory(prefix="layerscope-bench-") as folder:
        short, long = Path(folder) / "short", Path(folder) / "long"
        tasks: list[tuple[str, Callable[..., Figures], tuple[object, ...]]] = [
            (f"record {SHORT:,} steps", long_run.record, (short, SHORT)),
            (f"record {steps:,} steps", long_run.record, (long, steps)),
            ("write its rows", long_run.write, (long,)),
            ("read them back", long_run.read, (long,)),
            ("draw them", long_run.draw_pictures, (long,)),
        ]
        figures: dict[str, float] = {}
        for name, task, arguments in tasks:
            result = _in_own_process(task, *arguments)
            figures |= {f"{name}: {figure}": value for figure, value in result.items()}
            print("  ".join([name, *(f"{k} {v:.2f}" for k, v in result.items())]), flush=True)
    return figures


def _in_own_process(task: Callable[..., Figures], *arguments: object) -> Figures:
    # Spawned, not forked: it must not begin with what this process holds.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(task, *arguments).result()


def verdict(series: Mapping[str, Sequence[float]], steps: int) -> list[str]:
    """What is wanted, and the medians of what came out."""
    short, long = (series[f"record {n:,} steps: MiB"] for n in (SHORT, steps))
    growth = statistics.median(b - a for a, b in zip(short, long, strict=True))
    drawing = statistics.median(series["draw them: seconds"])
    more = f"{growth:.0f} MiB more than {SHORT:,} steps (wanted: at most {GROWTH:.0f})"
    time = f"{drawing:.1f} s (wanted: at most {DRAWN_WITHIN:.0f})"
    return [
        f"- Recording {steps:,} steps takes {more}.",
        f"- Drawing every picture of {steps:,} steps takes {time}.",
        "",
    ]


@click.command()
@click.option("--rounds", default=3)
@click.option("--steps", default=100_000, help="Steps of the long run.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=RESULTS)
def main(rounds: int, steps: int, output: Path) -> None:
    """Record, write, read and draw, and write benchmarks/results/memory.md."""
    results = [one_round(steps) for _ in range(rounds)]
    series = {name: [result[name] for result in results] for name in results[0]}
    seconds = {name: values for name, values in series.items() if "seconds" in name}
    peaks = {name: values for name, values in series.items() if "MiB" in name}
    rows = int(results[0]["read them back: rows"])
    tables = [
        verdict(series, steps),
        [f"{long_run.LAYERS} layers, {rows:,} rows; each task in a process of its own.", ""],
        [*summary_table("peak memory, MiB", peaks), ""],
        summary_table("seconds", seconds),
    ]
    command = f"python -m benchmarks.memory --rounds {rounds} --steps {steps}"
    title = "Memory and time of long records"
    write_report(output, title, command, [row for table in tables for row in table])


if __name__ == "__main__":
    main()
