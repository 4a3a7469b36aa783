"""Does `every=auto:0.05` keep recording within 5 % of the time?

    python -m benchmarks.auto_interval [--rounds 5] [--steps 300] [--device cpu]

Each round trains the same model twice, without recording and with the automatic interval, Recorder
and MLflow logging included; the two take turns every few steps (benchmarks/turns.py). Recording
takes a share s of the time when the ratio of the training times is 1 / (1 - s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.devices import device_flag, device_options, results_path
from benchmarks.timing import Target, of_figures, summary_table, targets_table, write_report
from benchmarks.turns import in_turns
from pipelines.config import RunConfig

__all__: list[str] = []

SHARE = 0.05
IMAGES = 50_000
"""Training images of an epoch, at most."""
TARGET = Target("auto: training", "unrecorded: training", round(1 / (1 - SHARE), 3))


@dataclass(frozen=True)
class Case:
    """A model and a batch size; ``part`` is that of the asked-for steps which it takes."""

    model: str
    batch_size: int
    part: float = 1.0

    def config(self, steps: int, device: str, data_dir: Path) -> RunConfig:
        """A run of about that many steps."""
        images = max(1, round(steps * self.part)) * self.batch_size
        epochs = math.ceil(images / IMAGES)
        return RunConfig(
            dataset="fashion-mnist",
            valid_fraction=0.02,
            train_limit=math.ceil(images / epochs),
            model=self.model,
            batch_size=self.batch_size,
            epochs=epochs,
            lr_max=0.01,
            device=device,
            data_dir=data_dir,
            every=f"auto:{SHARE}",
        )


CASES = (Case("simple_cnn", 512), Case("simple_cnn", 128), Case("resnet_small", 64, part=0.67))


def measured(case: Case, config: RunConfig, rounds: int) -> list[str]:
    """Ratios and seconds of one case, and how many steps were recorded, as Markdown."""
    unrecorded = config.model_copy(update={"record": False})
    title = f"{case.model}, batch {case.batch_size}"
    print(f"-- {title} --", flush=True)
    series = in_turns({"unrecorded": unrecorded, "auto": config}, rounds)
    done = math.ceil(config.train_limit / case.batch_size) * config.epochs
    recorded = {f"of {done}": series["auto: recorded steps"]}
    tables = [
        targets_table(series, [TARGET]),
        summary_table("seconds", of_figures(series, "training")),
        summary_table("recorded steps", recorded),
    ]
    return [f"## {title}", "", *(row for table in tables for row in [*table, ""])]


@click.command()
@click.option("--rounds", default=5, help="Measured rounds, after one to warm up.")
@click.option("--steps", default=300, help="Optimizer steps of a run; resnet_small takes fewer.")
@device_options
def main(rounds: int, steps: int, device: str, data_dir: Path, output: Path | None) -> None:
    """Run both variants of each case in turn and write benchmarks/results/auto_interval.md."""
    cases = [(case, case.config(steps, device, data_dir)) for case in CASES]
    rows = [row for case, config in cases for row in measured(case, config, rounds)]
    command = f"python -m benchmarks.auto_interval --rounds {rounds} --steps {steps}"
    command += device_flag(device)
    output = output or results_path("auto_interval", device)
    write_report(output, f"Recording with every=auto:{SHARE}, Fashion-MNIST", command, rows)


if __name__ == "__main__":
    main()
