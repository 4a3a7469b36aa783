"""Each kind of data set, read by its name."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from pipelines.config import RunConfig
from pipelines.data.images import LazyImages, RawData, resize
from pipelines.data.sources import read_digits, read_source, read_synthetic
from tracking.errors import BadDataset

__all__: list[str] = []


def pixels(raw: RawData) -> Tensor:
    assert isinstance(raw.train.images, Tensor)
    return raw.train.images


def test_digits_use_the_whole_range() -> None:
    raw = read_digits()
    images = pixels(raw)
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert (int(images.min()), int(images.max())) == (0, 255)
    assert np.abs(images[:, 0].numpy() / 255 - load_digits().images / 16).max() < 0.002
    assert raw.train.labels.tolist() == load_digits().target.tolist()
    assert raw.classes == tuple("0123456789")


@pytest.mark.parametrize(("image_size", "side"), [(0, 28), (8, 8), (16, 16)])
def test_digits_are_resized_to_28_by_default(image_size: int, side: int) -> None:
    raw = read_source(RunConfig(dataset="digits", image_size=image_size))
    assert torch.equal(pixels(raw), resize(pixels(read_digits()), side))


def test_synthetic_images_are_always_the_same() -> None:
    once, again = read_synthetic(), read_synthetic()
    assert pixels(once).shape == (10_000, 1, 28, 28)
    assert pixels(once).dtype == torch.uint8
    assert torch.equal(pixels(once), pixels(again))
    assert torch.equal(once.train.labels, again.train.labels)
    assert once.train.labels.bincount().tolist() == [1000] * 10
    assert len(once.classes) == 10


def test_synthetic_images_are_different_and_can_be_learned() -> None:
    raw = read_synthetic(600)
    images, labels = pixels(raw).flatten(1).float(), raw.train.labels
    assert len(set(map(tuple, images.tolist()))) == 600
    means = torch.stack([images[:500][labels[:500] == label].mean(dim=0) for label in range(10)])
    nearest = torch.cdist(images[500:], means).argmin(dim=1)
    assert (nearest == labels[500:]).float().mean() > 0.5


def test_idx_sets_come_from_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, count in (("train", 12), ("t10k", 4)):
        images = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28) + bytes(count * 784)
        labels = struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(range(count))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    monkeypatch.setenv("HOME", str(tmp_path))
    raw = read_source(RunConfig(dataset="mnist", data_dir=Path("~"), image_size=14))
    assert pixels(raw).shape == (12, 1, 14, 14)
    assert raw.test is not None
    assert raw.test.images.shape == (4, 1, 14, 14)


def test_archives_come_from_data_dir(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadDataset, match=r"dataset=svhn: .*/file cannot be written"):
        read_source(RunConfig(dataset="svhn", data_dir=tmp_path / "file"))


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x", "y"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (6, 6)).save(tmp_path / "pets" / name / "1.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in (str(tmp_path / "pets"), "pets", "~/pets"):
        raw = read_source(RunConfig(dataset=f"folder:{path}", image_size=9))
        assert raw.source == str(tmp_path / "pets")
        assert pixels(raw).shape == (2, 3, 9, 9)
    lazy = read_source(RunConfig(dataset="folder:pets"), memory_limit=10)
    assert isinstance(lazy.train.images, LazyImages)


def test_factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_source.py").write_text(
        "import numpy as np\n"
        "def make():\n"
        "    return np.zeros((4, 3, 6, 6), np.uint8), np.arange(4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    raw = read_source(RunConfig(dataset="own_source:make", image_size=5))
    assert pixels(raw).shape == (4, 3, 5, 5)


def test_what_grows_too_large_is_resized_on_demand() -> None:
    limit = 1797 * 28 * 28 - 1
    lazy = read_source(RunConfig(dataset="digits"), memory_limit=limit).train.images
    assert isinstance(lazy, LazyImages)
    assert lazy.shape == (1797, 1, 28, 28)
