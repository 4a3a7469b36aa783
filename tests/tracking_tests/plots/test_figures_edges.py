"""Nothing that a run may leave stops a picture, and all of it can be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.tracking_tests.figures import TABLES, columns, drawn, row, steps_of, table
from tracking.plots.figures import layer_stats_figure, save, schedule_figure
from tracking.tables.schemas import steps_schema
from tracking.tables.step_columns import StepColumns

__all__: list[str] = []


@pytest.mark.parametrize("name", TABLES)
def test_whatever_a_run_leaves_can_be_drawn(name: str) -> None:
    stats = columns(table(*TABLES[name]), ["relu"])
    layer_stats_figure(stats).draw_without_rendering()


def test_a_single_step_is_visible() -> None:
    figure = layer_stats_figure(columns(table(row(7)), ["relu"]))
    assert {line.get_marker() for ax in figure.axes for line in ax.lines} == {"o"}


def test_no_layers_and_no_steps_can_be_drawn(tmp_path: Path) -> None:
    drawn(schedule_figure(steps_of(steps_schema().empty_table())), tmp_path / "schedule.png")
    figure = layer_stats_figure({})
    figure.draw_without_rendering()
    assert not figure.legends


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


def assert_apart(figure: Figure) -> None:
    """No label leaves the page or meets another axis."""
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    page = figure.bbox
    assert all(page.x0 <= b.x0 and b.x1 <= page.x1 for b in boxes)
    assert all(page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)


@pytest.mark.parametrize("value", [-1.04e-4, 1e-5, 0.0, 123456.0, -1e9])
def test_long_labels_stay_on_the_page(value: float) -> None:
    rows = [row(step, mean=value, std=abs(value)) for step in (0, 10**6)]
    assert_apart(layer_stats_figure(columns(table(*rows), ["relu"])))
    steps = np.array([0, 10**6])
    same = np.full(2, value)
    assert_apart(schedule_figure(StepColumns(steps, same, same, same, same)))


def test_a_page_of_a_thousand_layers_needs_no_gigabytes() -> None:
    figure = Figure(figsize=(100, 170))
    saved: list[float] = []
    figure.savefig = lambda path, dpi, **_: saved.append(dpi)  # type: ignore[method-assign]
    save(figure, Path("unused.png"))
    assert 100 * 170 * saved[0] ** 2 <= 40e6
