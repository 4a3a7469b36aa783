"""Images in memory and on demand: resizing, indexing, identity."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipelines.data.images import LazyImages, Split, fit, resize, take

__all__: list[str] = []


def some(count: int = 6, channels: int = 3, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [5, 8, 28])
def test_resize_keeps_channels_and_type(channels: int, size: int) -> None:
    resized = resize(some(channels=channels), size)
    assert resized.shape == (6, channels, size, size)
    assert resized.dtype == torch.uint8


@pytest.mark.parametrize("size", [3, 28])
def test_resize_is_antialiased_bilinear_as_pil_does_it(size: int) -> None:
    images = some(channels=1, side=10)
    expected = [
        np.asarray(
            Image.fromarray(image[0].numpy()).resize((size, size), Image.Resampling.BILINEAR)
        )
        for image in images
    ]
    distance = resize(images, size)[:, 0].numpy().astype(int) - np.stack(expected)
    assert np.abs(distance).max() <= 1


def test_resize_keeps_the_brightness_of_each_image() -> None:
    flat = torch.tensor([0, 1, 127, 255], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 8, 8)
    assert torch.equal(resize(flat, 28)[:, 0, 5, 5], flat[:, 0, 0, 0])


@pytest.mark.parametrize("size", [0, 8])
def test_fit_leaves_images_that_fit_alone(size: int) -> None:
    images = some()
    assert fit(images, size, memory_limit=0) is images


def test_fit_resizes_now_or_on_demand() -> None:
    images = some()
    now = fit(images, 12, memory_limit=6 * 3 * 12 * 12)
    later = fit(images, 12, memory_limit=6 * 3 * 12 * 12 - 1)
    assert isinstance(now, Tensor)
    assert isinstance(later, LazyImages)
    assert later.shape == now.shape
    assert torch.equal(later[torch.arange(6)], now)


def test_fit_resizes_in_parts() -> None:
    images = some(count=1030, channels=1, side=4)
    resized = fit(images, 6)
    assert isinstance(resized, Tensor)
    assert torch.equal(resized, resize(images, 6))


def test_lazy_images_are_indexed_like_a_tensor() -> None:
    images = some()
    lazy = fit(images, 12, memory_limit=0)
    assert isinstance(lazy, LazyImages)
    part = pickle.loads(pickle.dumps(take(lazy, torch.tensor([4, 1, 3]))))
    assert len(part) == 3
    assert part.shape == (3, 3, 12, 12)
    assert torch.equal(part[torch.tensor([2, 0])], resize(images[[3, 4]], 12))


def test_identity_of_lazy_images_depends_on_the_pixels() -> None:
    images = some()
    changed = images.clone()
    changed[5, 2, 7, 7] ^= 1
    stores = [fit(stored, 12, memory_limit=0) for stored in (images, images.clone(), changed)]
    identities = [store.reader.identity() for store in stores if isinstance(store, LazyImages)]
    assert identities[0] == identities[1] != identities[2]


def test_a_split_keeps_images_and_labels_together() -> None:
    split = Split(some(), torch.arange(6))
    part = split.subset(torch.tensor([5, 0]))
    assert len(part) == 2
    assert part.labels.tolist() == [5, 0]
    assert isinstance(part.images, Tensor)
    assert torch.equal(part.images, some()[[5, 0]])
