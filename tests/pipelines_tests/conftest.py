"""Small real parts for tests of pipelines: data, loaders, configurations that train in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.config import RunConfig
from pipelines.data.images import Split
from pipelines.data.loaders import InMemoryLoader, Loaders
from pipelines.run import FitResult, prepare, train

__all__: list[str] = []

CPU = torch.device("cpu")


@pytest.fixture
def loaders() -> Callable[..., Loaders]:
    """Makes loaders of random 1x8x8 images with 3 classes, and of a few for validation."""

    def make(
        count: int = 24, batch_size: int = 8, channels_last: bool = False, valid: int = 6
    ) -> Loaders:
        generator = torch.Generator().manual_seed(1)

        def loader(size: int, batch: int, shuffle: bool) -> InMemoryLoader:
            images = torch.randint(0, 256, (size, 1, 8, 8), generator=generator).to(torch.uint8)
            split = Split(images, torch.randint(0, 3, (size,), generator=generator))
            return InMemoryLoader(
                split,
                batch,
                (0.5,),
                (0.25,),
                CPU,
                shuffle=shuffle,
                generator=torch.Generator().manual_seed(0),
                channels_last=channels_last,
            )

        return Loaders(
            loader(count, batch_size, True), loader(valid, 6, False), loader(6, 6, False)
        )

    return make


@pytest.fixture
def small() -> Callable[..., RunConfig]:
    """Makes a configuration of a few steps on a few digits; any option can be given."""

    def make(**options: Any) -> RunConfig:
        few = {
            "train_limit": 60,
            "batch_size": 16,
            "epochs": 2,
            "image_size": 16,
            "widths": (4, 8),
            "device": "cpu",
        }
        return RunConfig(**(few | options))

    return make


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the drawing, which takes longer than all the rest of a small run."""

    def touch(figure: Any, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    monkeypatch.setattr("tracking.plots.pictures.save", touch)
    for name in ("schedule_figure", "color_dim_figure", "layer_stats_figure"):
        monkeypatch.setattr(f"tracking.plots.pictures.{name}", lambda *args: None)


@pytest.fixture
def trained(
    small: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory, no_pictures: None
) -> Callable[..., FitResult]:
    """Makes a trained small run, recorded in a folder of its own, without pictures."""

    def make(**options: Any) -> FitResult:
        return train(prepare(small(**options)), tmp_path_factory.mktemp("run"))

    return make
