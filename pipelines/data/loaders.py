"""Batches on the device: from memory where the images fit, else through a DataLoader.

Images stay uint8 until a batch is normalised. Data order and augmentation come from the loader's
own generator; the global random state is never touched.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from pipelines.config import RunConfig
from pipelines.data.augment import Augment
from pipelines.data.datasets import ImageData, seeded
from pipelines.data.images import Split

__all__ = ["Batch", "InMemoryLoader", "Loader", "Loaders", "StreamLoader", "make_loaders"]

EVALUATION_BATCH = 512


class Batch(NamedTuple):
    """Images and labels on the device."""

    x: Tensor
    """float32 (N, C, H, W), normalised."""
    y: Tensor
    """int64 (N)"""


class Loader(ABC):
    """An epoch of batches each time it is iterated over.

    Args:
        split: uint8 images (N, C, H, W) and int64 labels (N).
        batch_size: samples per batch. The last batch may be smaller; when shuffling, that is in
            training, a last batch of one sample is dropped, since batch norm cannot train on it.
        mean, std: per channel, in 0-1 units.
        device: where batches are made.
        shuffle: a new order for every epoch, drawn from the generator.
        generator: on the CPU; None makes one with a fixed seed.
        channels_last: memory format of the batches.
        augment: applied to the uint8 images.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        *,
        shuffle: bool = False,
        generator: Generator | None = None,
        channels_last: bool = False,
        augment: Augment | None = None,
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.device = device
        self.shuffle = shuffle
        self.generator = generator if generator is not None else Generator().manual_seed(0)
        self.channels_last = channels_last
        self.augment = augment
        # (x / 255 - mean) / std as one multiplication and one addition
        deviation = torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
        average = torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1)
        self._scale = (1 / (255 * deviation)).float().to(device)
        self._shift = (-average / deviation).float().to(device)
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """Bring images and labels to where batches are taken from."""

    @abstractmethod
    def _batches(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 images and labels on the device, in the order and memory format asked for."""

    def __iter__(self) -> Iterator[Batch]:
        """One epoch; nothing where there are no samples."""
        if not self.samples:
            return  # torch.split makes a batch of nothing, too
        for images, labels in self._batches(self._order()):
            augmented = self.augment(images, self.generator) if self.augment else images
            yield Batch(augmented.float().mul_(self._scale).add_(self._shift), labels)

    @property
    def samples(self) -> int:
        """Samples in an epoch."""
        count = len(self.split)
        single = self.shuffle and self.batch_size > 1 and count % self.batch_size == 1
        return count - 1 if single else count

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self.samples / self.batch_size)

    def state_dict(self) -> dict[str, Tensor]:
        """What the data order and the augmentation of the coming epochs depend on."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go back to a state; the next epoch is then bit-identical to the one that followed it."""
        self.generator.set_state(state["generator"])

    def _order(self) -> Tensor:
        """This epoch's samples, in order: int64 (samples), on the CPU."""
        if not self.shuffle:
            return torch.arange(self.samples)
        return torch.randperm(len(self.split), generator=self.generator)[: self.samples]


class InMemoryLoader(Loader):
    """Batches of images that stay on the device as uint8."""

    def _prepare(self) -> None:
        images = self.split.images
        assert isinstance(images, Tensor)
        # index_select is fast along the first dimension of contiguous memory, so channels_last
        # images are kept as (N, H, W, C), and a batch of them changes its strides only.
        images = images.permute(0, 2, 3, 1) if self.channels_last else images
        self._images = images.contiguous().to(self.device)
        self._labels = self.split.labels.to(self.device)

    def _batches(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.split(order.to(self.device), self.batch_size):
            images = self._images.index_select(0, index)
            if self.channels_last:
                images = images.permute(0, 3, 1, 2)
            yield images, self._labels.index_select(0, index)


class StreamLoader(Loader):
    """Batches of images that a DataLoader reads when they are needed."""

    workers = 0
    """Processes that read ahead; 0 reads in this one."""

    def _prepare(self) -> None:
        self._samples = _Samples(self.split)
        self._format = torch.channels_last if self.channels_last else torch.contiguous_format

    def _batches(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            self._samples,
            batch_size=None,  # an item is a batch: the sampler gives an index tensor for each
            sampler=torch.split(order, self.batch_size),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=Generator(),  # without one, DataLoader draws from the global random state
        )
        for images, labels in loader:
            on_device = images.to(self.device, non_blocking=True)
            yield (
                on_device.contiguous(memory_format=self._format),
                labels.to(self.device, non_blocking=True),
            )


class _Samples(Dataset[tuple[Tensor, Tensor]]):
    """A split as a data set whose items are whole batches."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.split.images[index], self.split.labels[index]

    def __len__(self) -> int:
        return len(self.split)


class Loaders(NamedTuple):
    """The three loaders of a run."""

    train: Loader
    valid: Loader
    test: Loader


def make_loaders(data: ImageData, config: RunConfig, device: torch.device) -> Loaders:
    """Loaders for a run: training data shuffled and augmented, the rest in order and as it is.

    Validation and test batches have at least 512 samples: they need no room for gradients.
    """
    augment = Augment(config.augment, config.erase, tuple(255 * value for value in data.mean))
    wanted = config.augment != "none" or config.erase > 0

    def loader(split: Split, batch_size: int, training: bool) -> Loader:
        kind = InMemoryLoader if isinstance(split.images, Tensor) else StreamLoader
        return kind(
            split,
            batch_size,
            data.mean,
            data.std,
            device,
            shuffle=training,
            generator=seeded(config.seed, "batches"),
            channels_last=config.channels_last,
            augment=augment if wanted and training else None,
        )

    evaluation = max(config.batch_size, EVALUATION_BATCH)
    return Loaders(
        loader(data.train, config.batch_size, training=True),
        loader(data.valid, evaluation, training=False),
        loader(data.test, evaluation, training=False),
    )
