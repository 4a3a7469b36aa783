"""What the pictures of real tables show."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from tests.tracking_tests.figures import (
    LAYERS,
    columns,
    drawn,
    labels,
    mesh_of,
    row,
    run,
    steps_of,
    table,
)
from tracking import Recorder
from tracking.plots import (
    color_dim_figure,
    layer_stats_figure,
    lr_range_figure,
    schedule_figure,
)

__all__: list[str] = []


def histograms(stats: pa.Table, layer: str) -> np.ndarray:
    """(steps, bins), of training."""
    found = [r["hist"] for r in stats.to_pylist() if (r["layer"], r["mode"]) == (layer, "train")]
    return np.array(found)


@pytest.mark.parametrize("kind", ["healthy", "collapsing", "exploding"])
def test_color_dim_shows_every_layer_s_histograms(kind: str, tmp_path: Path) -> None:
    stats, _ = run(kind)
    figure = color_dim_figure(columns(stats))
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
    if kind == "exploding":
        drawn(figure, tmp_path / "new" / "folder" / "color_dim.png")


def test_an_exploding_layer_stays_in_the_picture() -> None:
    stats, _ = run("exploding")
    figure = color_dim_figure(columns(stats, ["head"]))
    overflow = histograms(stats, "head")[:, -1]
    assert overflow[-1] > 0 == overflow[0]
    [top, *_] = mesh_of(figure).get_array().reshape(-1, 60)[::-1]
    np.testing.assert_allclose(top, np.log1p(overflow))
    low, high = figure.axes[0].get_ylim()
    assert 10 < labels(figure)["> 10"] < high
    assert low < labels(figure)["< -10"] < -10
    assert {line.get_ydata()[0] for line in figure.axes[0].lines} == {-10, 10}


def test_rows_that_stay_empty_are_cut_off() -> None:
    figure = color_dim_figure(columns(table(row(0), row(1)), ["relu"]))
    assert figure.axes[0].get_ylim() == (0, 2.5)
    assert mesh_of(figure).get_array().size == 10 * 2
    assert not figure.axes[0].lines
    assert not {"> 10", "< -10"} & labels(figure).keys()


def test_long_runs_are_drawn_from_their_columns() -> None:
    counts = np.random.default_rng(0).poisson(0.5, (801, 82))
    stats = table(*[row(i, hist=h) for i, h in enumerate(counts)])
    figure = color_dim_figure(columns(stats, ["relu"], 800))
    shown = np.expm1(mesh_of(figure).get_array().reshape(82, -1))
    expected = [counts[i : i + 2].sum(axis=0) for i in range(0, 801, 2)]
    np.testing.assert_allclose(shown.T, expected, atol=1e-9)
    assert figure.axes[0].get_xlim() == (0, 801)


def test_columns_stand_at_their_steps() -> None:
    # An automatic interval is not even.
    figure = color_dim_figure(columns(table(*[row(step) for step in (0, 1, 9, 17, 40)]), ["relu"]))
    edges = mesh_of(figure).get_coordinates()[0, :, 0]
    assert edges.tolist() == [0, 1, 9, 17, 40, 63]


def test_evaluation_is_not_mixed_into_the_pictures() -> None:
    stats, _ = run("healthy")
    train = stats.filter(pa.array([r["mode"] == "train" for r in stats.to_pylist()]))
    assert len(train) == len(stats) - len(LAYERS)
    for draw in (color_dim_figure, layer_stats_figure):
        both, alone = (draw(columns(t)) for t in (stats, train))
        for a, b in zip(both.axes, alone.axes, strict=True):
            assert a.get_xlim() == b.get_xlim()
            assert a.get_ylim() == b.get_ylim()


@pytest.mark.parametrize("kind", ["healthy", "collapsing"])
def test_layer_curves_show_the_table_s_numbers(kind: str, tmp_path: Path) -> None:
    stats, _ = run(kind)
    figure = layer_stats_figure(columns(stats))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["mean", "standard deviation", "share near zero", "share of dead channels"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", "step", "step"]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(LAYERS)
    trained = [r for r in stats.to_pylist() if r["mode"] == "train"]
    curves = ("mean", "std", "near_zero", "dead_channels")
    for ax, column in zip(figure.axes, curves, strict=True):
        for line, layer in zip(ax.lines, LAYERS, strict=True):
            expected = [r[column] for r in trained if r["layer"] == layer]
            np.testing.assert_allclose(line.get_ydata(), expected)
            assert line.get_xdata().tolist() == list(range(60))
    if kind == "collapsing":
        drawn(figure, tmp_path / "layer_stats.png")


def test_long_curves_are_means_of_neighbours() -> None:
    stats = table(*[row(i, mean=float(i)) for i in range(1601)])
    line = layer_stats_figure(columns(stats, ["relu"], 800)).axes[0].lines[0]
    assert len(line.get_xdata()) == 401
    assert line.get_ydata()[:2].tolist() == [1.5, 5.5]
    assert (line.get_xdata() == line.get_ydata()).all()


def test_schedule_shows_what_was_used(tmp_path: Path) -> None:
    _, steps = run("healthy")
    figure = schedule_figure(steps_of(steps))
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
    figure = schedule_figure(steps_of(recorder.read()))
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
