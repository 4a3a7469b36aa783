"""Tables to draw, of real runs and made by hand, and what a figure shows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from tracking import ActivationStats, Recorder
from tracking.plots.figures import save
from tracking.records import LayerStats
from tracking.tables.columns import ColumnsBuilder, LayerColumns
from tracking.tables.record_file import RecordFile
from tracking.tables.schemas import StatsSettings, stats_table, steps_schema
from tracking.tables.step_columns import StepColumns, read_step_columns

__all__ = ["LAYERS", "TABLES", "columns", "drawn", "row", "run", "steps_of", "table"]

LAYERS = ("relu1", "relu2", "head")


@cache
def run(kind: str) -> tuple[pa.Table, pa.Table]:
    """Statistics and steps of a short training on digits: healthy, collapsing, or exploding."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.from_numpy(digits.images).float().div(16).flatten(1)
    y = torch.from_numpy(digits.target)
    model = nn.Sequential()
    for name, layer in (
        *(("fc1", nn.Linear(64, 32)), ("relu1", nn.ReLU())),
        *(("fc2", nn.Linear(32, 16)), ("relu2", nn.ReLU()), ("head", nn.Linear(16, 10))),
    ):
        model.add_module(name, layer)
    lr = {"healthy": 0.01, "collapsing": 3.0, "exploding": 0.01}[kind]
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    with (
        Recorder(optimizer) as recorder,
        ActivationStats(model, optimizer=optimizer, record_eval=True) as stats,
    ):
        for step in range(60):
            scale = 1.2**step if kind == "exploding" else 1.0
            batch = slice(30 * (step % 50), 30 * (step % 50) + 30)
            loss = F.cross_entropy(model(x[batch] * scale), y[batch])
            optimizer.zero_grad()
            loss.backward()
            recorder.note(loss=loss, batch_size=30)
            optimizer.step()
        model.eval()
        model(100 * x)
    return stats.read(), recorder.read()


def row(step: int, layer: str = "relu", **changed: Any) -> LayerStats:
    hist = np.bincount([41, 41, 44, 50], minlength=82)
    usual = LayerStats(step, layer, "train", 4, 0.5, 0.3, 0.0, 2.5, 0.5, 1, 0.5, 0.0, 0, hist, 0.0)
    return dataclasses.replace(usual, **changed)


def columns(
    stats: pa.Table, layers: Sequence[str] = LAYERS, limit: int = 1200
) -> dict[str, LayerColumns]:
    """A table's columns, as they are drawn."""
    builder = ColumnsBuilder(limit)
    builder.add(stats, Path("stats.parquet"))
    return builder.columns(layers)


def steps_of(steps: pa.Table) -> StepColumns:
    """A table of hyperparameters, as it is drawn."""
    file = RecordFile("steps.parquet", steps_schema())
    file.append(steps)
    return read_step_columns(file.close())


def table(*records: LayerStats) -> pa.Table:
    return stats_table(records, StatsSettings(0.05, 1.0, "activations", "1"))


def drawn(figure: Figure | Image.Image, path: Path) -> np.ndarray:
    """The picture's pixels, which must not be of one colour."""
    pixels = imread(save(figure, path))
    assert pixels[..., :3].std() > 0.01
    return pixels


NAN_LAYER = {
    **dict.fromkeys(("mean", "std", "min", "max", "near_zero")),
    "hist": np.zeros(82, np.int64),
    "nonfinite": 4,
}
TABLES: dict[str, Sequence[LayerStats]] = {
    "empty": [],
    "one step": [row(0)],
    "one late step": [row(10**9)],
    "all NaN": [row(i, **NAN_LAYER) for i in range(3)],
    "NaN at last": [row(0), row(1, **NAN_LAYER), row(2)],
    "no channels": [row(i, dead_channels=None) for i in range(3)],
    "infinite": [row(0), row(1, mean=math.inf, std=math.nan)],
    "all in one bin": [row(i, hist=np.bincount([81], minlength=82)) for i in range(2)],
    "another layer only": [row(0, "other")],
    "evaluation only": [row(0, mode="eval")],
}
