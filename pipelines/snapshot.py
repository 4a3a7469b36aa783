"""Everything that training changes, kept so that it can be put back bit by bit."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.loaders import Loader

__all__ = ["Snapshot"]


class Snapshot:
    """Weights, buffers, gradients, optimizer, data order and every random state at one moment."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Loader) -> None:
        self._model = model
        self._optimizer = optimizer
        self._loader = loader
        # Not state_dict: it leaves out the buffers that are not persistent.
        self._tensors = [(t, t.detach().clone()) for t in _tensors(model)]
        self._gradients = [(p, p.grad) for p in model.parameters()]
        self._modes = [(module, module.training) for module in model.modules()]
        self._optimizer_state = copy.deepcopy(optimizer.state_dict())
        self._loader_state = copy.deepcopy(loader.state_dict())
        self._random = _random_states()

    def restore(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for tensor, value in self._tensors:
                tensor.copy_(value)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        for module, training in self._modes:
            module.training = training
        self._optimizer.load_state_dict(self._optimizer_state)
        self._loader.load_state_dict(self._loader_state)
        _set_random_states(self._random)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _random_states() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])
