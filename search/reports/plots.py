"""Optuna's plots of a study as pictures.

They are drawn by ``optuna.visualization.matplotlib``, then given a size and labels that can be
read. What is drawn, and what not: plot_kinds.py. The same for the study's page: charts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.category import StrCategoryLocator
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from optuna.visualization import matplotlib as optuna_plots

from search.outcome import STATE_NAMES
from search.reports.plot_kinds import PlotKind, Snapshot, kinds_of, quiet, why_not
from tracking.reasons import one_line

__all__ = ["save_plots"]

DPI = 110
ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False}
STATES = {state.name: name for state, name in STATE_NAMES.items()} | {"INFEASIBLE": "infeasible"}
PER_ROW = 3
"""Slices side by side."""
MOST_NAMES = 10
"""Trials that a legend names."""


def save_plots(shot: Snapshot, folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Write each plot that can be drawn to ``folder/<name>.png``.

    Returns the files, and for each other plot's name the line that says why there is none.
    """
    files, problems = [], {}
    for kind in kinds_of(shot):
        problem = why_not(kind, shot)
        if not problem:
            try:
                files.append(_save(kind, shot, folder / f"{kind.name}.png"))
            except Exception as error:  # of two libraries: a picture is not worth a study's report
                problem = f"It could not be drawn: {one_line(error)}"
        if problem:
            problems[kind.name] = problem
    return files, problems


def _save(kind: PlotKind, shot: Snapshot, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet(), _pyplot():
        figure = DRAW[kind.name](shot)
        figure.savefig(path, dpi=DPI, bbox_inches="tight", pad_inches=0.15)
    return path


@contextmanager
def _pyplot() -> Iterator[None]:
    """Optuna draws by pyplot, which looks for a screen, and changes its style for everyone."""
    backend, open_before = mpl.get_backend(auto_select=False), set(plt.get_fignums())
    plt.switch_backend("agg")
    try:
        with mpl.rc_context():
            yield
    finally:
        for number in set(plt.get_fignums()) - open_before:
            plt.close(number)
        if backend is not None:
            plt.switch_backend(backend)


def _history(shot: Snapshot) -> Figure:
    ax = optuna_plots.plot_optimization_history(shot.judged, target_name=shot.labels[0])
    for line in ax.lines:
        line.set_drawstyle("steps-post")  # the best changes with a trial, not between two
    _legend(ax, ["complete trial", "best so far"])
    ax.set_xlabel("trial")
    return _sized(ax, 9, 5)


def _pareto_front(shot: Snapshot) -> Figure:
    labels = list(shot.labels)
    ax = optuna_plots.plot_pareto_front(shot.judged, target_names=labels)
    _legend(ax, [text.lower() for text in ax.get_legend_handles_labels()[1]])
    return _sized(ax, 9, 5.5)


def _importances(shot: Snapshot) -> Figure:
    # Of the first objective alone: Optuna 5.0 writes the order of the last one's parameters beside
    # the bars of all.
    ax = optuna_plots.plot_param_importances(shot.judged, target=shot.cost(0))
    ax.set(ylabel="", xlabel=f"importance for {shot.labels[0]} (all together: 1)")
    ax.set_title("", loc="left")
    _legend(ax, [])
    return _sized(ax, 9, 1.6 + 0.5 * len(ax.get_yticks()))


def _slice(shot: Snapshot) -> Figure:
    label = shot.labels[0]
    made = optuna_plots.plot_slice(shot.judged, target=lambda t: t.values[0], target_name=label)
    axes: list[Axes] = [made] if isinstance(made, Axes) else list(made)
    columns = min(PER_ROW, len(axes))
    rows = ceil(len(axes) / columns)
    figure = _sized(axes[0], 1.2 + 3.6 * columns, 0.3 + 3.3 * rows)
    figure.suptitle("")
    grid = figure.add_gridspec(rows, columns, right=0.88, top=0.97, hspace=0.3, wspace=0.12)
    for place, ax in enumerate(axes):
        row, column = divmod(place, columns)
        ax.set_position(grid[row, column].get_position(figure))
        ax.set_ylabel("" if column else label)
        ax.tick_params(labelleft=not column, labelbottom=True)
        _plain(ax)
        _name_ticks(ax)
    colors = figure.axes[-1]
    colors.set_position((0.9, 0.3, 0.02, 0.4))
    colors.set_ylabel("trial")
    bar = axes[-1].collections[0].colorbar
    if bar is not None:
        bar.locator = MaxNLocator(integer=True)
        bar.update_ticks()
    return figure


def _parallel_coordinates(shot: Snapshot) -> Figure:
    labels = list(shot.labels)
    shot.judged.set_metric_names(labels)
    ax = optuna_plots.plot_parallel_coordinate(shot.judged, target_name=labels[0])
    figure = _sized(ax, max(9, 2.2 * len(ax.get_xticks())), 5.5)
    lines = ax.collections[0]
    low, high = lines.get_clim()
    if len(labels) == 1:
        # The worst would be white on white.
        rest, falling = 0.3 * (high - low), shot.objectives[0] == "loss"
        lines.set_clim(low - rest * (not falling), high + rest * falling)
    lines.set(alpha=0.8)
    ax.grid(visible=False)
    ax.tick_params(axis="x", rotation=0, labelsize="large")
    for one in figure.axes[:-1]:
        for text in one.get_yticklabels():
            text.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1})
    return figure


def _timeline(shot: Snapshot) -> Figure:
    ax = optuna_plots.plot_timeline(shot.study)
    legend = ax.get_legend()
    if legend is not None:
        names = [STATES[text.get_text()] for text in legend.get_texts()]
        ax.legend(legend.get_patches(), names, **ABOVE, ncols=len(names))
    ax.set(xlabel="time of day", ylabel="trial")
    return _sized(ax, 9, min(12, 2.5 + 0.09 * len(shot.study.trials)))


def _intermediate_values(shot: Snapshot) -> Figure:
    ax = optuna_plots.plot_intermediate_values(shot.judged)
    ax.set(xlabel="rung", ylabel=f"{shot.labels[0]} at the rung")
    ax.set_xticks(sorted({float(x) for line in ax.lines for x in np.asarray(line.get_xdata())}))
    numbers = [int(str(line.get_label()).removeprefix("Trial")) for line in ax.lines]
    legend = ax.get_legend()
    figure = _sized(ax, 9, 5)
    if legend is not None and len(numbers) > MOST_NAMES:
        legend.remove()
        scale = Normalize(min(numbers), max(numbers))
        for line, number in zip(ax.lines, numbers, strict=True):
            line.set_color(mpl.colormaps["viridis"](scale(number)))
        figure.colorbar(ScalarMappable(scale, "viridis"), ax=ax, label="trial")
    return figure


def _legend(ax: Axes, names: list[str]) -> None:
    """Names for what a plot has drawn, above it; none where there is one kind of thing only."""
    old = ax.get_legend()
    if old is not None:
        old.remove()
    handles, _ = ax.get_legend_handles_labels()
    if len(handles) > 1:
        ax.legend(handles, names, **ABOVE, ncols=len(names))


def _name_ticks(ax: Axes) -> None:
    """Optuna writes categories as Python does, the outermost upon the frame.

    On a short logarithmic axis matplotlib's own labels run into each other.
    """
    low, high = ax.get_xlim()
    if isinstance(ax.xaxis.get_major_locator(), StrCategoryLocator):
        names = [text.get_text().strip("'\"") for text in ax.get_xticklabels()]
        ax.set_xticks(range(len(names)), names)
        ax.set_xlim(-0.4, len(names) - 0.6)
    elif ax.get_xscale() == "log" and high / low < 50:
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())


def _sized(ax: Axes, width: float, height: float) -> Figure:
    """The title goes: the page and the file's name say what it is."""
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    ax.set_title("")
    _plain(ax)
    figure.set_size_inches(width, height)
    return figure


def _plain(ax: Axes) -> None:
    """As this project's other pictures."""
    ax.set_facecolor("white")
    ax.grid(color="0.88")
    ax.set_axisbelow(True)


DRAW: dict[str, Callable[[Snapshot], Figure]] = {
    "history": _history,
    "pareto_front": _pareto_front,
    "importances": _importances,
    "slice": _slice,
    "parallel_coordinates": _parallel_coordinates,
    "timeline": _timeline,
    "intermediate_values": _intermediate_values,
}
