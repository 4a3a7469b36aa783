"""Nothing that a run may leave stops a picture, and all of it can be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.tracking_tests.figures import columns, drawn, labels, row, steps_of, table
from tracking.plots import (
    color_dim_figure,
    layer_stats_figure,
    save,
    schedule_figure,
)
from tracking.records import LayerStats
from tracking.tables import steps_schema

__all__: list[str] = []


def test_labels_of_the_scale_do_not_meet_those_of_the_outer_rows() -> None:
    hist = np.ones(82, np.int64)
    figure = color_dim_figure(columns(table(row(0, hist=hist)), ["relu"]))
    places = sorted(labels(figure).values())
    assert labels(figure)["0"] == 0
    assert min(np.diff(places)) > 1.5


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


@pytest.mark.parametrize("name", TABLES)
def test_whatever_a_run_leaves_can_be_drawn(name: str) -> None:
    stats = columns(table(*TABLES[name]), ["relu"])
    for draw in (color_dim_figure, layer_stats_figure):
        figure = draw(stats)
        figure.set_layout_engine("none")  # which would take most of the time
        figure.draw_without_rendering()
    [ax] = color_dim_figure(stats).axes
    nothing = name in ("empty", "another layer only", "evaluation only")
    assert [text.get_text() for text in ax.texts] == ["nothing recorded"] * nothing


def test_a_single_step_is_visible() -> None:
    figure = layer_stats_figure(columns(table(row(7)), ["relu"]))
    assert {line.get_marker() for ax in figure.axes for line in ax.lines} == {"o"}


def test_no_layers_and_no_steps_can_be_drawn(tmp_path: Path) -> None:
    drawn(schedule_figure(steps_of(steps_schema().empty_table())), tmp_path / "schedule.png")
    assert save(color_dim_figure({}), tmp_path / "color_dim.png").stat().st_size
    figure = layer_stats_figure({})
    figure.draw_without_rendering()
    assert not figure.legends


@pytest.mark.parametrize("count", [2, 7])
def test_panels_of_many_layers_do_not_overlap(count: int) -> None:
    names = [f"encoder.stage{i}.a_very_long_name_of_a_block.leaky_rectifier" for i in range(count)]
    figure = color_dim_figure(columns(table(*[row(0, name) for name in names]), names))
    assert len(figure.axes) == count
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    page = figure.bbox
    assert all(page.x0 <= b.x0 and b.x1 <= page.x1 for b in boxes)
    assert all(page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)
    assert all("…" not in ax.get_title() for ax in figure.axes)
    assert [ax.get_title().replace("\n", "") for ax in figure.axes] == names


def test_a_legend_of_long_names_stays_on_the_page() -> None:
    names = [f"encoder.stage{i:02}.{'very_' * 20}long.relu" for i in range(24)]
    figure = layer_stats_figure(columns(table(*[row(0, name) for name in names]), names))
    figure.draw_without_rendering()
    [legend] = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert box.y1 < min(ax.get_tightbbox().y0 for ax in figure.axes)
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(set(texts)) == len(names)


def test_a_page_of_a_thousand_layers_needs_no_gigabytes() -> None:
    figure = Figure(figsize=(100, 170))
    saved: list[float] = []
    figure.savefig = lambda path, dpi: saved.append(dpi)  # type: ignore[method-assign]
    save(figure, Path("unused.png"))
    assert 100 * 170 * saved[0] ** 2 <= 40e6
