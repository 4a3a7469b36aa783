"""InputStats: what goes into a model, looked at in a few batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from tracking.diagnosis.evidence import InputFigures
from tracking.record_log import LOOK_EVERY

__all__ = ["InputStats"]

FIRST = 8
"""Steps at the beginning that are looked at; later ones only where the step is a power of two."""

SAMPLES = 64
"""Of a batch, at most, that are looked at."""


class InputStats:
    """Looks at the inputs of training steps, up to 64 samples of each: all at the beginning, and
    then ever fewer.

    ``tell`` is given what was found, when the step ends. Between looks, on an accelerator, each
    input is summed, and sixteen sums come over at a time: one that is not finite is told of too. On
    the CPU, where summing takes the training's time, that is done for the step in which it ends.
    """

    def __init__(self, tell: Callable[[InputFigures], None]) -> None:
        self.current_step = 0
        self._tell = tell
        self._seen: InputFigures | None = None
        self._current: Tensor | None = None
        self._sums: list[tuple[int, int, Tensor]] = []

    def look(self, x: Tensor) -> None:
        """Take the input (n, ...) of the step under way."""
        step = self.current_step
        if step < FIRST or step & (step - 1) == 0:
            if self._seen is None and x.numel():
                with torch.inference_mode(False), torch.no_grad():
                    self._seen = _figures(step, x.detach()[:SAMPLES])
        elif x.device.type == "cpu":
            self._current = x
        else:
            with torch.inference_mode(False), torch.no_grad():
                self._sums.append((step, len(x), x.detach().sum()))

    def note(self, labels: Tensor) -> None:
        """Say which labels, integers (n,), belong to the step under way."""
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
        self._seen = self._current = None
        self.current_step += 1
        if len(self._sums) >= LOOK_EVERY:
            self._check_sums()

    def close(self) -> None:
        """Tell of what nobody knows yet; the step under way has failed, or there is none."""
        if self._current is not None:
            last = _figures(self.current_step, self._current.detach())
            self._seen = last if last.nonfinite else None
        if self._seen is not None:
            self._tell(self._seen)
        self._seen = self._current = None
        self._check_sums()

    def _check_sums(self) -> None:
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
