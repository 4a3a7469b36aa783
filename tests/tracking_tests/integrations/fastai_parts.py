"""fastai learners of a few steps that note for themselves what a step used."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from fastai.callback.schedule import fit_one_cycle, lr_find
from fastai.callback.training import GradientAccumulation
from fastai.vision.all import (
    SGD,
    Adam,
    Callback,
    CancelFitException,
    CancelStepException,
    DataLoaders,
    Learner,
    OptimWrapper,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tracking.integrations.fastai import LayerscopeCallback

__all__ = [
    "SGD",
    "Adam",
    "Callback",
    "CancelFitException",
    "CancelStepException",
    "GradientAccumulation",
    "LayerscopeCallback",
    "Learner",
    "fit_one_cycle",
    "learner",
    "lr_find",
    "torch_adam",
]

torch_adam = partial(OptimWrapper, opt=torch.optim.Adam)


class Fails(nn.Module):
    """Cross entropy that notes what it gave in training, and may fail in one batch."""

    def __init__(self, fails_in: int, error: BaseException) -> None:
        super().__init__()
        self.seen: list[tuple[float, int]] = []
        self._fails_in = fails_in
        self._error = error

    def forward(self, scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if len(self.seen) == self._fails_in:
            raise self._error
        loss = nn.functional.cross_entropy(scores, y)
        if scores.requires_grad:
            self.seen.append((loss.item(), len(y)))
        return loss


def learner(*callbacks: Callback, opt: Any = Adam, **options: Any) -> Learner:
    """With 10 samples for training and 4 for validation, 3 and 4 at a time."""
    fails_in, error = options.pop("fails_in", -1), options.pop("error", ValueError("of the loss"))
    generator = torch.Generator().manual_seed(1)

    def loader(samples: int, size: int) -> DataLoader[Any]:
        x = torch.randn(samples, 4, generator=generator)
        y = torch.randint(0, 3, (samples,), generator=generator)
        return DataLoader(TensorDataset(x, y), size)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    loaders = DataLoaders(loader(10, 3), loader(4, 4), device="cpu")
    learn = Learner(
        loaders, model, Fails(fails_in, error), opt_func=opt, cbs=list(callbacks), **options
    )
    learn.create_mbar = False
    learn.logger = lambda *args: None
    return learn
