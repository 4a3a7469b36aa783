"""Networks that the built-in models do not cover: plain deep CNNs and perceptrons.

Each is a factory(image_shape, classes), used as ``model=benchmarks.faults.models:NAME``. Weights
are PyTorch's default unless ``init=kaiming`` is given, so the deep ones start out vanishing without
it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import nn

__all__ = [
    "deep_gelu",
    "deep_leaky",
    "deep_norm",
    "deep_relu",
    "deep_sigmoid",
    "deep_silu",
    "deep_tanh",
    "deeper_relu",
    "late_norm",
    "mlp_deep",
    "mlp_leaky",
    "mlp_norm",
    "mlp_relu",
    "mlp_sigmoid",
    "mlp_tanh",
    "perceptron",
    "plain_cnn",
]

Activation = Callable[[], nn.Module]


def plain_cnn(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    activation: Activation = nn.ReLU,
    depth: int = 8,
    width: int = 16,
    norm: bool = False,
) -> nn.Sequential:
    """Convolutions of one width, the first two with stride 2, then average pooling and a head."""
    channels = image_shape[0]
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(1, depth + 1):
        stride = 2 if index <= 2 else 1
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["conv"] = nn.Conv2d(channels, width, 3, stride, padding=1, bias=not norm)
        if norm:
            parts["norm"] = nn.BatchNorm2d(width)
        parts["act"] = activation()
        blocks[f"conv{index}"] = nn.Sequential(parts)
        channels = width
    head = OrderedDict(
        pool=nn.AdaptiveAvgPool2d(2), flatten=nn.Flatten(), linear=nn.Linear(4 * width, classes)
    )
    blocks["head"] = nn.Sequential(head)
    return nn.Sequential(blocks)


def perceptron(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    activation: Activation = nn.ReLU,
    depth: int = 3,
    width: int = 64,
    norm: bool = False,
) -> nn.Sequential:
    """Fully connected layers of one width over the pixels."""
    channels, height, across = image_shape
    inputs = channels * height * across
    blocks: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for index in range(1, depth + 1):
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["linear"] = nn.Linear(inputs, width)
        if norm:
            parts["norm"] = nn.BatchNorm1d(width)
        parts["act"] = activation()
        blocks[f"full{index}"] = nn.Sequential(parts)
        inputs = width
    blocks["head"] = nn.Linear(inputs, classes)
    return nn.Sequential(blocks)


def late_norm(image_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Convolutions down to one pixel, each followed by batch norm, as late layers often are."""
    channels, side = image_shape[0], min(image_shape[1:])
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    width = 8
    while side > 1:
        parts = OrderedDict(
            conv=nn.Conv2d(channels, width, 3, 2, padding=1, bias=False),
            norm=nn.BatchNorm2d(width),
            act=nn.ReLU(),
        )
        blocks[f"conv{len(blocks) + 1}"] = nn.Sequential(parts)
        channels, width, side = width, min(2 * width, 64), (side + 1) // 2
    blocks["pool"] = nn.AdaptiveAvgPool2d(1)
    blocks["flatten"] = nn.Flatten()
    blocks["head"] = nn.Linear(channels, classes)
    return nn.Sequential(blocks)


deep_relu = plain_cnn
deeper_relu = partial(plain_cnn, depth=14, width=12)
deep_leaky = partial(plain_cnn, activation=partial(nn.LeakyReLU, 0.1))
deep_gelu = partial(plain_cnn, activation=nn.GELU)
deep_silu = partial(plain_cnn, activation=nn.SiLU)
deep_tanh = partial(plain_cnn, activation=nn.Tanh)
deep_sigmoid = partial(plain_cnn, activation=nn.Sigmoid)
deep_norm = partial(plain_cnn, norm=True)

mlp_relu = perceptron
mlp_leaky = partial(perceptron, activation=partial(nn.LeakyReLU, 0.1), depth=4)
mlp_tanh = partial(perceptron, activation=nn.Tanh)
mlp_sigmoid = partial(perceptron, activation=nn.Sigmoid, depth=2)
mlp_norm = partial(perceptron, norm=True)
mlp_deep = partial(perceptron, depth=10, width=48)
