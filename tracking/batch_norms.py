"""NormStats: whether batch normalisation's running statistics fit what it meets in validation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from tracking.diagnosis.evidence import NormFigures
from tracking.layers import Hook

__all__ = ["NormStats"]


class NormStats:
    """Compares, in the first validation batch after training, batch and running statistics.

    One look at each batch-norm layer for each validation. ``tell`` is given what was found. The
    running statistics are averages over training batches; where those are too small, their
    variance is too uncertain, and validation, which normalises by the averages, goes astray.
    """

    def __init__(self, model: nn.Module, tell: Callable[[NormFigures], None]) -> None:
        self.model: nn.Module = getattr(model, "_orig_mod", model)
        self.current_step = 0
        self._tell = tell
        self._looked_at: dict[str, int] = {}
        self._trained: dict[str, tuple[int, int]] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                hook = Hook(partial(self._before_forward, name))
                self._handles.append(module.register_forward_pre_hook(hook))
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks. May be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_forward(self, name: str, module: _BatchNorm, inputs: tuple[Any, ...]) -> None:
        [x, *_] = inputs
        if module.training:
            self._trained[name] = len(x), x.numel() // x.shape[1]
            return
        if self._looked_at.get(name) == self.current_step:
            return
        mean, var = module.running_mean, module.running_var
        if mean is None or var is None or x.numel() < 2 * x.shape[1]:
            return
        self._looked_at[name] = self.current_step
        with torch.inference_mode(False), torch.no_grad():
            shift, scale = _distance(x.detach().float(), mean.float(), var.float(), module.eps)
        trained = self._trained.get(name, (0, 0))
        self._tell(NormFigures(self.current_step, name, shift, scale, *trained))


def _distance(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[float, float]:
    batch_var, batch_mean = torch.var_mean(x.transpose(0, 1).flatten(1), dim=1)
    shift = (batch_mean - mean) / (var + eps).sqrt()
    scale = ((batch_var + eps) / (var + eps)).log()
    return float(shift.square().mean().sqrt()), float(scale.square().mean().sqrt())
