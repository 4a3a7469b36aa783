"""From a source of images to training, validation and test data, ready for the loaders.

Test data never mixes with the rest: a set without a test part has one split off by a seed of its
own, the same for every run. Validation data is split off what remains, by the run's seed, unless
``valid_fraction`` is 0: then all that remains is for training.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from pipelines.config import RunConfig
from pipelines.data.facts import data_facts
from pipelines.data.images import MEMORY_LIMIT, Images, RawData, Split
from pipelines.data.sources import read_source
from tracking.diagnosis.evidence import DataFacts
from tracking.errors import BadDataset, BadOption

__all__ = [
    "ImageData",
    "channel_statistics",
    "check_batch_size",
    "load_dataset",
    "seeded",
]

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
    """Empty where the configuration wants no validation."""
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

    @cached_property
    def facts(self) -> DataFacts:
        """What the diagnosis may know of it; worked out once, for all runs that share the data."""
        return data_facts(self.train, self.valid, self.num_classes)


def load_dataset(config: RunConfig, *, memory_limit: int = MEMORY_LIMIT) -> ImageData:
    """Read, resize, check and split the data set that a configuration names.

    Images that would take more than `memory_limit` bytes are left to be read on demand.

    Raises BadDataset: the data is missing, unreadable or unfit for training; BadOption: see
    ``check_batch_size``.
    """
    raw = read_source(config, memory_limit)
    _check_labels(raw)
    train, valid, test = _splits(raw, config)
    mean, std = channel_statistics(train.images)
    digest = _digest(raw)
    data = ImageData(raw.name, raw.source, raw.classes, train, valid, test, mean, std, digest)
    check_batch_size(config, data)
    return data


def check_batch_size(config: RunConfig, data: ImageData) -> None:
    """Raises BadOption: a batch is larger than the training split."""
    images = len(data.train)
    if config.batch_size > images:
        raise BadOption(
            f"batch_size={config.batch_size} is larger than the training split of {images} "
            f"images; allowed: 1 to {images}"
        )


def seeded(seed: int, purpose: str) -> Generator:
    """A generator for one purpose, so that a run's seed gives every purpose its own stream."""
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), scaled to 0-1.

    Exact for images in memory; for lazy ones, over up to 2,048 of them, evenly spaced. A channel
    that never varies gets 1 as its deviation, so that it can be divided by.
    """
    if not isinstance(images, Tensor):
        count = min(len(images), STATISTICS_SAMPLE)
        chosen = torch.linspace(0, len(images) - 1, count).long()
        parts = [_histograms(images[part]) for part in torch.split(chosen, 64)]
        return _from_histograms(torch.stack(parts).sum(dim=0))
    return _from_histograms(_histograms(images))


def _histograms(images: Tensor) -> Tensor:
    """How often each value occurs in each channel: int64 (C, 256)."""
    channels = images.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(channel, minlength=256) for channel in channels])


def _from_histograms(counts: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts / counts.sum(dim=1, keepdim=True, dtype=torch.float64)
    mean = shares @ values
    std = (shares * (values - mean[:, None]).square()).sum(dim=1).sqrt()
    std = torch.where(std > 0, std, 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def _check_labels(raw: RawData) -> None:
    for part in filter(None, (raw.train, raw.test)):
        wrong = part.labels[(part.labels < 0) | (part.labels >= len(raw.classes))]
        if len(wrong):
            raise BadDataset(
                f"{raw.name}: label {int(wrong[0])} is out of range; allowed for the "
                f"{len(raw.classes)} classes: 0 to {len(raw.classes) - 1}"
            )
    present = int(raw.train.labels.bincount().count_nonzero())
    if present < 2:
        raise BadDataset(
            f"{raw.name}: its images show {present} of the classes; at least 2 are needed"
        )


def _splits(raw: RawData, config: RunConfig) -> tuple[Split, Split, Split]:
    """Training, validation and test data. Indices are split, so that images are copied once."""
    labels = raw.train.labels
    rest, test = torch.arange(len(labels)), raw.test
    if len(rest) < (3 if test is None else 2):
        raise BadDataset(
            f"{raw.name}: {len(rest)} images are too few to split; at least 3 are needed"
        )
    if test is None:
        generator = seeded(TEST_SEED, "test")
        # Two are left at least, one each for training and validation; also where there is to be no
        # validation, so that the test data is the same.
        rest, held_out = _split_off(labels, rest, config.test_fraction, generator, leave=2)
        test = raw.train.subset(held_out)
    generator = seeded(config.seed, "validation")
    valid = rest[:0]
    if config.valid_fraction:
        rest, valid = _split_off(labels, rest, config.valid_fraction, generator)
    if config.train_limit:
        rest = rest[torch.randperm(len(rest), generator=generator)[: config.train_limit]]
    return raw.train.subset(rest), raw.train.subset(valid), test


def _split_off(
    labels: Tensor, index: Tensor, fraction: float, generator: Generator, leave: int = 1
) -> tuple[Tensor, Tensor]:
    """Split samples, given by index (n), in (rest, part) by class; the part is not empty.

    Systematic sampling: shuffled, sorted by class, and taken at even distances, so that each class
    gives its share to within one sample, and the whole its share exactly.
    """
    size = len(index)
    count = min(max(round(fraction * size), 1), size - leave)
    shuffled = index[torch.randperm(size, generator=generator)]
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    chosen = torch.zeros(size, dtype=torch.bool)
    chosen[(2 * torch.arange(count) + 1) * size // (2 * count)] = True
    return by_class[~chosen].sort().values, by_class[chosen].sort().values


def _digest(raw: RawData) -> str:
    digest = hashlib.sha256()
    for part in filter(None, (raw.train, raw.test)):
        digest.update(repr(tuple(part.images.shape)).encode())
        digest.update(part.labels.contiguous().numpy().data)
        if isinstance(part.images, Tensor):
            digest.update(part.images.contiguous().numpy().data)
        else:
            digest.update(part.images.reader.identity())
    return digest.hexdigest()[:DIGEST_LENGTH]
