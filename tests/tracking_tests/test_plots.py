"""Pictures of real tables: what they show, and that nothing a run may leave stops them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from tracking import ActivationStats, Recorder
from tracking.plots import (
    color_dim_figure,
    layer_stats_figure,
    lr_range_figure,
    save,
    schedule_figure,
)
from tracking.records import LayerStats
from tracking.tables import StatsSettings, stats_table, steps_schema

__all__: list[str] = []

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
    usual = LayerStats(step, layer, "train", 4, 0.5, 0.3, 0.0, 2.5, 0.5, 1, 0.5, 0, hist, 0.0)
    return dataclasses.replace(usual, **changed)


def table(*records: LayerStats) -> pa.Table:
    return stats_table(records, StatsSettings(0.05, 1.0, "activations", "1"))


def histograms(stats: pa.Table, layer: str) -> np.ndarray:
    """(steps, bins), of training."""
    found = [r["hist"] for r in stats.to_pylist() if (r["layer"], r["mode"]) == (layer, "train")]
    return np.array(found)


def mesh_of(figure: Figure, panel: int = 0) -> QuadMesh:
    [mesh] = [c for c in figure.axes[panel].collections if isinstance(c, QuadMesh)]
    return mesh


def drawn(figure: Figure, path: Path) -> np.ndarray:
    """The picture's pixels, which must not be of one colour."""
    pixels = imread(save(figure, path))
    assert pixels[..., :3].std() > 0.01
    return pixels


@pytest.mark.parametrize("kind", ["healthy", "collapsing", "exploding"])
def test_color_dim_shows_every_layer_s_histograms(kind: str, tmp_path: Path) -> None:
    stats, _ = run(kind)
    figure = color_dim_figure(stats, LAYERS)
    assert [ax.get_title() for ax in figure.axes] == list(LAYERS)
    for panel, layer in enumerate(LAYERS):
        ax = figure.axes[panel]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "activation")
        expected = histograms(stats, layer).T
        used = np.flatnonzero(expected.any(axis=1))
        shown = mesh_of(figure, panel).get_array().reshape(-1, expected.shape[1])
        np.testing.assert_allclose(shown, np.log1p(expected[used[0] : used[-1] + 1]))
        assert ax.get_xlim() == (0, 60)
        [bar] = ax.child_axes
        assert bar.get_ylabel() == "log(1 + count)"
    drawn(figure, tmp_path / "new" / "folder" / "color_dim.png")


def labels(figure: Figure) -> dict[str, float]:
    """The labels of the activations' axis and where they stand."""
    ax = figure.axes[0]
    texts = [text.get_text() for text in ax.get_yticklabels()]
    return dict(zip(texts, ax.get_yticks().tolist(), strict=True))


def test_an_exploding_layer_stays_in_the_picture() -> None:
    stats, _ = run("exploding")
    figure = color_dim_figure(stats, ["head"])
    overflow = histograms(stats, "head")[:, -1]
    assert overflow[-1] > 0 == overflow[0]
    [top, *_] = mesh_of(figure).get_array().reshape(-1, 60)[::-1]
    np.testing.assert_allclose(top, np.log1p(overflow))
    low, high = figure.axes[0].get_ylim()
    assert 10 < labels(figure)["> 10"] < high
    assert low < labels(figure)["< -10"] < -10
    assert {line.get_ydata()[0] for line in figure.axes[0].lines} == {-10, 10}


def test_rows_that_stay_empty_are_cut_off() -> None:
    figure = color_dim_figure(table(row(0), row(1)), ["relu"])
    assert figure.axes[0].get_ylim() == (0, 2.5)
    assert mesh_of(figure).get_array().size == 10 * 2
    assert not figure.axes[0].lines
    assert not {"> 10", "< -10"} & labels(figure).keys()


def test_labels_of_the_scale_do_not_meet_those_of_the_outer_rows() -> None:
    hist = np.ones(82, np.int64)
    figure = color_dim_figure(table(row(0, hist=hist)), ["relu"])
    places = sorted(labels(figure).values())
    assert labels(figure)["0"] == 0
    assert min(np.diff(places)) > 1.5


@pytest.mark.parametrize("steps", [800, 801, 1601, 2000])
def test_long_runs_are_summed_into_columns(steps: int) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.5, (steps, 82))
    figure = color_dim_figure(table(*[row(i, hist=h) for i, h in enumerate(counts)]), ["relu"])
    width = math.ceil(steps / 800)
    shown = np.expm1(mesh_of(figure).get_array().reshape(82, -1))
    assert shown.shape[1] == math.ceil(steps / width) <= 800
    expected = [counts[i : i + width].sum(axis=0) for i in range(0, steps, width)]
    np.testing.assert_allclose(shown.T, expected, atol=1e-9)
    assert figure.axes[0].get_xlim() == (0, steps)


def test_columns_stand_at_their_steps() -> None:
    # An automatic interval is not even.
    figure = color_dim_figure(table(*[row(step) for step in (0, 1, 9, 17, 40)]), ["relu"])
    edges = mesh_of(figure).get_coordinates()[0, :, 0]
    assert edges.tolist() == [0, 1, 9, 17, 40, 63]


def test_evaluation_is_not_mixed_into_the_pictures() -> None:
    stats, _ = run("healthy")
    train = stats.filter(pa.array([r["mode"] == "train" for r in stats.to_pylist()]))
    assert len(train) == len(stats) - len(LAYERS)
    for draw in (color_dim_figure, layer_stats_figure):
        both, alone = (draw(t, LAYERS) for t in (stats, train))
        for a, b in zip(both.axes, alone.axes, strict=True):
            assert a.get_xlim() == b.get_xlim()
            assert a.get_ylim() == b.get_ylim()


@pytest.mark.parametrize("kind", ["healthy", "collapsing"])
def test_layer_curves_show_the_table_s_numbers(kind: str, tmp_path: Path) -> None:
    stats, _ = run(kind)
    figure = layer_stats_figure(stats, LAYERS)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["mean", "standard deviation", "share near zero", "share of dead channels"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", "step", "step"]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(LAYERS)
    trained = [r for r in stats.to_pylist() if r["mode"] == "train"]
    columns = ("mean", "std", "near_zero", "dead_channels")
    for ax, column in zip(figure.axes, columns, strict=True):
        for line, layer in zip(ax.lines, LAYERS, strict=True):
            expected = [r[column] for r in trained if r["layer"] == layer]
            np.testing.assert_allclose(line.get_ydata(), expected)
            assert line.get_xdata().tolist() == list(range(60))
    drawn(figure, tmp_path / "layer_stats.png")


def test_long_curves_are_means_of_neighbours() -> None:
    figure = layer_stats_figure(table(*[row(i, mean=float(i)) for i in range(1601)]), ["relu"])
    line = figure.axes[0].lines[0]
    assert len(line.get_xdata()) == 534
    assert line.get_ydata()[:2].tolist() == [1, 4]
    assert (line.get_xdata() == line.get_ydata()).all()


def test_schedule_shows_what_was_used(tmp_path: Path) -> None:
    _, steps = run("healthy")
    figure = schedule_figure(steps)
    names = [ax.get_ylabel() for ax in figure.axes]
    assert names == ["learning rate", "momentum", "training loss"]
    assert figure.axes[2].get_xlabel() == "step"
    for ax, column in zip(figure.axes, ("lr", "momentum", "loss"), strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), steps[column].to_pylist())
    assert [t.get_text() for t in figure.axes[2].get_legend().get_texts()] == [
        "training loss",
        "smoothed",
    ]
    drawn(figure, tmp_path / "schedule.png")


def test_schedule_is_that_of_the_first_group() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.5, 0.1)]
    optimizer = torch.optim.Adagrad(groups)  # has no momentum
    with Recorder(optimizer, flush_every=1) as recorder:
        for _ in range(3):
            optimizer.step()
    figure = schedule_figure(recorder.read())
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.5] * 3
    assert np.isnan(figure.axes[1].lines[0].get_ydata()).all()


def test_range_test_marks_its_suggestions(tmp_path: Path) -> None:
    lrs = np.geomspace(1e-5, 1, 50).tolist()
    losses = [2 - math.log10(lr / 1e-5) / 4 for lr in lrs]
    figure = lr_range_figure(lrs, losses, {"valley": 1e-3, "steep": 1e-2})
    [ax] = figure.axes
    assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "learning rate")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "valley: 1.00e-03",
        "steep: 1.00e-02",
    ]
    assert ax.lines[1].get_ydata()[0] == pytest.approx(1.5)
    drawn(figure, tmp_path / "curve.png")
    assert lr_range_figure(lrs, losses, {}).axes[0].get_legend() is None


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
def test_whatever_a_run_leaves_can_be_drawn(name: str, tmp_path: Path) -> None:
    stats = table(*TABLES[name])
    for number, draw in enumerate((color_dim_figure, layer_stats_figure)):
        figure = draw(stats, ["relu"])
        figure.set_layout_engine("none")  # which would take most of the time
        drawn(figure, tmp_path / f"{number}.png")
    [ax] = color_dim_figure(stats, ["relu"]).axes
    nothing = name in ("empty", "another layer only", "evaluation only")
    assert [text.get_text() for text in ax.texts] == ["nothing recorded"] * nothing


def test_a_single_step_is_visible() -> None:
    figure = layer_stats_figure(table(row(7)), ["relu"])
    assert {line.get_marker() for ax in figure.axes for line in ax.lines} == {"o"}


def test_no_layers_and_no_steps_can_be_drawn(tmp_path: Path) -> None:
    save(color_dim_figure(table(), []), tmp_path / "a.png")
    save(layer_stats_figure(table(), []), tmp_path / "b.png")
    drawn(schedule_figure(steps_schema().empty_table()), tmp_path / "c.png")


@pytest.mark.parametrize("count", [2, 7])
def test_panels_of_many_layers_do_not_overlap(count: int) -> None:
    names = [f"encoder.stage{i}.a_very_long_name_of_a_block.leaky_rectifier" for i in range(count)]
    figure = color_dim_figure(table(*[row(0, name) for name in names]), names)
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
    figure = layer_stats_figure(table(*[row(0, name) for name in names]), names)
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
