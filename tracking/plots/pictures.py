"""The pictures of a recorded run, drawn from its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tracking.plots.figures import color_dim_figure, layer_stats_figure, save, schedule_figure
from tracking.tables.columns import read_columns
from tracking.tables.step_columns import read_step_columns

__all__ = ["color_dim_file", "draw"]


def draw(
    steps_path: Path, stats_path: Path, layers: Sequence[str], directory: Path
) -> Iterator[tuple[Path, str]]:
    """Draw one picture after another below ``directory``.

    Gives each picture's path and the run's folder for it, which are alike below ``directory``. A
    table without rows has no picture. Raises RecordsDamaged: a table cannot be read.
    """
    steps, columns = read_step_columns(steps_path), read_columns(stats_path, layers=layers)
    if len(steps):
        picture = directory / "hyperparameters" / "schedule.png"
        yield save(schedule_figure(steps), picture), "hyperparameters"
    if not any(map(len, columns.values())):
        return
    folder = directory / "activations"
    yield save(color_dim_figure(columns), folder / "color_dim.png"), "activations"
    yield save(layer_stats_figure(columns), folder / "layer_stats.png"), "activations"
    for layer, own in columns.items():
        picture = folder / "color_dim" / color_dim_file(layer)
        yield save(color_dim_figure({layer: own}), picture), "activations/color_dim"


def color_dim_file(layer: str) -> str:
    """The file name of a layer's picture; separators cannot be part of a file name."""
    return f"{layer.replace('/', '_')}.png"
