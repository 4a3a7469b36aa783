"""How well a score on the way predicts the end, and what pruning by it saves, on Fashion-MNIST.

    python -m benchmarks.pruning [--configs 100] [--seed 4] [--studies 60]

The configurations are recorded first (15 seconds to a minute each; what is in ``--curves`` already
is kept), then replayed, which takes minutes. Nothing here is timed: the machine may do other things
meanwhile.
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
@click.option("--configs", default=100)
@click.option("--seed", default=4, help="Of the configurations.")
@click.option("--studies", default=60, help="Study seeds that are replayed.")
@click.option("--curves", type=click.Path(path_type=Path), help="Default: one file for each seed.")
@click.option("--output", type=click.Path(path_type=Path), help="Default: one file for each seed.")
def main(configs: int, seed: int, studies: int, curves: Path | None, output: Path | None) -> None:
    """Record what is missing, replay, and write benchmarks/results/pruning_SEED.md."""
    curves = curves or RESULTS / f"pruning_curves_{seed}.jsonl"
    output = output or RESULTS / f"pruning_{seed}.md"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for curve in record(configs, seed, curves):
        print(f"{curve['config']['schedule']:<16} {curve['final']}", flush=True)
    rows = report_rows(read(curves)[:configs], studies)
    command = f"python -m benchmarks.pruning --configs {configs} --seed {seed} --studies {studies}"
    write_report(output, "Pruning that knows the schedule", command, rows)


if __name__ == "__main__":
    main()
