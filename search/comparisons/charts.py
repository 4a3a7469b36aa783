"""The charts of a comparison: every run, pairs joined, and the differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plotly.graph_objects import Figure, Scatter

from search.comparisons.result import Comparison
from search.reports.charts import BLUE, GREY, RED, Chart, packed_figure
from search.reports.plot_kinds import PlotKind
from search.reports.trial_text import as_result

__all__ = ["charts_of"]

RUNS = PlotKind(
    "every-run",
    "Every run",
    "One point a run. Grey lines join those of one seed; red bars are means.",
)
DIFFERENCES = PlotKind(
    "differences",
    "Differences",
    "One point a seed. The bar is the mean with its 95 % interval; where it reaches over 0, no "
    "difference is shown.",
)
MOST_SEEDS = 200
"""Lines that can still be told apart, generously."""


def charts_of(result: Comparison) -> list[Chart]:
    """Both, or why one cannot be drawn."""
    runs = [run for arm in result.arms for run in arm.complete.values()]
    pairs = [contrast for contrast in result.contrasts if contrast.difference.n]
    return [
        Chart(RUNS, [packed_figure(_every_run(result))])
        if runs
        else Chart(RUNS, (), "No run was trained to its end."),
        Chart(DIFFERENCES, [packed_figure(_differences(result))])
        if pairs
        else Chart(DIFFERENCES, (), "No seed was trained to its end with two values."),
    ]


def _every_run(result: Comparison) -> Figure:
    figure = Figure()
    texts = [arm.text for arm in result.arms]
    for seed in result.seeds[:MOST_SEEDS]:
        found = {arm.text: arm.complete.get(seed) for arm in result.arms}
        values = [getattr(run, result.objective) if run else None for run in found.values()]
        figure.add_trace(
            Scatter(
                x=texts,
                y=values,
                mode="lines+markers",
                line={"color": GREY, "width": 1},
                marker={"color": BLUE, "size": 8},
                hovertext=[
                    _shown(result, seed, text, v) for text, v in zip(texts, values, strict=True)
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=False,
            )
        )
    means = [arm.summary(result.objective).mean for arm in result.arms]
    figure.add_trace(
        Scatter(
            x=texts,
            y=[None if math.isnan(mean) else mean for mean in means],
            mode="markers",
            marker={"symbol": "line-ew", "size": 46, "line": {"color": RED, "width": 3}},
            hovertext=[
                f"{t}: mean {as_result(result.objective, m)}"
                for t, m in zip(texts, means, strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
        )
    )
    figure.update_xaxes(type="category", title_text=result.factor, categoryarray=texts)
    figure.update_yaxes(title_text=f"validation {result.objective}")
    if result.objective == "accuracy":
        figure.update_yaxes(tickformat=".3~%")
    figure.update_layout(height=400)
    return figure


def _differences(result: Comparison) -> Figure:
    figure = Figure()
    scale = 100 if result.objective == "accuracy" else 1
    rows: Sequence[str] = [contrast.text for contrast in result.contrasts]
    for contrast in result.contrasts:
        found = contrast.difference
        if not found.n:
            continue
        hover = [f"seed {seed}" for seed in contrast.seeds]
        figure.add_trace(
            Scatter(
                x=[scale * value for value in found.values],
                y=[contrast.text] * found.n,
                mode="markers",
                marker={"color": BLUE, "size": 8, "opacity": 0.7},
                hovertext=hover,
                hovertemplate="%{hovertext}: %{x:.3g}<extra></extra>",
                showlegend=False,
            )
        )
        reach = None if math.isnan(found.low) else [scale * found.half_width]
        figure.add_trace(
            Scatter(
                x=[scale * found.mean],
                y=[contrast.text],
                mode="markers",
                marker={"color": RED, "size": 11, "symbol": "diamond"},
                error_x={"type": "data", "array": reach, "color": RED, "thickness": 2.5},
                hovertemplate="mean %{x:.3g}<extra></extra>",
                showlegend=False,
            )
        )
    unit = "points" if scale == 100 else "loss"
    figure.update_xaxes(title_text=f"{unit} beside {result.arms[0].text}")
    figure.update_xaxes(zeroline=True, zerolinecolor=GREY, zerolinewidth=1.5, rangemode="tozero")
    figure.update_yaxes(type="category", categoryarray=rows, autorange="reversed")
    figure.update_layout(height=130 + 56 * len(rows))
    return figure


def _shown(result: Comparison, seed: int, text: str, value: float | None) -> str:
    return f"{text}, seed {seed}: {as_result(result.objective, value)}"
