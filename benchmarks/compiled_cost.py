"""What does recording cost a model under torch.compile? simple_cnn on Fashion-MNIST, on the CPU.

    python -m benchmarks.compiled_cost [--rounds 5] [--epochs 3]

Trainings take turns every few steps (benchmarks/turns.py), compiled and not, recorded and not. A
training's seconds have in them what compiling its model takes, most of which torch finds on the
disk after the round to warm up; so they are of several epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.devices import results_path
from benchmarks.timing import Target, of_figures, summary_table, targets_table, write_report
from benchmarks.turns import in_turns
from pipelines.config import RunConfig

__all__: list[str] = []

ABOUT = """\
- *recorded*: every statistic of every step of the default layers, Recorder, diagnosis, and MLflow
  logging. *unrecorded*: the same run with `record=false`. *compiled*: `compile=true`.
- Two trainings take turns every 20 steps; ratios are formed round by round.
"""
RATIOS = [
    ("recorded", "unrecorded"),
    ("recorded, compiled", "unrecorded, compiled"),
    ("unrecorded, compiled", "unrecorded"),
]


def measured(config: RunConfig, rounds: int) -> list[str]:
    """Ratios and seconds of one batch size, as Markdown."""
    print(f"-- batch {config.batch_size} --", flush=True)
    runs = {
        f"{recorded}{', compiled' if compiled else ''}": config.model_copy(
            update={"record": recorded == "recorded", "compile": compiled}
        )
        for compiled in (False, True)
        for recorded in ("recorded", "unrecorded")
    }
    turns = in_turns(runs, rounds)
    wanted = [Target(f"{over}: training", f"{under}: training") for over, under in RATIOS]
    return [
        f"## Batch {config.batch_size}",
        *targets_table(turns, wanted),
        "",
        *summary_table("seconds", of_figures(turns, "training")),
        "",
    ]


@click.command()
@click.option("--rounds", default=5, help="Measured rounds, after one to warm up.")
@click.option("--epochs", default=3)
@click.option("--batch-size", "sizes", type=int, multiple=True, default=(512, 128))
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False))
def main(rounds: int, epochs: int, sizes: Sequence[int], output: Path | None) -> None:
    """Run the variants in turn and write benchmarks/results/compiled_cost.md."""
    rows = [ABOUT]
    for size in sizes:
        options = {"batch_size": size, "epochs": epochs, "lr_max": 0.03}
        rows += measured(RunConfig(dataset="fashion-mnist", **options), rounds)
    flags = f"--rounds {rounds} --epochs {epochs}" + "".join(f" --batch-size {s}" for s in sizes)
    command = f"python -m benchmarks.compiled_cost {flags}"
    output = output or results_path("compiled_cost", "cpu")
    write_report(output, "Cost of recording a compiled model", command, rows)


if __name__ == "__main__":
    main()
