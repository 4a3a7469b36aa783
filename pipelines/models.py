"""Models: a small CNN with its design choices as options, a small ResNet, torchvision's, one's own.

Layer names are stable and readable, since they are keys in every artifact: ``conv1.relu``,
``block2.act1``, ``head.conv``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipelines.choices import MODELS
from pipelines.config import RunConfig
from pipelines.factories import load_factory
from pipelines.resnet import resnet_small
from pipelines.snapshot import ModelState, RandomState
from tracking.errors import BadModel, did_you_mean
from tracking.reasons import one_line

__all__ = ["build_model", "simple_cnn"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
# Initialisation gains as torch knows them; GELU and SiLU are close enough to a rectifier.
GAINS: dict[str, Literal["tanh", "sigmoid", "leaky_relu"]] = {"tanh": "tanh", "sigmoid": "sigmoid"}
POOLS: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


def build_model(config: RunConfig, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The model that ``config`` names, for images of shape (channels, height, width).

    Weights are drawn from torch's global generator: seed it first. Nothing is downloaded.
    Raises BadModel: unknown, cannot be built, the images are too small for it, or its output is
    not one score for each class.
    """
    model = _make(config, image_shape, classes)
    _check_output(model, config, image_shape, classes)  # gives lazy modules their shapes, too
    if config.init == "kaiming":
        _init_kaiming(model, config.activation if config.model in MODELS else "relu")
    return model


def simple_cnn(config: RunConfig, image_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Convolutions that halve the grid and, by default, double the channels.

    With the defaults this is the network of fastbook's chapter 13: 30,542 parameters on 28x28
    images with batch normalisation, 30,282 without.
    """
    channels, *sides = image_shape
    halvings = len(config.widths)
    if min(sides) < 2**halvings:
        raise BadModel(
            f"model=simple_cnn: images of {sides[0]}x{sides[1]} are too small for {halvings} "
            f"halvings; use image_size={2**halvings} or more, or fewer widths"
        )
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for index, width in enumerate(config.widths, start=1):
        kernel = config.first_kernel if index == 1 else 3
        blocks[f"conv{index}"] = _conv_block(config, channels, width, kernel)
        channels = width
    for _ in range(halvings):
        sides = [
            math.ceil(side / 2) if config.downsample == "stride" else side // 2 for side in sides
        ]
    blocks["head"] = _head(config, channels, sides[0] * sides[1], classes)
    return nn.Sequential(blocks)


def _conv_block(config: RunConfig, inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    stride = 2 if config.downsample == "stride" else 1
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    parts[config.activation] = ACTIVATIONS[config.activation]()
    if config.norm == "batch":
        parts["norm"] = nn.BatchNorm2d(outputs)
    if config.downsample != "stride":
        parts["pool"] = POOLS[config.downsample](2)
    return nn.Sequential(parts)


def _head(config: RunConfig, channels: int, area: int, classes: int) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if config.head == "conv":
        parts["conv"] = nn.Conv2d(channels, classes, 3, stride=2, padding=1)
        if config.norm == "batch":
            parts["norm"] = nn.BatchNorm2d(classes)
        # Nothing to average on images up to 32x32, where the convolution leaves one position.
        parts["pool"] = nn.AdaptiveAvgPool2d(1)
        parts["flatten"] = nn.Flatten()
    elif config.head == "gap":
        parts["pool"] = nn.AdaptiveAvgPool2d(1)
        parts["flatten"] = nn.Flatten()
        parts["linear"] = nn.Linear(channels, classes)
    else:
        parts["flatten"] = nn.Flatten()
        parts["linear"] = nn.Linear(channels * area, classes)
    return nn.Sequential(parts)


def _make(config: RunConfig, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    if config.model == "simple_cnn":
        return simple_cnn(config, image_shape, classes)
    if config.model == "resnet_small":
        return resnet_small(image_shape[0], classes, ACTIVATIONS[config.activation])
    if config.model.startswith("torchvision:"):
        return _torchvision(config.model.partition(":")[2], image_shape[0], classes)
    factory = load_factory(config.model, BadModel)
    model = _call(config.model, factory, image_shape, classes)
    if isinstance(model, nn.Module):
        return model
    raise BadModel(
        f"model={config.model}: gave a {type(model).__name__}; expected a torch.nn.Module from "
        "factory(image_shape, classes)"
    )


def _call(name: str, factory: Callable[..., Any], *args: Any) -> Any:
    try:
        return factory(*args)
    except Exception as error:
        raise BadModel(
            f"model={name}: factory(image_shape, classes) raised {one_line(error)}"
        ) from error


def _torchvision(name: str, channels: int, classes: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise BadModel(
            f"model=torchvision:{name}: not one of torchvision's classification models, such as "
            f"resnet18 or mobilenet_v3_small.{did_you_mean(name, known)}"
        )
    extra = (
        {"aux_logits": False, "init_weights": True} if name in {"googlenet", "inception_v3"} else {}
    )
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **extra)
    _adapt_first_conv(model, channels)
    return model


def _adapt_first_conv(model: nn.Module, channels: int) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != channels:
                parent, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(parent), attribute, _same_conv(module, channels))
            return


def _same_conv(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
    )


def _init_kaiming(model: nn.Module, activation: str) -> None:
    """He et al. 2015: keeps the variance of activations level with depth."""
    slope = 0.1 if activation == "leaky_relu" else 0.0
    shape = GAINS.get(activation, "leaky_relu")
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, a=slope, nonlinearity=shape)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _check_output(
    model: nn.Module, config: RunConfig, image_shape: tuple[int, int, int], classes: int
) -> None:
    """Pass images through as validation and as training will; the model stays as it was."""
    for training in (False, True):
        count = min(2, config.batch_size) if training else 2
        scores = _scores(model, config.model, torch.zeros(count, *image_shape), training)
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        if shape != (count, classes):
            raise BadModel(
                f"model={config.model}: gives {shape} for {count} images in "
                f"{'training' if training else 'evaluation'} mode; the data has {classes} "
                f"classes, so ({count}, {classes}) is expected"
            )


def _scores(model: nn.Module, name: str, images: Tensor, training: bool) -> Any:
    weights, randomness = ModelState(model), RandomState()
    device = next(model.parameters(), images).device
    model.train(training)
    try:
        with torch.no_grad():
            return model(images.to(device))
    except Exception as error:
        count, *shape = images.shape
        larger = "image_size" if count > 1 else "batch_size or image_size"
        raise BadModel(
            f"model={name}: cannot {'train on' if training else 'take'} images of "
            f"{'x'.join(map(str, shape))} in batches of {count} ({one_line(error)}); "
            f"a larger {larger} may help"
        ) from error
    finally:
        weights.restore()
        randomness.restore()
