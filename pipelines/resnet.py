"""resnet_small: a residual network of about 1.2 million parameters for small images.

A 5x5 stem at full resolution, then one residual block for each width, each of which halves the
grid and doubles the channels. The shortcut averages before its 1x1 convolution, so no pixel is
thrown away (ResNet-D: He et al. 2018, 1812.01187), and the last scale of a block starts at zero, so
that the network starts out shallow (Goyal et al. 2017, 1706.02677, section 5.1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

__all__ = ["ResidualBlock", "resnet_small"]

WIDTHS = (32, 64, 128, 256)
STEM = 16


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, around them a shortcut; halves the grid."""

    def __init__(self, inputs: int, outputs: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(
            OrderedDict(
                # ceil_mode: an odd grid halves to the same size here as in a strided convolution.
                pool=nn.AvgPool2d(2, ceil_mode=True),
                conv=nn.Conv2d(inputs, outputs, 1, bias=False),
                norm=nn.BatchNorm2d(outputs),
            )
        )
        self.act2 = activation()
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, ceil(H / 2), ceil(W / 2))."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        total: Tensor = self.act2(y + self.shortcut(x))
        return total


def resnet_small(
    channels: int,
    classes: int,
    activation: Callable[[], nn.Module],
    widths: Sequence[int] = WIDTHS,
) -> nn.Sequential:
    """The network for images with ``channels`` channels, of any size from 2x2."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    blocks["stem"] = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, STEM, 5, padding=2, bias=False),
            norm=nn.BatchNorm2d(STEM),
            act=activation(),
        )
    )
    inputs = STEM
    for index, width in enumerate(widths, start=1):
        blocks[f"block{index}"] = ResidualBlock(inputs, width, activation)
        inputs = width
    blocks["head"] = nn.Sequential(
        OrderedDict(
            pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(inputs, classes)
        )
    )
    return nn.Sequential(blocks)
