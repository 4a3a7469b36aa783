"""The pictures of a run: which there are, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tracking_tests.models import batches, cnn, sgd
from tracking import ActivationStats, Recorder
from tracking.errors import RecordsDamaged
from tracking.plots.pictures import color_dim_file, draw

__all__: list[str] = []


def records(directory: Path, steps: int) -> tuple[Path, Path, tuple[str, ...]]:
    model = cnn()
    optimizer = sgd(model)
    with (
        Recorder(optimizer, directory=directory / "hyperparameters") as recorder,
        ActivationStats(model, optimizer=optimizer, directory=directory / "activations") as stats,
    ):
        for x in batches(steps):
            model(x).mean().backward()
            optimizer.step()
    return recorder.path, stats.path, stats.layers


def test_nothing_is_drawn_of_empty_tables(tmp_path: Path) -> None:
    assert list(draw(*records(tmp_path, 0), tmp_path)) == []
    assert not list(tmp_path.rglob("*.png"))


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    steps, stats, layers = records(tmp_path, 0)
    stats.write_bytes(b"PAR1 and no more")
    with pytest.raises(RecordsDamaged, match=r"stats\.parquet: cannot be read"):
        list(draw(steps, stats, layers, tmp_path))


def test_each_picture_lies_where_the_run_has_it(tmp_path: Path) -> None:
    drawn = dict(draw(*records(tmp_path, 1), tmp_path))
    assert [path.relative_to(tmp_path).as_posix() for path in drawn] == [
        "hyperparameters/schedule.png",
        "activations/color_dim.png",
        "activations/layer_stats.png",
        "activations/color_dim/1.png",
        "activations/color_dim/3.png",
    ]
    assert all(path.parent == tmp_path / folder for path, folder in drawn.items())
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_picture_of_a_layer_is_one_file() -> None:
    assert color_dim_file("conv1.relu") == "conv1.relu.png"
    assert color_dim_file("a/b.c") == "a_b.c.png"
