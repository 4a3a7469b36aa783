"""How fast is training? Against a bare hand-written loop, and with recording against without.

    python -m benchmarks.training_speed [--rounds 5] [--dataset fashion-mnist] [--epochs 2]

One variant is one training of `simple_cnn` at batch size 512: the bare loop is what one would write
by hand over tensors in memory, with the same model, optimizer and data; the trainer adds schedule,
loss guard and the other callbacks of every run. `recorded` has every statistic of every step and
MLflow logging on; benchmarks/recording_cost.py measures that further, and beside the peers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rich.console import Console
from torch.nn import functional as F

from benchmarks.runs import tracked_training
from benchmarks.timing import Figures, interleaved, ratios_table, write_report
from pipelines.callbacks import LossGuard
from pipelines.config import RunConfig
from pipelines.progress import ProgressReport
from pipelines.recording import EpochMetrics
from pipelines.run import Setup, prepare
from pipelines.schedules import make_schedule
from tracking.sink import NullSink

RESULTS = Path(__file__).parent / "results" / "training_speed.md"
PAIRS = [
    ("trainer", "bare loop"),
    ("trainer, channels_last", "bare loop"),
    ("trainer, channels_last", "bare loop, channels_last"),
    ("recorded: training", "unrecorded: training"),
    ("recorded: whole run", "unrecorded: whole run"),
]


def bare_loop(setup: Setup, epochs: int) -> float:
    """A loop as written by hand: no schedule, no callbacks, the loss never looked at."""
    images, labels = setup.data.train.images, setup.data.train.labels
    mean, std = 255 * setup.data.mean[0], 255 * setup.data.std[0]
    layout = torch.channels_last if setup.config.channels_last else torch.contiguous_format
    model, optimizer = setup.model, setup.optimizer
    model.train()
    began = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(labels))
        for index in torch.split(order, setup.config.batch_size):
            x = images[index].float().sub_(mean).div_(std).contiguous(memory_format=layout)
            loss = F.cross_entropy(model(x), labels[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return time.perf_counter() - began


def trainer_alone(setup: Setup, epochs: int) -> float:
    """The trainer's own time for its epochs, validation left out."""
    callbacks = [LossGuard(), EpochMetrics(NullSink()), ProgressReport(Console(quiet=True))]
    fit = setup.trainer(callbacks).fit(epochs, lambda steps: make_schedule(setup.config, steps))
    return sum(len(setup.data.train) / epoch.samples_per_second for epoch in fit.history)


@click.command()
@click.option("--rounds", default=5)
@click.option("--dataset", default="fashion-mnist")
@click.option("--epochs", default=2)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=RESULTS)
def main(rounds: int, dataset: str, epochs: int, output: Path) -> None:
    """Run the variants in turn and write benchmarks/results/training_speed.md."""
    options = {"dataset": dataset, "batch_size": 512, "epochs": epochs, "lr_max": 0.03}
    rows = RunConfig(**options, record=False, channels_last=False)
    last = RunConfig(**options, record=False)
    recorded = RunConfig(**options)
    variants: dict[str, Callable[[], float | Figures]] = {
        "bare loop": lambda: bare_loop(prepare(rows), epochs),
        "trainer": lambda: trainer_alone(prepare(rows), epochs),
        "bare loop, channels_last": lambda: bare_loop(prepare(last), epochs),
        "trainer, channels_last": lambda: trainer_alone(prepare(last), epochs),
        "unrecorded": lambda: tracked_training(last),
        "recorded": lambda: tracked_training(recorded),
    }
    series = interleaved(variants, rounds)
    counts = ("accuracy", "recorded steps")
    seconds = {name: values for name, values in series.items() if not name.endswith(counts)}
    title = f"Training speed: simple_cnn, batch 512, {dataset}, {epochs} epochs"
    command = f"python -m benchmarks.training_speed --rounds {rounds} --dataset {dataset}"
    write_report(output, title, f"{command} --epochs {epochs}", ratios_table(seconds, PAIRS))


if __name__ == "__main__":
    main()
