"""Everything that training changes, kept so that it can be put back bit by bit."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pipelines.data.loaders import Loader

__all__ = ["ModelState", "RandomState", "Snapshot"]


class ModelState:
    """A model's parameters, buffers, gradients and modes at one moment.

    Parameters of lazy modules that have no shape yet are left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        # Not state_dict: it leaves out the buffers that are not persistent. By module and name,
        # since a module may put a new tensor in the place of an old one.
        self._tensors = [
            (module, name, tensor, tensor.detach().clone())
            for module in model.modules()
            for own in (module.named_parameters(recurse=False), module.named_buffers(recurse=False))
            for name, tensor in own
            if not is_lazy(tensor)
        ]
        self._gradients = [(p, p.grad) for p in model.parameters()]
        self._modes = [(module, module.training) for module in model.modules()]

    def restore(self) -> None:
        """Put everything back, into the tensors that held it."""
        with torch.no_grad():
            for module, name, tensor, value in self._tensors:
                tensor.copy_(value)
                if getattr(module, name) is not tensor:
                    setattr(module, name, tensor)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        for module, training in self._modes:
            module.training = training


class RandomState:
    """The global random states of torch (host and devices), NumPy and Python at one moment."""

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        self._numpy = np.random.get_state(legacy=True)
        self._python = random.getstate()

    def state_dict(self) -> dict[str, Any]:
        """As tensors, numbers and tuples, which a file can hold without any code."""
        kind, keys, *rest = self._numpy
        return {
            "torch": self._torch,
            "cuda": self._cuda,
            "mps": self._mps,
            "numpy": (str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
            "python": self._python,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """From what ``state_dict`` gave, perhaps on another machine: the states of devices that
        this one has not are left out."""
        own = cls()
        own._torch, own._python = state["torch"], state["python"]
        if len(own._cuda) == len(state["cuda"]):
            own._cuda = state["cuda"]
        if own._mps is not None and state["mps"] is not None:
            own._mps = state["mps"]
        kind, keys, *rest = state["numpy"]
        own._numpy = (kind, keys.numpy().astype(np.uint32), *rest)
        return own

    def restore(self) -> None:
        """Put them back."""
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)
        np.random.set_state(self._numpy)
        random.setstate(self._python)


class Snapshot:
    """A model, its optimizer, the data order and every random state at one moment."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Loader) -> None:
        self._model = ModelState(model)
        self._optimizer = optimizer
        self._optimizer_state = copy.deepcopy(optimizer.state_dict())
        self._loader = loader
        self._loader_state = copy.deepcopy(loader.state_dict())
        self._random = RandomState()

    def restore(self) -> None:
        """Put everything back."""
        self._model.restore()
        self._optimizer.load_state_dict(self._optimizer_state)
        self._loader.load_state_dict(self._loader_state)
        self._random.restore()
