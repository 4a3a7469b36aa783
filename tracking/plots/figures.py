"""Pictures: colour-dim, layer curves, schedules, the learning-rate range test.

Figures are built without pyplot, so nothing is global and nothing stays open. They are drawn from
columns that sum neighbouring steps (tracking/tables/columns.py), never from whole tables::

    columns = read_columns(Path("records/activations/stats.parquet"))
    save(color_dim_figure(columns), Path("color_dim.png"))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from PIL import Image

from tracking.plots.color_dim import NAME, PIXELS, color_dim_figure
from tracking.short_names import short
from tracking.tables.layer_columns import LayerColumns
from tracking.tables.step_columns import StepColumns

__all__ = [
    "color_dim_figure",
    "layer_stats_figure",
    "lr_range_figure",
    "save",
    "schedule_figure",
]

COMPRESSION = 3
"""Of zlib: less than half the time of the default, for files that are a fifth larger."""
FAR = 1000.0
"""Times the usual size: where a curve goes beyond, it hides all others on a linear scale."""
STEPS = (1, 2, 5, 10)
"""Between numbers on an axis, times a power of ten: others have more digits."""
CURVES = (
    ("mean", "mean"),
    ("std", "standard deviation"),
    ("near_zero", "share near zero"),
    ("dead_channels", "share of dead channels"),
)
SHARES = {"near_zero", "dead_channels"}


def save(figure: Figure | Image.Image, path: Path) -> Path:
    """Write a figure as PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(figure, Figure):
        width, height = figure.get_size_inches()
        dpi = min(110.0, math.sqrt(PIXELS / (width * height)))
        figure.savefig(path, dpi=dpi, pil_kwargs={"compress_level": COMPRESSION})
    else:
        figure.save(path, compress_level=COMPRESSION)
    return path


def layer_stats_figure(layers: Mapping[str, LayerColumns]) -> Figure:
    """Mean, standard deviation, share near zero and share of dead channels against the step."""
    names = [short(layer, NAME) for layer in layers]
    per_row = max(1, min(5, int(10.5 / (0.6 + 0.08 * max(map(len, names), default=1)))))
    legend = 0.3 + 0.21 * math.ceil(len(names) / per_row)
    figure, height = Figure(figsize=(11, 6.8 + legend)), 6.8 + legend
    bottom = (legend + 0.5) / height
    places = {"left": 0.085, "right": 0.98, "top": 1 - 0.3 / height, "bottom": bottom}
    axes = figure.subplots(2, 2, sharex=True, gridspec_kw=places | {"wspace": 0.2}).ravel()
    for position, (one, name) in enumerate(zip(layers.values(), names, strict=True)):
        steps, color = one.middle, _color(position, len(layers))
        for ax, (curve, _) in zip(axes, CURVES, strict=True):
            values = getattr(one, curve)
            ax.plot(steps, values, _line(steps), color=color, label=name, linewidth=1.2)
    for ax, (curve, title) in zip(axes, CURVES, strict=True):
        ax.set_title(title)
        _scales(ax, share=curve in SHARES)
    for ax in axes[2:]:
        ax.set_xlabel("step")
        ax.set_ylim(-0.02, 1.02)
    handles, labels = axes[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="lower center", ncols=per_row)
    return figure


def schedule_figure(steps: StepColumns) -> Figure:
    """Learning rate, momentum and training loss as they were used, against the step."""
    figure = Figure(figsize=(9, 8))
    places = {"left": 0.13, "right": 0.98, "top": 0.98, "bottom": 0.07, "hspace": 0.1}
    axes = figure.subplots(3, 1, sharex=True, gridspec_kw=places)
    curves = [
        ("lr", "learning rate", "C0"),
        ("momentum", "momentum", "C1"),
        ("loss", "training loss", "C3"),
    ]
    x = steps.step
    for ax, (column, label, color) in zip(axes, curves, strict=True):
        pale = 0.35 if column == "loss" else 1.0
        y = getattr(steps, column)
        ax.plot(x, y, _line(x), color=color, alpha=pale, linewidth=1.2, label=label)
        if column == "loss":
            ax.plot(x, steps.loss_smooth, _line(x), color=color, label="smoothed")
            ax.legend()
            ax.set_xlabel("step")
        ax.set_ylabel(label)
        _scales(ax)
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


def _scales(ax: Axes, *, share: bool = False) -> None:
    """A grid, and few numbers on the axes, which take most of the time that a picture takes.

    The scale is that of what is drawn; a ``share`` has always the same.
    """
    ax.grid(alpha=0.3)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=STEPS))
    values = [y for line in ax.lines for y in np.asarray(line.get_ydata(), np.float64) if y]
    sizes = np.abs([y for y in values if math.isfinite(y)])
    if len(sizes) and not share and sizes.max() > FAR * np.median(sizes):
        _from_usual_to_far(ax, float(np.median(sizes)), sizes.max(), min(values) < 0)
    else:
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))


def _from_usual_to_far(ax: Axes, usual: float, most: float, below: bool) -> None:
    """Linear up to the usual size, logarithmic beyond: a run that diverges is seen doing it."""
    ax.set_yscale("symlog", linthresh=usual)
    first, last = math.ceil(math.log10(usual)), math.floor(math.log10(most))
    stride = max(1, (last - first) // 4)
    powers = [10.0**power for power in range(last, first, -stride)]
    ax.yaxis.set_major_locator(FixedLocator([*([-p for p in powers] if below else []), 0, *powers]))
    ax.yaxis.set_minor_locator(NullLocator())


def _color(position: int, count: int) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    # From the input's side (dark) to the output's side (bright), so depth can be read off.
    red, green, blue, alpha = colormaps["plasma"](0.85 * position / max(1, count - 1))
    return red, green, blue, alpha


def _line(steps: npt.NDArray[Any]) -> str:
    """A line has no length where there is only one step."""
    return "o" if len(steps) == 1 else "-"
