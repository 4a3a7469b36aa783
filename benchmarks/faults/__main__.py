"""Is the diagnosis right? Trainings with planted faults and healthy ones, diagnosed and judged.

    python -m benchmarks.faults [--half tuning|held-out|both] [--only FAULT] [--keep FOLDER]

Needs Fashion-MNIST where the project looks for it. The tuning half sets the thresholds of the
rules; the held-out half judges them.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from benchmarks.faults.cases import FAULTS, HALVES, all_cases
from benchmarks.faults.report import report
from benchmarks.faults.rounds import judged_cases
from benchmarks.timing import write_report

__all__: list[str] = []

RESULTS = Path(__file__).parents[1] / "results" / "faults.md"


@click.command()
@click.option("--half", type=click.Choice([*HALVES, "both"]), default="both")
@click.option("--only", type=click.Choice([*FAULTS, "healthy"]), help="One kind of case.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Leave the records there; runs whose records are there already are not done again.",
)
@click.option("--remedies/--no-remedies", default=True, help="Run again with the first remedy.")
@click.option("--workers", default=2, help="Trainings at a time.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=RESULTS)
def main(
    half: str, only: str | None, keep: Path | None, remedies: bool, workers: int, output: Path
) -> None:
    """Run the cases and write benchmarks/results/faults.md."""
    cases = all_cases(half, only or "")
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        judged = judged_cases(cases, folder, workers, remedies)
    command = f"python -m benchmarks.faults --half {half}"
    command += f" --only {only}" if only else ""
    command += "" if remedies else " --no-remedies"
    write_report(output, "Is the diagnosis right?", command, report(judged))


if __name__ == "__main__":
    main()
