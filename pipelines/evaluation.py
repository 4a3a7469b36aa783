"""How good a network is on a split: loss and accuracy in evaluation mode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from pipelines.data.loaders import Loader
from pipelines.step import autocast

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Mean cross entropy (without label smoothing) and share of correct answers on a split."""

    loss: float
    accuracy: float
    top_class: float = math.nan
    """Share of the class that was predicted most often."""


def evaluate(
    model: nn.Module, loader: Loader, device: torch.device, precision: str = "fp32"
) -> Evaluation:
    """Loss and accuracy of a model in evaluation mode over a loader; one transfer at the end.

    The loader must have a batch.
    """
    was_training = model.training
    model.eval()
    # Apple's GPU has no float64.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    loss = torch.zeros((), dtype=dtype, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    predicted = torch.zeros(0, dtype=torch.int64, device=device)
    samples = 0
    with torch.no_grad():
        for x, y in loader:
            with autocast(device, precision):
                scores = model(x)
            loss += F.cross_entropy(scores.float(), y, reduction="sum")
            answers = scores.argmax(dim=1)
            correct += (answers == y).sum()
            if not len(predicted):
                predicted = predicted.new_zeros(scores.shape[1])
            # Not bincount, which makes the host wait for the largest answer.
            predicted.index_add_(0, answers, torch.ones_like(answers))
            samples += len(y)
    model.train(was_training)
    top = int(predicted.max()) / samples
    return Evaluation(float(loss) / samples, int(correct) / samples, top)
