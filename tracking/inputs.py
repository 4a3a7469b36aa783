"""InputStats: what goes into a model, looked at in a few batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tracking.diagnosis.evidence import InputFigures
from tracking.layers import Hook
from tracking.outputs import float_tensors, has_values
from tracking.record_log import LOOK_EVERY

__all__ = ["InputStats"]

FIRST = 8
"""Steps at the beginning that are looked at; later ones only where the step is a power of two."""


class InputStats:
    """Looks at the first input of a model in training mode, once in each step it looks at.

    ``tell`` is given what was found, when the step ends. Looking makes the host wait for the
    device, so it is done in the first eight steps and then ever more seldom. Between looks the sum
    of each input, which is not finite where one of its values is not, stays on the device until
    there are sixteen of them; a step of which it is not finite is told of too.
    """

    def __init__(self, model: nn.Module, tell: Callable[[InputFigures], None]) -> None:
        self.model: nn.Module = getattr(model, "_orig_mod", model)
        self.current_step = 0
        self._tell = tell
        self._seen: InputFigures | None = None
        self._sums: list[tuple[int, int, Tensor]] = []
        self._handle: RemovableHandle | None = None

    def __enter__(self) -> Self:
        self._handle = self.model.register_forward_pre_hook(Hook(self._before_forward))
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hook. May be called twice."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
            self._check_sums()

    def note(self, labels: Tensor) -> None:
        """Say which labels, integers (n,), belong to the input of the step under way."""
        if self._seen is not None and labels.numel() and not labels.is_floating_point():
            low, high = torch.aminmax(labels)
            self._seen = replace(
                self._seen,
                classes=len(torch.unique(labels)),
                lowest_label=int(low),
                highest_label=int(high),
            )

    def step(self) -> None:
        """End the current step."""
        if self._seen is not None:
            self._tell(self._seen)
            self._seen = None
        self.current_step += 1
        if len(self._sums) >= LOOK_EVERY:
            self._check_sums()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_forward(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not model.training:
            return
        for x in float_tensors(inputs):
            if has_values(x) and x.ndim > 1 and x.numel():
                with torch.inference_mode(False), torch.no_grad():
                    self._look(x.detach())
                return

    def _look(self, x: Tensor) -> None:
        step = self.current_step
        if step >= FIRST and step & (step - 1):
            self._sums.append((step, len(x), x.sum()))
        elif self._seen is None:
            self._seen = _figures(step, x)

    def _check_sums(self) -> None:
        """Tell of steps whose inputs were not finite."""
        sums, self._sums = self._sums, []
        if not sums or torch.stack([one for *_, one in sums]).isfinite().all():
            return
        for step, samples, one in sums:
            if not one.isfinite():
                nothing = (math.nan,) * 4
                self._tell(InputFigures(step, samples, *nothing, nonfinite=1, constant=0.0))


def _figures(step: int, x: Tensor) -> InputFigures:
    flat = x.float().flatten(1)
    finite = flat[flat.isfinite()]
    known = finite if finite.numel() else flat.new_full((1,), torch.nan)
    low, high = torch.aminmax(known)
    return InputFigures(
        step=step,
        samples=len(flat),
        mean=float(known.mean()),
        std=float(known.std(correction=0)),
        min=float(low),
        max=float(high),
        nonfinite=flat.numel() - finite.numel(),
        constant=float((flat == flat[:, :1]).all(dim=1).float().mean()),
    )
