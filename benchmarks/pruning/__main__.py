"""How well a score on the way predicts the end, and what pruning by it saves, on Fashion-MNIST.

    python -m benchmarks.pruning [--configs 210] [--seed 3] [--studies 60]

The configurations are recorded first (about a minute each on two cores; what is in ``--curves``
already is kept), then replayed, which takes minutes. Nothing here is timed: the machine may do
other things meanwhile.
"""

from __future__ import annotations

from pathlib import Path

import click
import optuna

from benchmarks.pruning.curves import read, record
from benchmarks.pruning.report import report_rows
from benchmarks.timing import write_report

RESULTS = Path(__file__).parents[1] / "results"


@click.command()
@click.option("--configs", default=210)
@click.option("--seed", default=3, help="Of the configurations.")
@click.option("--studies", default=60, help="Study seeds that are replayed.")
@click.option("--curves", type=click.Path(path_type=Path), default=RESULTS / "pruning_curves.jsonl")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS / "pruning.md")
def main(configs: int, seed: int, studies: int, curves: Path, output: Path) -> None:
    """Record what is missing, replay, and write benchmarks/results/pruning.md."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for curve in record(configs, seed, curves):
        print(f"{curve['config']['schedule']:<16} {curve['final']}", flush=True)
    rows = report_rows(read(curves)[:configs], studies)
    command = f"python -m benchmarks.pruning --configs {configs} --seed {seed} --studies {studies}"
    write_report(output, "Pruning that knows the schedule", command, rows)


if __name__ == "__main__":
    main()
