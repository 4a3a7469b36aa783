"""What benchmarks that may run on another device than the CPU have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

__all__ = ["device_flag", "device_options", "results_path"]


def device_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``device``, ``data_dir`` and ``output``, which is None unless it is given."""
    for option in (
        click.option("--output", type=click.Path(path_type=Path, dir_okay=False)),
        click.option("--data-dir", type=click.Path(path_type=Path), default=Path("data")),
        click.option("--device", default="cpu", help="cpu, cuda, cuda:1."),
    ):
        command = option(command)
    return command


def device_flag(device: str) -> str:
    """What the command that is shown with the results says of the device."""
    return "" if device == "cpu" else f" --device {device}"


def results_path(name: str, device: str) -> Path:
    """Where a benchmark's results lie: those of accelerators beside those of the CPU."""
    suffix = "" if device == "cpu" else f"_{torch.device(device).type}"
    return Path(__file__).parent / "results" / f"{name}{suffix}.md"
