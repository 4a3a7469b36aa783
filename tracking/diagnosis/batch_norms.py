"""NormStats: whether batch normalisation's running statistics fit what it meets in validation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tracking.diagnosis.evidence import NormFigures
from tracking.hooks.module_hooks import HookHandle, ValuesHook
from tracking.hooks.outputs import has_values
from tracking.reasons import one_line

__all__ = ["NormStats"]

log = logging.getLogger("layerscope")


class NormStats:
    """Compares batch and running statistics in the first validation batch after training.

    ``before_forward`` is to be called before each forward pass of the model, after ``attach``.
    Batch-norm layers have hooks only in the first pass of a training and of a validation, since a
    hook that does nothing costs time too; where the model is compiled, they have them all the time.
    ``tell`` is given what was found, for each layer once in each validation.
    """

    def __init__(
        self, model: nn.Module, tell: Callable[[NormFigures], None], first_step: int = 0
    ) -> None:
        self.current_step = first_step
        self._tell = tell
        self._layers = [
            (module, ValuesHook(partial(self._before_layer, name, module)))
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
        ]
        self._trained: dict[str, tuple[int, int]] = {}
        self._training: bool | None = None
        self._looks = False
        self._handles: list[HookHandle] = []

    def attach(self) -> None:
        """Hook the layers, since a model is compiled with the hooks that it has."""
        for module, hook in self._layers:
            self._handles.append(hook.before(module))

    def state_dict(self) -> dict[str, Any]:
        """What it remembers of the epoch under way."""
        return {"training": self._training, "trained": dict(self._trained)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self._training, self._trained = state["training"], dict(state["trained"])

    def before_forward(self, training: bool, *, compiled: bool = False) -> None:
        """The model is about to be called, in training mode or for evaluation.

        ``compiled``: by compiled code.
        """
        self._looks = training != self._training
        self._training = training
        if self._looks and not self._handles:
            self.attach()
        elif self._handles and not self._looks and not compiled:
            self.close()

    def close(self) -> None:
        """Remove the hooks. May be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before_layer(self, name: str, module: _BatchNorm, inputs: tuple[Any, ...]) -> None:
        # Compiled code calls the hooks that it was compiled with, also when they have been removed.
        if not self._looks or not self._handles or not inputs or not has_values(inputs[0]):
            return
        try:
            self._look_at(name, module, inputs[0])
        except Exception as error:  # a training is worth more than a look at it
            self.close()
            self._layers = []
            log.warning("batch normalisation is not looked at any more (%s)", one_line(error))

    def _look_at(self, name: str, module: _BatchNorm, x: Tensor) -> None:
        if self._training:
            if module.training:  # a frozen layer does not normalise by its batch
                self._trained[name] = len(x), x.numel() // x.shape[1]
            return
        mean, var = module.running_mean, module.running_var
        if mean is None or var is None or x.numel() < 2 * x.shape[1]:
            return
        with torch.inference_mode(False), torch.no_grad():
            shift, scale = _distance(x.detach().float(), mean.float(), var.float(), module.eps)
        trained = self._trained.get(name, (0, 0))
        self._tell(NormFigures(self.current_step, name, shift, scale, *trained))


def _distance(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[float, float]:
    batch_var, batch_mean = torch.var_mean(x.transpose(0, 1).flatten(1), dim=1)
    shift = (batch_mean - mean) / (var + eps).sqrt()
    scale = ((batch_var + eps) / (var + eps)).log()
    return float(shift.square().mean().sqrt()), float(scale.square().mean().sqrt())
