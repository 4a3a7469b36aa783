"""How fast is training? Against a bare hand-written loop, and with recording against without.

    python -m benchmarks.training_speed [--rounds 5] [--dataset fashion-mnist] [--epochs 2]

One variant is one training of `simple_cnn` at batch size 512: the bare loop is what one would write
by hand over tensors in memory, with the same model, optimizer and data; the trainer adds schedule,
loss guard and the other callbacks of every run. `recorded` has every statistic of every step and
MLflow logging on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import mlflow
import torch
from rich.console import Console
from torch.nn import functional as F

from benchmarks.timing import interleaved, ratios_table, write_report
from pipelines.callbacks import LossGuard
from pipelines.config import RunConfig
from pipelines.progress import ProgressReport
from pipelines.recording import EpochMetrics
from pipelines.run import Setup, prepare, train
from pipelines.schedules import make_schedule
from tracking.session import tracked_run
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
        for index in order.split(setup.config.batch_size):
            x = images[index].float().sub_(mean).div_(std).contiguous(memory_format=layout)
            loss = F.cross_entropy(model(x), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.perf_counter() - began


def trainer_alone(setup: Setup, epochs: int) -> float:
    """The trainer's own time for its epochs, validation left out."""
    callbacks = [LossGuard(), EpochMetrics(NullSink()), ProgressReport(Console(quiet=True))]
    fit = setup.trainer(callbacks).fit(epochs, lambda steps: make_schedule(setup.config, steps))
    return sum(len(setup.data.train) / epoch.samples_per_second for epoch in fit.history)


def whole_run(config: RunConfig, training_seconds: list[float]) -> float:
    """Train and log to a fresh SQLite store; the training loop's own share is appended."""
    setup = prepare(config)
    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.MlflowClient().create_experiment("bench", f"{folder}/artifacts")
        began = time.perf_counter()
        with tracked_run("bench") as tracked:
            result = train(setup, tracked.directory, sink=tracked.sink)
        seconds = time.perf_counter() - began
    images = len(setup.data.train)
    training_seconds.append(sum(images / epoch.samples_per_second for epoch in result.history))
    return seconds


@click.command()
@click.option("--rounds", default=5)
@click.option("--dataset", default="fashion-mnist")
@click.option("--epochs", default=2)
def main(rounds: int, dataset: str, epochs: int) -> None:
    """Run the variants in turn and write benchmarks/results/training_speed.md."""
    options = {"dataset": dataset, "batch_size": 512, "epochs": epochs, "lr_max": 0.03}
    rows = RunConfig(**options, record=False, channels_last=False)
    last = RunConfig(**options, record=False)
    recorded = RunConfig(**options)
    bare_training: list[float] = []
    recorded_training: list[float] = []
    variants: dict[str, Callable[[], float]] = {
        "bare loop": lambda: bare_loop(prepare(rows), epochs),
        "trainer": lambda: trainer_alone(prepare(rows), epochs),
        "bare loop, channels_last": lambda: bare_loop(prepare(last), epochs),
        "trainer, channels_last": lambda: trainer_alone(prepare(last), epochs),
        "unrecorded: whole run": lambda: whole_run(last, bare_training),
        "recorded: whole run": lambda: whole_run(recorded, recorded_training),
    }
    seconds = interleaved(variants, rounds)
    # The warm-up round comes first in both.
    seconds["unrecorded: training"] = bare_training[-rounds:]
    seconds["recorded: training"] = recorded_training[-rounds:]
    title = f"Training speed: simple_cnn, batch 512, {dataset}, {epochs} epochs"
    command = f"python -m benchmarks.training_speed --rounds {rounds} --dataset {dataset}"
    write_report(RESULTS, title, f"{command} --epochs {epochs}", ratios_table(seconds, PAIRS))


if __name__ == "__main__":
    main()
