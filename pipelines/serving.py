"""The model as it is served: raw pixels in, class probabilities out."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipelines.data.datasets import ImageData

__all__ = ["ServingModel", "serving_model"]


class ServingModel(nn.Module):
    """Normalises images as they were in training, and turns scores into probabilities."""

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities (N, classes) of float32 images (N, C, H, W) with pixels from 0 to 255."""
        scores: Tensor = self.model((images - self.mean) / self.std)
        return scores.softmax(dim=1)


def serving_model(
    model: nn.Module, data: ImageData
) -> tuple[ServingModel, npt.NDArray[np.float32]]:
    """A copy of the model for serving, on the CPU, and two images as an example.

    They are validation images, or training images where there is no validation.
    """
    copied = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    serving = ServingModel(copied, data.mean, data.std).eval()
    split = data.valid if len(data.valid) else data.train
    images = split.images[torch.arange(2) % len(split)]
    return serving, images.float().numpy()
