"""Augmentation against the slow and obvious way to do it."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pipelines.data.augment import Augment

__all__: list[str] = []

Kind = Literal["flip", "crop-flip"]
FORMATS = [torch.contiguous_format, torch.channels_last]
SHAPES = [(64, 1, 8, 8), (64, 3, 16, 10)]


def some(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def crops(image: Tensor, padding: tuple[int, int]) -> list[Tensor]:
    """Every crop of a reflected image (C, H, W), and its mirror images."""
    height, width = image.shape[1:]
    rows, columns = padding
    padded = F.pad(image[None].double(), (columns, columns, rows, rows), mode="reflect")[0]
    found = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * rows + 1)
        for left in range(2 * columns + 1)
    ]
    return found + [crop.flip(2) for crop in found]


def test_nothing_is_changed_by_default() -> None:
    x = some((4, 1, 8, 8))
    assert Augment()(x, seeded()) is x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_flip_mirrors_about_half_of_the_samples(
    shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    x = some(shape).contiguous(memory_format=memory_format)
    y = Augment("flip")(x, seeded())
    same = (y == x).flatten(1).all(dim=1)
    mirrored = (y == x.flip(3)).flatten(1).all(dim=1)
    assert (same ^ mirrored).all()
    assert 16 <= int(same.sum()) <= 48


@pytest.mark.parametrize(
    ("shape", "padding"),
    [((64, 1, 8, 8), (2, 2)), ((64, 3, 16, 10), (2, 2)), ((9, 1, 24, 32), (3, 4))],
)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_crop_flip_takes_crops_of_the_reflected_image(
    shape: tuple[int, ...], padding: tuple[int, int], memory_format: torch.memory_format
) -> None:
    x = some(shape).contiguous(memory_format=memory_format)
    y = Augment("crop-flip")(x, seeded()).double()
    places = []
    for before, after in zip(x, y, strict=True):
        matches = [torch.equal(crop, after) for crop in crops(before, padding)]
        assert sum(matches) == 1
        places.append(matches.index(True))
    assert len(set(places)) > len(x) // 4  # each sample has its own draw


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (2, 2), (3, 9)])
def test_tiny_images_are_moved_within_their_reflection(height: int, width: int) -> None:
    x = some((32, 1, height, width))
    y = Augment("crop-flip")(x, seeded())
    padding = min(2, height - 1), min(2, width - 1)
    for before, after in zip(x, y.double(), strict=True):
        assert any(torch.equal(crop, after) for crop in crops(before, padding))


@pytest.mark.parametrize("side", [32, 64])
def test_erases_one_rectangle_of_the_right_size(side: int) -> None:
    x = torch.ones(500, 1, side, side)
    y = Augment(erase=1.0, fill=(0.0,))(x, seeded())[:, 0] == 0
    rows, columns = y.any(dim=2), y.any(dim=1)
    assert torch.equal(y, rows[:, :, None] & columns[:, None, :])
    heights, widths = rows.sum(dim=1), columns.sum(dim=1)
    for marks, lengths in ((rows, heights), (columns, widths)):  # one span, no holes
        changes = (marks.int().diff(dim=1) == 1).sum(dim=1) + marks[:, 0].int()
        assert (changes == 1).all()
        assert (lengths >= 1).all()
    area = heights * widths / side**2
    aspect = heights / widths
    assert 0.01 < area.min() < 0.04
    assert 0.28 < area.max() < 0.36
    assert 0.22 < aspect.min() < 0.4
    assert 2.5 < aspect.max() < 4.5
    assert len({tuple(row) for row in rows.int().tolist()}) > 50


@pytest.mark.parametrize(
    ("erase", "low", "high"), [(0.0, 0, 0), (0.25, 180, 320), (1.0, 1000, 1000)]
)
def test_erase_is_a_probability(erase: float, low: int, high: int) -> None:
    x = torch.ones(1000, 1, 16, 16)
    hit = (Augment(erase=erase)(x, seeded()) == 0).flatten(1).any(dim=1)
    assert low <= int(hit.sum()) <= high


def test_erased_pixels_have_the_channels_mean() -> None:
    x = torch.zeros(50, 3, 12, 12, dtype=torch.uint8)
    y = Augment(erase=1.0, fill=(10.4, 20.6, 255.0))(x, seeded())
    erased = (y[:, 0] != 0).unsqueeze(1)
    expected = torch.tensor([10, 21, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert torch.equal(y, torch.where(erased, expected, x))


@pytest.mark.parametrize("kind", ["none", "flip", "crop-flip"])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_type_and_memory_format_are_kept(
    kind: Kind, memory_format: torch.memory_format, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = some(shape).to(dtype).contiguous(memory_format=memory_format)
    before = x.clone()
    y = Augment(kind, 0.5, (1.0,))(x, seeded())
    assert y.dtype == dtype
    assert y.shape == x.shape
    assert y.is_contiguous(memory_format=memory_format)
    assert not torch.equal(y, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", ["flip", "crop-flip"])
def test_images_follow_from_the_generator_alone(kind: Kind) -> None:
    augment = Augment(kind, 0.5, (7.0,))
    x = some((32, 3, 8, 8))
    global_state = torch.get_rng_state()
    first = augment(x, seeded(1))
    assert torch.equal(augment(x, seeded(1)), first)
    assert not torch.equal(augment(x, seeded(2)), first)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augment(last, seeded(1)), first)
    assert torch.equal(torch.get_rng_state(), global_state)


def test_equal_samples_of_a_batch_are_treated_differently() -> None:
    x = some((1, 1, 16, 16)).expand(64, -1, -1, -1).contiguous()
    y = Augment("crop-flip", 0.5, (7.0,))(x, seeded())
    assert len(set(map(tuple, y.flatten(1).tolist()))) > 40
