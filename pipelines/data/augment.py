"""Random augmentation, per sample and on the device, before images are normalised.

All random numbers of a batch are drawn at once from a generator, eight for each sample whatever is
switched on, so that the same seed gives the same images on every device.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

import torch
from torch import Generator, Tensor

__all__ = ["Augment"]

DRAWS = 8
FLIP, CROP_Y, CROP_X, ERASE, AREA, ASPECT, TOP, LEFT = range(DRAWS)
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 3.3)


@dataclass(frozen=True)
class Augment:
    """Flips, crops and erases, each sample by its own draw.

    ``flip`` mirrors half of the samples left to right. ``crop-flip`` also moves each by up to an
    eighth of its side, at least 2 pixels, each way; what comes in is the image's reflection.
    """

    kind: Literal["none", "flip", "crop-flip"] = "none"
    erase: float = 0.0
    """Probability that a rectangle is erased from a sample (random erasing, arXiv:1708.04896)."""
    fill: tuple[float, ...] = (0.0,)
    """Value of erased pixels in the images' units, one for all channels or one each: their mean."""

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """Augment images (N, C, H, W); dtype and memory format are kept, `x` is not changed."""
        draws = torch.rand(len(x), DRAWS, generator=generator, device=generator.device)
        draws = draws.to(x.device)
        if self.kind != "none":
            x = _move(x, draws, crop=self.kind == "crop-flip")
        if self.erase > 0:
            x = torch.where(self._erased(x, draws), x.new_tensor(self._fill(x)), x)
        return x

    def _fill(self, x: Tensor) -> list[list[list[float]]]:
        """The fill as nested lists (C, 1, 1), whole numbers for uint8 images."""
        values = self.fill if x.is_floating_point() else tuple(round(value) for value in self.fill)
        return [[[value]] for value in values]

    def _erased(self, x: Tensor, draws: Tensor) -> Tensor:
        """Which pixels are erased: bool (N, 1, H, W).

        Area and the logarithm of the aspect ratio are uniform; a side that would leave the image is
        cut to it.
        """
        height, width = x.shape[-2:]
        area = height * width * _between(ERASED_AREA, draws[:, AREA])
        low, high = ERASED_ASPECT
        aspect = _between((log(low), log(high)), draws[:, ASPECT]).exp()
        rows = _span(height, (area * aspect).sqrt(), draws[:, TOP])
        columns = _span(width, (area / aspect).sqrt(), draws[:, LEFT])
        hit = draws[:, ERASE] < self.erase
        return (hit[:, None, None] & rows[:, :, None] & columns[:, None, :]).unsqueeze(1)


def _between(bounds: tuple[float, float], draw: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def _span(side: int, length: Tensor, draw: Tensor) -> Tensor:
    """Which positions lie in a span of rounded length (N) at a random place: bool (N, side)."""
    length = length.round().clamp(1, side)
    start = (draw * (side - length + 1)).floor()
    positions = torch.arange(side, device=draw.device)
    return (positions >= start[:, None]) & (positions < (start + length)[:, None])


def _move(x: Tensor, draws: Tensor, crop: bool) -> Tensor:
    """Crop from the reflected image, and flip: both are one look-up of source pixels."""
    count, channels, height, width = x.shape
    rows = torch.arange(height, device=x.device).expand(count, -1)
    columns = torch.arange(width, device=x.device).expand(count, -1)
    if crop:
        rows = _shifted(rows, height, draws[:, CROP_Y])
        columns = _shifted(columns, width, draws[:, CROP_X])
    columns = torch.where(draws[:, FLIP, None] < 0.5, columns.flip(1), columns)
    source = (rows * width)[:, :, None] + columns[:, None, :]
    if x.is_contiguous():
        planes = x.view(count, channels, height * width)
        return planes.gather(2, source.view(count, 1, -1).expand_as(planes)).view_as(x)
    # channels_last: pixels are the rows of a matrix
    samples = torch.arange(count, device=x.device) * (height * width)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
    moved = pixels.index_select(0, (samples[:, None, None] + source).flatten())
    return moved.view(count, height, width, channels).permute(0, 3, 1, 2)


def _shifted(positions: Tensor, side: int, draw: Tensor) -> Tensor:
    """Positions (N, side) moved by up to the padding, reflected at the borders."""
    padding = min(max(2, side // 8), side - 1)
    moved = positions + (draw * (2 * padding + 1)).long()[:, None] - padding
    return (side - 1) - ((side - 1) - moved.abs()).abs()
