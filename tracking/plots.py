"""Pictures: colour-dim, layer curves, schedules, the learning-rate range test.

Figures are built without pyplot, so nothing is global and nothing stays open. They are drawn from
columns that sum neighbouring steps (tracking/columns.py), never from whole tables::

    columns = read_columns(Path("records/activations/stats.parquet"))
    save(color_dim_figure(columns), Path("color_dim.png"))
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tracking.columns import LayerColumns
from tracking.kernels import HIST_EDGES
from tracking.step_columns import StepColumns

__all__ = [
    "color_dim_figure",
    "layer_stats_figure",
    "lr_range_figure",
    "save",
    "schedule_figure",
]

PANEL = (5.2, 3.2)
"""Inches; with its titles, labels and colour bar."""
PANEL_COLUMNS = 400
"""A panel among others has no more pixels, and each column takes time."""
OUTER = 0.75
"""Height of the rows for what is below -10 and above 10: enough for a label of their own."""
PIXELS = 40e6
"""A picture of a thousand layers must not need gigabytes: it gets fewer dots per inch."""
NAME = 46
"""Letters of a layer's name that fit on one line."""
CURVES = (
    ("mean", "mean"),
    ("std", "standard deviation"),
    ("near_zero", "share near zero"),
    ("dead_channels", "share of dead channels"),
)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = figure.get_size_inches()
    figure.savefig(path, dpi=min(110.0, math.sqrt(PIXELS / (width * height))))
    return path


def color_dim_figure(layers: Mapping[str, LayerColumns]) -> Figure:
    """Colour-dim: x = recorded step of training, y = activation, colour = log(1 + count).

    One panel for each layer. The lowest row of a panel holds what is below -10, the highest what
    is above 10, so an exploding layer stays in the picture; rows that stay empty throughout are
    cut off at the top and the bottom. Source of the idea: Stefano Giomo, fastai forum, 2018.
    """
    columns = min(len(layers), max(3, math.ceil(math.sqrt(len(layers) / 3)))) or 1
    rows = math.ceil(len(layers) / columns) or 1
    width, height = (9.0, 5.0) if len(layers) == 1 else PANEL
    figure = Figure(figsize=(width * columns, height * rows))
    # Places in inches: matplotlib's layout engines take a minute for a hundred panels.
    for position, one in enumerate(layers.values()):
        row, column = divmod(position, columns)
        left, bottom = column * width + 0.7, (rows - 1 - row) * height + 0.55
        place = (left, bottom, width - 1.75, height - 0.98)
        sides = (width * columns, height * rows) * 2
        ax = figure.add_axes(tuple(np.divide(place, sides)))
        _color_dim(figure, ax, one if len(layers) == 1 else one.joined(PANEL_COLUMNS))
    return figure


def layer_stats_figure(layers: Mapping[str, LayerColumns]) -> Figure:
    """Mean, standard deviation, share near zero and share of dead channels against the step."""
    names = [_short(layer) for layer in layers]
    per_row = max(1, min(5, int(10.5 / (0.6 + 0.08 * max(map(len, names), default=1)))))
    height = 6.8 + 0.21 * math.ceil(len(names) / per_row)
    figure = Figure(figsize=(11, height), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).ravel()
    for position, (one, name) in enumerate(zip(layers.values(), names, strict=True)):
        steps, color = one.middle, _color(position, len(layers))
        for ax, (curve, _) in zip(axes, CURVES, strict=True):
            values = getattr(one, curve)
            ax.plot(steps, values, _line(steps), color=color, label=name, linewidth=1.2)
    for ax, (_, title) in zip(axes, CURVES, strict=True):
        ax.set_title(title)
        ax.grid(alpha=0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in axes[2:]:
        ax.set_xlabel("step")
        ax.set_ylim(-0.02, 1.02)
    handles, labels = axes[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=per_row)
    return figure


def schedule_figure(steps: StepColumns) -> Figure:
    """Learning rate, momentum and training loss as they were used, against the step."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    curves = [
        ("lr", "learning rate", "C0"),
        ("momentum", "momentum", "C1"),
        ("loss", "training loss", "C3"),
    ]
    x = steps.step
    for ax, (column, label, color) in zip(figure.subplots(3, 1, sharex=True), curves, strict=True):
        pale = 0.35 if column == "loss" else 1.0
        y = getattr(steps, column)
        ax.plot(x, y, _line(x), color=color, alpha=pale, linewidth=1.2, label=label)
        if column == "loss":
            ax.plot(x, steps.loss_smooth, _line(x), color=color, label="smoothed")
            ax.legend()
            ax.set_xlabel("step")
        ax.set_ylabel(label)
        ax.grid(alpha=0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def lr_range_figure(
    lrs: Sequence[float],
    losses: Sequence[float],
    suggestions: Mapping[str, float],
) -> Figure:
    """Smoothed loss against the learning rate (logarithmic), with the suggestions marked."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    ax = figure.subplots()
    ax.plot(lrs, losses, color="0.25")
    for index, (name, lr) in enumerate(suggestions.items()):
        height = float(np.interp(math.log(lr), np.log(lrs), losses))
        ax.plot([lr], [height], "o", color=f"C{index}", label=f"{name}: {lr:.2e}")
    ax.set_xscale("log")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("training loss (smoothed)")
    ax.grid(alpha=0.3, which="both")
    if suggestions:
        ax.legend(title="suggestions")
    return figure


def _color_dim(figure: Figure, ax: Axes, layer: LayerColumns) -> None:
    ax.set_title("\n".join(textwrap.wrap(_short(layer.layer, 2 * NAME), NAME)), fontsize=10)
    ax.set_xlabel("step")
    ax.set_ylabel("activation")
    if not len(layer):
        ax.text(0.5, 0.5, "nothing recorded", ha="center", transform=ax.transAxes)
        return
    low, high = layer.used_bins
    # The two outer bins have no width of their own: they are drawn as one row each.
    edges = np.concatenate([[-10.0 - OUTER], HIST_EDGES, [10.0 + OUTER]])[low : high + 1]
    colors = np.log1p(layer.hist[:, low:high].T)
    mesh = ax.pcolormesh(layer.edges, edges, colors, cmap="viridis", vmin=0, vmax=colors.max() or 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label_outer_rows(ax, edges)
    bar = ax.inset_axes((1.02, 0.0, 0.2 / ax.get_position().width / figure.get_figwidth(), 1.0))
    figure.colorbar(mesh, cax=bar, label="log(1 + count)")


def _label_outer_rows(ax: Axes, edges: npt.NDArray[np.float64]) -> None:
    inner = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(
        max(edges[0], -10.0), min(edges[-1], 10.0)
    )
    ticks = {tick: f"{tick:g}" for tick in inner if edges[0] <= tick <= edges[-1]}
    for sign, text, edge in ((-1, "< -10", edges[0]), (1, "> 10", edges[-1])):
        if abs(edge) > 10:
            # Its label takes the place of the nearest one of the scale.
            ticks = {tick: label for tick, label in ticks.items() if sign * tick < 9}
            ticks[sign * (10 + OUTER / 2)] = text
            ax.axhline(sign * 10, color="white", linewidth=0.6)
    ax.set_yticks(list(ticks), labels=list(ticks.values()))
    ax.set_ylim(edges[0], edges[-1])


def _color(position: int, count: int) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    # From the input's side (dark) to the output's side (bright), so depth can be read off.
    red, green, blue, alpha = colormaps["plasma"](0.85 * position / max(1, count - 1))
    return red, green, blue, alpha


def _line(steps: npt.NDArray[Any]) -> str:
    """A line has no length where there is only one step."""
    return "o" if len(steps) == 1 else "-"


def _short(name: str, letters: int = NAME) -> str:
    """A long name without its middle: the beginning says where, the end says what."""
    half = (letters - 1) // 2
    return name if len(name) <= letters else f"{name[:half]}…{name[-half:]}"
