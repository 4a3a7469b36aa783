"""From a source of images to training, validation and test data, ready for the loaders.

Test data never mixes with the rest: a set without a test part has one split off by a seed of its own,
the same for every run. Validation data is split off what remains, by the run's seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from pipelines.config import RunConfig
from pipelines.images import MEMORY_LIMIT, Images, RawData, Split
from pipelines.sources import read_source
from tracking.errors import BadDataset, BadOption

__all__ = ["ImageData", "channel_statistics", "load_dataset", "seeded"]

TEST_SEED = 1797
DIGEST_LENGTH = 16
STATISTICS_SAMPLE = 2048
"""Images of a lazy training split that its mean and standard deviation are taken from."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set, split and described."""

    name: str
    source: str
    """The path it was read from, or a description."""
    classes: tuple[str, ...]
    train: Split
    valid: Split
    test: Split
    mean: tuple[float, ...]
    """Mean of each channel over the training split, pixels scaled to 0-1."""
    std: tuple[float, ...]
    """Standard deviation of each channel, likewise."""
    digest: str
    """Short hash of all images and labels, whatever the split."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


def load_dataset(config: RunConfig, *, memory_limit: int = MEMORY_LIMIT) -> ImageData:
    """Read, resize, check and split the data set that a configuration names.

    Images that would take more than `memory_limit` bytes are left to be read on demand.

    Raises BadDataset: the data is missing, unreadable or unfit for training; BadOption: a batch is
    larger than the training split.
    """
    raw = read_source(config, memory_limit)
    _check_labels(raw)
    train, valid, test = _splits(raw, config)
    if config.batch_size > len(train):
        raise BadOption(
            f"batch_size={config.batch_size} is larger than the training split of {len(train)} "
            f"images; allowed: 1 to {len(train)}"
        )
    mean, std = channel_statistics(train.images)
    return ImageData(
        raw.name, raw.source, raw.classes, train, valid, test, mean, std, _digest(raw)
    )


def seeded(seed: int, purpose: str) -> Generator:
    """A generator for one purpose, so that a run's seed gives every purpose its own stream."""
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), scaled to 0-1.

    Exact for images in memory; for lazy ones, over up to 2,048 of them, evenly spaced. A channel
    that never varies gets 1 as its deviation, so that it can be divided by.
    """
    if not isinstance(images, Tensor):
        count = min(len(images), STATISTICS_SAMPLE)
        chosen = torch.linspace(0, len(images) - 1, count).long()
        return _from_histograms(sum(_histograms(images[part]) for part in chosen.split(64)))
    return _from_histograms(_histograms(images))


def _histograms(images: Tensor) -> Tensor:
    """How often each value occurs in each channel: int64 (C, 256)."""
    channels = images.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(channel, minlength=256) for channel in channels])
