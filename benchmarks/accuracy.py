"""Test accuracy on Fashion-MNIST after five epochs, over several seeds.

    python -m benchmarks.accuracy simple_cnn resnet_small [--seeds 3] [--epochs 5] [--device cpu]

`simple_cnn` has its default architecture. Test data is read once, at the end of each run.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.devices import device_flag, device_options, results_path
from benchmarks.timing import summary_table, write_report
from pipelines.config import RunConfig
from pipelines.run import prepare, train

SHARED = {"dataset": "fashion-mnist", "valid_fraction": 0.02, "record": False}
SETTINGS: dict[str, dict[str, Any]] = {
    "simple_cnn": {"batch_size": 128, "lr_max": 0.03},
    "resnet_small": {
        "batch_size": 96,
        "lr_max": 0.023,
        "pct_start": 0.15,
        "momentum_min": 0.9,
        "beta2": 0.95,
        "weight_decay": 0.025,
        "label_smoothing": 0.1,
        "augment": "flip",
        "activation": "silu",
        "init": "kaiming",
    },
}


def measure(model: str, **options: Any) -> float:
    """Per cent of the test images that a freshly trained model gets right."""
    config = RunConfig(**SHARED, **SETTINGS[model], model=model, **options)
    with tempfile.TemporaryDirectory() as folder:
        result = train(prepare(config), Path(folder))
    assert result.test is not None
    return 100 * result.test.accuracy


@click.command()
@click.argument("models", nargs=-1, type=click.Choice(list(SETTINGS)), required=True)
@click.option("--seeds", default=3)
@click.option("--epochs", default=5)
@device_options
def main(
    models: tuple[str, ...],
    seeds: int,
    epochs: int,
    device: str,
    data_dir: Path,
    output: Path | None,
) -> None:
    """Train and write benchmarks/results/accuracy_MODEL.md."""
    for model in models:
        began = time.perf_counter()
        here = {"epochs": epochs, "device": device, "data_dir": data_dir}
        accuracies = [measure(model, seed=seed, **here) for seed in range(seeds)]
        minutes = (time.perf_counter() - began) / 60
        options = ", ".join(f"{k}={v}" for k, v in (SHARED | SETTINGS[model]).items())
        rows = summary_table("test accuracy in %", {f"{model}, {epochs} epochs": accuracies})
        each = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
        rows += ["", f"By seed: {each}. {minutes:.1f} minutes in all.", "", f"Options: {options}."]
        command = f"python -m benchmarks.accuracy {model} --seeds {seeds} --epochs {epochs}"
        command += device_flag(device)
        path = output or results_path(f"accuracy_{model}", device)
        write_report(path, f"Accuracy of {model}", command, rows)


if __name__ == "__main__":
    main()
