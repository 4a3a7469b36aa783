"""Pictures while a network trains: of what there is, not too many, and not too dear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.tracking_tests.figures import LAYERS, columns, row, run, table
from tracking.plots.epoch_pictures import EpochPictures
from tracking.plots.small_pictures import MOST_LAYERS, color_dim_image
from tracking.recorders.activations import ActivationStats
from tracking.sink import MemorySink

__all__: list[str] = []


def pictured(
    folder: Path, epochs: int, steps: int = 3, flush_every: int = 2
) -> tuple[MemorySink, ActivationStats]:
    """A run that draws after each epoch."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    sink = MemorySink()
    with ActivationStats(model, directory=folder, flush_every=flush_every) as stats:
        pictures = EpochPictures(stats, sink, epochs)
        for epoch in range(epochs):
            for _ in range(steps):
                model(torch.randn(5, 4))
                stats.step()
            pictures.draw(epoch)
    return sink, stats


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine does meanwhile."""
    monkeypatch.setattr("tracking.plots.epoch_pictures.AT_ONCE", 1e9)


def test_a_picture_of_each_epoch(tmp_path: Path, patient: None) -> None:
    sink, _ = pictured(tmp_path, epochs=4)
    assert list(sink.logged_images) == [("color_dim", epoch) for epoch in range(4)]
    for path in sink.logged_images.values():
        with Image.open(path) as image:
            assert image.format == "PNG"


def test_long_runs_have_about_twenty(tmp_path: Path, patient: None) -> None:
    sink, _ = pictured(tmp_path, epochs=45, steps=1)
    assert [epoch for _, epoch in sink.logged_images] == [*range(0, 45, 3), 44]


def test_drawing_that_takes_too_long_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.plots.epoch_pictures.AT_ONCE", 0.0)
    sink, _ = pictured(tmp_path, epochs=6)
    # The first: what it takes is not known yet.
    assert [epoch for _, epoch in sink.logged_images] == [0]


def test_each_row_is_read_once(tmp_path: Path, patient: None) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    with ActivationStats(model, directory=tmp_path, flush_every=2) as stats:
        pictures = EpochPictures(stats, MemorySink(), 9)
        for epoch in range(9):
            model(torch.randn(5, 4))
            stats.step()
            pictures.draw(epoch)
            summed = pictures._builder.columns()["1"]
            assert summed.rows.sum() == epoch + 1
            assert summed.hist.sum() == 40 * (epoch + 1)


def test_nothing_recorded_draws_nothing(tmp_path: Path, patient: None) -> None:
    sink, _ = pictured(tmp_path, epochs=2, steps=0)
    assert sink.logged_images == {}


@pytest.mark.parametrize("kind", ["healthy", "exploding"])
def test_the_small_picture_shows_every_layer(kind: str) -> None:
    stats, _ = run(kind)
    image = color_dim_image(columns(stats, LAYERS))
    pixels = np.asarray(image)
    assert (image.width, image.height) == (2 * 342, 2 * 170 + 14)
    # Three panels, bright where most activations are.
    places = [(0, 0), (0, 342), (170, 0)]
    panels = [pixels[top + 22 : top + 150, left + 40 : left + 328] for top, left in places]
    assert all(len(np.unique(panel.reshape(-1, 3), axis=0)) > 5 for panel in panels)
    relu = panels[0].astype(int).sum(axis=(1, 2))
    assert relu[-1] > relu[: len(relu) // 2].max()


def test_edges_of_small_pictures() -> None:
    assert color_dim_image({}).size[0] > 0
    nothing = {"relu": columns(table(row(0, hist=np.zeros(82, np.int64))), ["relu"])["relu"]}
    assert color_dim_image(nothing).width < 500
    names = [f"a.very.long.name.of.a.layer.number.{n}.{'x' * n}" for n in range(60)]
    many = columns(table(*[row(0, name) for name in names]), names)
    assert MOST_LAYERS == 24
    assert color_dim_image(many).size == (4 * 342, 6 * 170 + 14)
