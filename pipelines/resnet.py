"""resnet_small: a residual network of about 1.2 million parameters for small images.

A 5x5 stem and a residual block at full resolution, then blocks that halve the grid and double the
channels. The shortcut of a halving block averages before its 1x1 convolution, so no pixel is thrown
away (ResNet-D: He et al. 2018, 1812.01187), and the last scale of a block starts at zero, so that
the network starts out shallow (Goyal et al. 2017, 1706.02677, section 5.1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["ResidualBlock", "resnet_small"]

WIDTHS = (16, 16, 32, 64, 128, 256)
"""Channels of the stem and of each block's output; a block that changes them halves the grid."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut; halves the grid if widths differ."""

    def __init__(self, inputs: int, outputs: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else _halving_shortcut(inputs, outputs)
        self.act2 = activation()
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W), or to half the grid, rounded up."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        result: Tensor = self.act2(y + self.shortcut(x))
        return result


def resnet_small(
    channels: int,
    classes: int,
    activation: Callable[[], nn.Module],
    widths: Sequence[int] = WIDTHS,
) -> nn.Sequential:
    """The network for images with ``channels`` channels, of any size."""
    stem = OrderedDict(
        conv=nn.Conv2d(channels, widths[0], 5, padding=2, bias=False),
        norm=nn.BatchNorm2d(widths[0]),
        act=activation(),
    )
    head = OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(widths[-1], classes),
    )
    blocks: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(stem))
    for index, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        blocks[f"block{index}"] = ResidualBlock(inputs, outputs, activation)
    blocks["head"] = nn.Sequential(head)
    return nn.Sequential(blocks)


def _halving_shortcut(inputs: int, outputs: int) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        # ceil_mode: an odd grid halves to the same size here as in a strided convolution.
        pool=nn.AvgPool2d(2, ceil_mode=True),
        conv=nn.Conv2d(inputs, outputs, 1, bias=False),
        norm=nn.BatchNorm2d(outputs),
    )
    return nn.Sequential(parts)
