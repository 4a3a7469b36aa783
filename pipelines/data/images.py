"""Images in memory or read on demand, and the values that carry them.

``Images`` is either a uint8 tensor (N, C, H, W) or a `LazyImages`; both have ``shape`` and ``len``
and are indexed with an int64 tensor, so that whoever uses them need not care which one it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = [
    "MEMORY_LIMIT",
    "ImageReader",
    "Images",
    "LazyImages",
    "RawData",
    "Split",
    "fit",
    "resize",
    "take",
]

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded images up to which a set is held in memory."""


class ImageReader(Protocol):
    """Reads images by number; picklable, so that it works in a DataLoader's worker too."""

    def __call__(self, index: Tensor) -> Tensor:
        """Read the images of an int64 index (n): uint8 (n, C, H, W)."""

    def identity(self) -> bytes:
        """What tells these images from others, without reading them all."""


@dataclass(frozen=True, eq=False)
class LazyImages:
    """A map-style store of uint8 images that are read when they are asked for."""

    reader: ImageReader
    index: Tensor
    """int64 (N): the numbers under which the reader knows the images."""
    image_shape: tuple[int, int, int]
    """(C, H, W)"""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W), as a tensor has it."""
        return (len(self), *self.image_shape)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Read the images at an int64 index (n): uint8 (n, C, H, W)."""
        return self.reader(self.index[index])

    def subset(self, index: Tensor) -> LazyImages:
        """The images at an int64 index (n), still unread."""
        return LazyImages(self.reader, self.index[index], self.image_shape)


Images: TypeAlias = Tensor | LazyImages


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, in the same order."""

    images: Images
    """uint8 (N, C, H, W), in memory or lazy."""
    labels: Tensor
    """int64 (N), in memory."""

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> Split:
        """The samples at an int64 index (n)."""
        return Split(take(self.images, index), self.labels[index])


@dataclass(frozen=True, eq=False)
class RawData:
    """A data set as it was read: nothing split off, nothing normalised."""

    name: str
    source: str
    """The path it was read from, or a description."""
    classes: tuple[str, ...]
    train: Split
    test: Split | None = None
    """None where the data set brings no test part."""


def take(images: Images, index: Tensor) -> Images:
    """The images at an int64 index (n), in memory or lazy as they were."""
    if isinstance(images, LazyImages):
        return images.subset(index)
    return images.index_select(0, index)


def resize(images: Tensor, size: int) -> Tensor:
    """Images uint8 (N, C, H, W) as uint8 (N, C, size, size).

    Bilinear, with an antialiasing filter when it shrinks. The sides' ratio is not kept.
    """
    if tuple(images.shape[-2:]) == (size, size):
        return images
    return interpolate(images, size=(size, size), mode="bilinear", antialias=True)


@dataclass(frozen=True, eq=False)
class _ResizingReader:
    """Images that fit into memory as stored, but not after resizing."""

    images: Tensor
    size: int

    def __call__(self, index: Tensor) -> Tensor:
        return resize(self.images[index], self.size)

    def identity(self) -> bytes:
        return hashlib.sha256(self.images.contiguous().numpy().data).digest()


def fit(images: Tensor, size: int, memory_limit: int = MEMORY_LIMIT) -> Images:
    """Images uint8 (N, C, H, W) resized to `size` pixels a side; 0 leaves them as they are.

    They are resized now when the result takes up to `memory_limit` bytes, else on demand.
    """
    count, channels, *sides = images.shape
    if size == 0 or sides == [size, size]:
        return images
    if count * channels * size * size <= memory_limit:
        return torch.cat([resize(part, size) for part in torch.split(images, 1024)])
    return LazyImages(_ResizingReader(images, size), torch.arange(count), (channels, size, size))
