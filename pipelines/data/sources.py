"""Where images come from: one function for each kind of data set, and the choice among them."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch

from pipelines.config import RunConfig
from pipelines.data.arrays import read_factory
from pipelines.data.folders import read_folder
from pipelines.data.images import MEMORY_LIMIT, RawData, Split, fit
from pipelines.data.public_sets import ARCHIVES, IDX_SETS, read_archive, read_idx_set

__all__ = ["read_digits", "read_source", "read_synthetic"]

DIGITS = "sklearn/datasets/data/digits.csv.gz"
DIGITS_SIZE = 28
"""Side to which digits are resized when image_size is 0; 8 pixels are too few for the networks."""
SYNTHETIC_SEED = 20_000
SYNTHETIC_COUNT = 10_000
FOLDER = "folder:"


def read_source(config: RunConfig, memory_limit: int = MEMORY_LIMIT) -> RawData:
    """The data set that ``config.dataset`` names, resized to ``config.image_size``.

    Images that would take more than `memory_limit` bytes are read or resized on demand.

    Raises BadDataset: the data is missing, unreadable, or not what a data set must be.
    """
    if config.dataset.startswith(FOLDER):
        path = Path(config.dataset.removeprefix(FOLDER)).expanduser()
        return read_folder(path, config.image_size, memory_limit)
    raw = _read_arrays(config.dataset, config.data_dir.expanduser())
    size = config.image_size or (DIGITS_SIZE if config.dataset == "digits" else 0)
    return RawData(
        raw.name,
        raw.source,
        raw.classes,
        _fitted(raw.train, size, memory_limit),
        raw.test and _fitted(raw.test, size, memory_limit),
    )


def _read_arrays(dataset: str, data_dir: Path) -> RawData:
    if dataset == "digits":
        return read_digits()
    if dataset == "synthetic":
        return read_synthetic()
    if dataset in IDX_SETS:
        return read_idx_set(dataset, data_dir)
    if dataset in ARCHIVES:
        return read_archive(dataset, data_dir)
    return read_factory(dataset)


def _fitted(split: Split, size: int, memory_limit: int) -> Split:
    assert isinstance(split.images, torch.Tensor)
    return Split(fit(split.images, size, memory_limit), split.labels)


def read_digits() -> RawData:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, their 0-16 scaled to 0-255."""
    # What load_digits reads, without the seconds that importing scikit-learn and SciPy takes.
    table = np.loadtxt(str(distribution("scikit-learn").locate_file(DIGITS)), delimiter=",")
    pixels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    split = Split(torch.from_numpy(pixels), torch.from_numpy(table[:, -1].astype(np.int64)))
    return RawData("digits", "scikit-learn load_digits", tuple("0123456789"), split)


def read_synthetic(count: int = SYNTHETIC_COUNT) -> RawData:
    """Seeded images for benchmarks: 10 classes, 28 x 28 pixels, grey.

    Each class has a coarse random pattern; a sample is its class's pattern, shifted by up to two
    pixels each way, under noise. Whole numbers only, so that they are the same on every machine.
    """
    random = np.random.default_rng(SYNTHETIC_SEED)
    patterns = random.integers(64, 192, (10, 7, 7)).repeat(4, axis=1).repeat(4, axis=2)
    labels = random.permutation(np.arange(count) % 10)
    rows, columns = (np.arange(28) + random.integers(-2, 3, (2, count, 1))) % 28
    images = patterns[labels[:, None, None], rows[:, :, None], columns[:, None, :]]
    images += random.integers(-64, 64, images.shape)
    pixels = torch.from_numpy(images.astype(np.uint8)).unsqueeze(1)
    split = Split(pixels, torch.from_numpy(labels))
    return RawData("synthetic", "seeded patterns and noise", tuple("0123456789"), split)
