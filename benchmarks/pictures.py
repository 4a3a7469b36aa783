"""How long does it take to draw the pictures of a long run?

    python -m benchmarks.pictures [--rounds 5] [--steps 100000] [--layers 20]

A table of so many steps and layers is written by the writer that training uses; its histograms are
those of layers that calm down, with noise. Reading it and drawing every picture is timed as a
whole, reading alone beside it. CPU seconds are those of all threads: they say more than the clock
on a machine that others use as well.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.timing import Figures, interleaved, summary_table, write_report
from tracking.plots.pictures import draw
from tracking.records import HyperParams
from tracking.statistics.kernels import HIST_BINS, HIST_EDGES
from tracking.tables.columns import read_columns
from tracking.tables.record_file import RecordFile
from tracking.tables.schemas import StatsSettings, stats_schema, steps_schema, steps_table
from tracking.tables.step_columns import read_step_columns

__all__ = ["write_tables"]

RESULTS = Path(__file__).parent / "results" / "pictures.md"
WITHIN = 5.0
"""Seconds for reading and all pictures."""
FLUSH = 64
"""Steps that are gathered before they are written."""
COUNT = 20_000.0
"""Activations of a layer in a step, about."""
WHOLE = "reading and all pictures"


def write_tables(folder: Path, steps: int, layers: int) -> tuple[Path, Path]:
    """Write hyperparameters and statistics of a made-up run; where they are."""
    schema = stats_schema(StatsSettings(0.05, 1.0, "activations", "1"))
    stats = RecordFile("stats.parquet", schema, folder / "activations")
    used = RecordFile("steps.parquet", steps_schema(), folder / "hyperparameters")
    rng = np.random.default_rng(0)
    for begin in range(0, steps, FLUSH):
        part = np.arange(begin, min(begin + FLUSH, steps))
        stats.append(_statistics(schema, rng, part, steps, layers))
        used.append(steps_table([_used(int(step), steps) for step in part]))
    return used.close(), stats.close()


def _used(step: int, steps: int) -> HyperParams:
    loss = 2.3 * float(np.exp(-3 * step / steps))
    lr, epoch = 0.1 * float(np.sin(np.pi * step / steps)), step // 1000
    return HyperParams(step, epoch, "0", lr, 0.9, 0.0, 64, loss, loss, time=float(step))


def _statistics(
    schema: pa.Schema,
    rng: np.random.Generator,
    part: npt.NDArray[np.int64],
    steps: int,
    layers: int,
) -> pa.Table:
    rows = len(part) * layers
    step, layer = np.repeat(part, layers), np.tile(np.arange(layers), len(part))
    scale = (0.3 + 0.12 * layer) * (1 + 2 * np.exp(-8 * step / steps))
    hist = _histograms(rng, scale, rectified=layer % 2 == 0)
    known: dict[str, npt.NDArray[np.int64] | npt.NDArray[np.float64]] = {
        "step": step,
        "count": hist.sum(axis=1),
        "nonfinite": np.zeros(rows, np.int64),
        "min": -scale,
        "max": 3 * scale,
        "above": hist[:, HIST_BINS // 2 + 4 :].sum(axis=1),
    }
    names = [f"features.{number}.activation" for number in range(layers)]
    columns = {
        "layer": pa.DictionaryArray.from_arrays(layer.astype(np.int32), names),
        "mode": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["train"]),
        "hist": pa.FixedSizeListArray.from_arrays(pa.array(hist.ravel()), HIST_BINS),
    }
    for name in schema.names:
        if name not in columns:
            # Means and shares: what they are does not matter here.
            columns[name] = pa.array(known.get(name, scale * rng.random(rows) / 4))
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _histograms(
    rng: np.random.Generator, scale: npt.NDArray[np.float64], rectified: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """(rows, bins): normal distributions of these scales, with the noise that counts have."""
    middles = np.append(HIST_EDGES, 10.25) - 0.125
    density = np.exp(-0.5 * (middles / scale[:, None]) ** 2)
    expected = COUNT * density / density.sum(axis=1, keepdims=True)
    expected[rectified, : HIST_BINS // 2] = 0
    noise = np.sqrt(expected) * rng.standard_normal(expected.shape, dtype=np.float32)
    counts: npt.NDArray[np.int64] = np.maximum(expected + noise, 0).round().astype(np.int64)
    return counts


def timed(work: Callable[[], object]) -> Figures:
    """Seconds of the clock and of all threads."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - clock, "CPU seconds": time.process_time() - processor}


def measure(folder: Path, steps: int, layers: int, rounds: int) -> dict[str, list[float]]:
    """Times of reading, and of reading and drawing, by name and round."""
    used, stats = write_tables(folder, steps, layers)

    def reading() -> Figures:
        return timed(lambda: (read_step_columns(used), read_columns(stats)))

    def whole() -> Figures:
        return timed(lambda: list(draw(used, stats, (), folder / "pictures")))

    return interleaved({"reading": reading, WHOLE: whole}, rounds)


def verdict(series: Mapping[str, Sequence[float]]) -> str:
    """What is wanted, and the median of what came out."""
    seconds, processor = (
        statistics.median(series[f"{WHOLE}: {figure}"]) for figure in ("seconds", "CPU seconds")
    )
    return (
        f"Reading and drawing takes {seconds:.1f} s and {processor:.1f} CPU seconds "
        f"(wanted: at most {WITHIN:.0f} s)."
    )


@click.command()
@click.option("--rounds", default=5)
@click.option("--steps", default=100_000)
@click.option("--layers", default=20)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=RESULTS)
def main(rounds: int, steps: int, layers: int, output: Path) -> None:
    """Write a table, read and draw it, and write benchmarks/results/pictures.md."""
    with tempfile.TemporaryDirectory(prefix="layerscope-bench-") as folder:
        series = measure(Path(folder), steps, layers, rounds)
        pictures = sorted(Path(folder, "pictures").rglob("*.png"))
        sizes = [path.stat().st_size / 1000 for path in pictures]
    size = f"{steps:,} steps, {layers} layers, {steps * layers:,} rows"
    drawn = f"{len(sizes)} pictures, {sum(sizes):.0f} kB, the largest {max(sizes):.0f} kB"
    rows = [verdict(series), "", f"{size}; {drawn}.", "", *summary_table("seconds", series)]
    command = f"python -m benchmarks.pictures --rounds {rounds} --steps {steps} --layers {layers}"
    write_report(output, "Pictures of long runs", command, rows)


if __name__ == "__main__":
    main()
