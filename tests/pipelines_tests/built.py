"""Models as a configuration gives them, and what is said where it gives none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.config import RunConfig
from pipelines.models import build_model
from tracking.errors import BadModel

__all__ = ["DIGITS", "Shape", "build", "conv", "count", "refusal"]

Shape = tuple[int, int, int]
DIGITS: Shape = (1, 28, 28)


def build(
    image_shape: Shape = DIGITS, classes: int = 10, seed: int = 0, **options: object
) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(RunConfig(**options), image_shape, classes)


def refusal(image_shape: Shape = DIGITS, classes: int = 10, **options: object) -> str:
    with pytest.raises(BadModel) as caught:
        build(image_shape, classes, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def conv(kernel: int, inputs: int, outputs: int) -> int:
    return kernel * kernel * inputs * outputs + outputs
