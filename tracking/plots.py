"""Pictures: colour-dim, layer curves, schedules, the learning-rate range test.

Figures are built without pyplot, so nothing is global and nothing stays open. A long run is drawn
from columns that sum neighbouring steps: a picture has so many pixels, not more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tracking.kernels import HIST_EDGES

__all__ = [
    "color_dim_figure",
    "layer_stats_figure",
    "lr_range_figure",
    "save",
    "schedule_figure",
]

COLUMNS = 800
CURVES = (
    ("mean", "mean"),
    ("std", "standard deviation"),
    ("near_zero", "share near zero"),
    ("dead_channels", "share of dead channels"),
)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def color_dim_figure(stats: pa.Table, layers: Sequence[str]) -> Figure:
    """Colour-dim: x = recorded step, y = activation, colour = log(1 + count).

    One panel for each layer. The lowest row of a panel holds what is below -10, the highest what
    is above 10, so an exploding layer stays in the picture; rows that stay empty throughout are
    cut off at the top and the bottom. Source of the idea: Stefano Giomo, fastai forum, 2018.
    """
    columns = min(len(layers), 1 if len(layers) == 1 else 3)
    rows = math.ceil(len(layers) / columns)
    size = (9.0, 5.0) if len(layers) == 1 else (5.2 * columns, 3.2 * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, layer in zip(axes, layers, strict=False):
        _color_dim(figure, ax, stats.filter(pc.equal(stats["layer"], layer)), layer)
    for ax in axes[len(layers) :]:
        ax.set_visible(False)
    return figure


def layer_stats_figure(stats: pa.Table, layers: Sequence[str]) -> Figure:
    """Mean, standard deviation, share near zero and share of dead channels against the step."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).ravel()
    for position, layer in enumerate(layers):
        rows = stats.filter(pc.equal(stats["layer"], layer))
        steps = rows["step"].to_numpy()
        color = _color(position, len(layers))
        for ax, (column, _) in zip(axes, CURVES, strict=True):
            values = rows[column].to_numpy(zero_copy_only=False).astype(float)
            ax.plot(*_thinned(steps, values), color=color, label=layer, linewidth=1.2)
    for ax, (_, title) in zip(axes, CURVES, strict=True):
        ax.set_title(title)
        ax.grid(alpha=0.3)
    for ax in axes[2:]:
        ax.set_xlabel("step")
        ax.set_ylim(-0.02, 1.02)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, max(1, len(labels))))
    return figure


def schedule_figure(steps: pa.Table) -> Figure:
    """Learning rate, momentum and training loss as they were used, against the step."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    curves = [
        ("lr", "learning rate", "C0"),
        ("momentum", "momentum", "C1"),
        ("loss", "training loss", "C3"),
    ]
    first = steps.filter(pc.equal(steps["group"], steps["group"][0])) if len(steps) else steps
    x = first["step"].to_numpy()
    for ax, (column, label, color) in zip(figure.subplots(3, 1, sharex=True), curves, strict=True):
        values = first[column].to_numpy(zero_copy_only=False).astype(float)
        pale = 0.35 if column == "loss" else 1.0
        ax.plot(x, values, color=color, alpha=pale, linewidth=1.2, label=label)
        if column == "loss":
            smooth = first["loss_smooth"].to_numpy(zero_copy_only=False).astype(float)
            ax.plot(x, smooth, color=color, label="smoothed")
            ax.legend()
            ax.set_xlabel("step")
        ax.set_ylabel(label)
        ax.grid(alpha=0.3)
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


def _color_dim(figure: Figure, ax: Axes, rows: pa.Table, layer: str) -> None:
    ax.set_title(layer)
    ax.set_xlabel("step")
    ax.set_ylabel("activation")
    if not len(rows):
        ax.text(0.5, 0.5, "nothing recorded", ha="center", transform=ax.transAxes)
        return
    steps, counts = _columns(rows)
    used = np.flatnonzero(counts.any(axis=0))
    low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, counts.shape[1])
    # The two outer bins have no width of their own: they are drawn as one row each.
    edges = np.concatenate([[-10.25], HIST_EDGES, [10.25]])[low : high + 1]
    mesh = ax.pcolormesh(steps, edges, np.log1p(counts[:, low:high].T), cmap="viridis", vmin=0)
    for bin_, edge, text in ((0, -10.0, "below"), (counts.shape[1] - 1, 10.0, "above")):
        if low <= bin_ < high:
            ax.axhline(edge, color="white", linewidth=0.6)
            ax.annotate(
                f"{text} {edge:g}", (steps[0], edge), color="white", fontsize=7, va="center"
            )
    figure.colorbar(mesh, ax=ax, label="log(1 + count)")


def _columns(rows: pa.Table) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Edges of the columns in steps (n + 1), and the histograms (n, bins) summed into them."""
    steps = rows["step"].to_numpy()
    hist = rows["hist"].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
    width = -(-len(steps) // COLUMNS)
    starts = np.arange(0, len(steps), width)
    gap = float(steps[-1] - steps[-2]) if len(steps) > 1 else 1.0
    edges = np.append(steps[starts], steps[-1] + gap).astype(np.float64)
    return edges, np.add.reduceat(hist, starts, axis=0)


def _thinned(
    steps: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means over neighbouring steps, so that a line has at most COLUMNS points."""
    width = -(-len(steps) // COLUMNS) or 1
    starts = np.arange(0, len(steps), width)
    sizes = np.diff(np.append(starts, len(steps)))
    sums = [np.add.reduceat(x, starts) if len(x) else x for x in (steps.astype(float), values)]
    return sums[0] / sizes, sums[1] / sizes


def _color(position: int, count: int) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    # From the input's side (dark) to the output's side (bright), so depth can be read off.
    red, green, blue, alpha = colormaps["plasma"](0.85 * position / max(1, count - 1))
    return red, green, blue, alpha
