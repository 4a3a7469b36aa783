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
    row,
    run,
    steps_of,
    table,
)
from tracking import Recorder
from tracking.plots.figures import (
    layer_stats_figure,
    lr_range_figure,
    schedule_figure,
)

__all__: list[str] = []


def test_evaluation_is_not_mixed_into_the_pictures() -> None:
    stats, _ = run("healthy")
    train = stats.filter(pa.array([r["mode"] == "train" for r in stats.to_pylist()]))
    assert len(train) == len(stats) - len(LAYERS)
    both, alone = (layer_stats_figure(columns(one)) for one in (stats, train))
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


@pytest.mark.parametrize("most", [2.0, 1e20])
def test_a_run_that_diverges_is_seen_doing_it(tmp_path: Path, most: float) -> None:
    means = [0.5 + step / 40 for step in range(19)] + [-most]
    found = [row(step, LAYERS[0], mean=mean, std=abs(mean)) for step, mean in enumerate(means)]
    figure = layer_stats_figure(columns(table(*found)))
    far = "symlog" if most > 1e3 else "linear"
    assert [ax.get_yscale() for ax in figure.axes] == [far, far, "linear", "linear"]
    drawn(figure, tmp_path / "layer_stats.png")
    for ax in figure.axes[:2]:
        low, high = ax.get_ylim()
        shown = [y for y in ax.get_yticks() if low <= y <= high]
        assert 3 <= len(shown) <= 12
