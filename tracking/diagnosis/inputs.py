"""InputStats: what goes into a model, looked at in a few batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tracking.diagnosis.evidence import InputFigures
from tracking.hooks.outputs import float_tensors, has_values
from tracking.pace import LOOK_EVERY

__all__ = ["InputStats"]

IGNORED = -100
FIRST = 8
"""Steps at the beginning that are looked at; later ones only where the step is a power of two."""

ENOUGH = 16
"""Steps with values that are not finite, of which it is told: they need not be all."""
SAMPLES = 64
"""Of a batch, at most, that are looked at."""


class InputStats:
    """Looks at the inputs of training steps, up to 64 samples of each: all at the beginning, and
    then ever fewer.

    ``tell`` is given what was found, when the step ends. Between looks, on an accelerator, each
    input is summed, and sixteen sums come over at a time: one that is not finite is told of too. On
    the CPU, where summing takes the training's time, the last input of a run is looked at when it
    closes: what ended the run may be in it. ``first_step``: steps done before, in a run that goes
    on.
    """

    def __init__(self, tell: Callable[[InputFigures], None], first_step: int = 0) -> None:
        self.current_step = first_step
        self.first_step = first_step
        """When looking began: an earlier one may have done so."""
        self._tell = tell
        self._told = 0
        self._labels: Tensor | None = None
        self._seen: InputFigures | None = None
        self._kept: tuple[int, Any, int | None] | None = None
        self._on_host = True
        self._sums: list[tuple[int, int, Tensor]] = []

    def look(self, inputs: Any) -> None:
        """Take what goes into the model in the step under way: a tensor (n, ...), or what holds it.

        Most steps only keep it, since asking a tensor anything takes time too.
        """
        done = self.current_step - self.first_step
        due = done < FIRST or done & (done - 1) == 0
        if not due and self._on_host:
            self._kept = self.current_step, inputs, _version(inputs)
            return
        self._kept = None
        x = _batch(inputs)
        if x is None:
            return
        self._on_host = x.is_cpu
        if not due:
            self._sum(x)
        elif self._seen is None and x.numel():
            with torch.inference_mode(False), torch.no_grad():
                self._seen = _figures(self.current_step, x.detach()[:SAMPLES])

    def note(self, labels: Tensor) -> None:
        """Say which labels, integers (n,), belong to the input of the step under way.

        Before or after ``look``. -100 stands for no label, as in torch's losses.
        """
        self._labels = labels

    def step(self) -> None:
        """End the current step."""
        self._tell_seen()
        self.current_step += 1
        if len(self._sums) >= LOOK_EVERY:
            self._check_sums()

    def close(self) -> None:
        """Tell of what nobody knows yet; the step under way has failed, or there is none."""
        if self._kept is not None:
            step, inputs, version = self._kept
            self._kept = None
            if version == _version(inputs):  # or a model may have changed them in place
                self._look_back(step, inputs)
        self._tell_seen()
        self._check_sums()

    def _look_back(self, step: int, inputs: Any) -> None:
        # A loss that is not finite is often noticed when its step has ended; one that cannot be
        # computed of the labels fails in it.
        under_way = step == self.current_step
        x = _batch(inputs)
        if x is None or not x.untyped_storage().nbytes():  # whose memory has been given back
            return
        figures = _figures(step, x.detach())
        if figures.nonfinite or (under_way and self._labels is not None):
            self._seen = figures
            self._labels = self._labels if under_way else None

    def _sum(self, x: Tensor) -> None:
        if self._sums and self._sums[-1][-1].device != x.device:
            self._check_sums()
        # Half precision has no room for the sum of an image.
        self._sums.append((self.current_step, len(x), x.detach().sum(dtype=torch.float32)))

    def _tell_seen(self) -> None:
        seen, labels = self._seen, self._labels
        self._seen = self._labels = None
        if seen is not None:
            self._tell(seen if labels is None else _with_labels(seen, labels))

    def _check_sums(self) -> None:
        sums, self._sums = self._sums, []
        if not sums or torch.stack([one for *_, one in sums]).isfinite().all():
            return
        for step, samples, one in sums:
            if self._told < ENOUGH and not one.isfinite():
                self._told += 1
                nothing = (math.nan,) * 4
                self._tell(InputFigures(step, samples, *nothing, nonfinite=1, constant=0.0))


def _first(inputs: Any) -> Any:
    return inputs[0] if isinstance(inputs, tuple) and inputs else inputs


def _batch(inputs: Any) -> Tensor | None:
    """The batch (n, ...) among a model's positional inputs; None where none is of real numbers."""
    first = _first(inputs)
    x = first if isinstance(first, Tensor) else next(iter(float_tensors(inputs)), None)
    if x is None or x.ndim < 2 or not x.is_floating_point() or not has_values(x):
        return None
    return x


def _version(inputs: Any) -> int | None:
    """How often the first of the inputs has been changed in place; None where nobody counts."""
    first = _first(inputs)
    if not isinstance(first, Tensor) or first.is_inference():
        return None
    return first._version  # noqa: SLF001 - torch has no public way


def _with_labels(figures: InputFigures, labels: Tensor) -> InputFigures:
    labels = torch.as_tensor(labels)
    if labels.is_floating_point():
        return figures
    labels = labels.long()  # -100 would be another number in bytes
    known = labels[labels != IGNORED]
    if not known.numel():
        return figures
    low, high = torch.aminmax(known)
    classes = len(torch.unique(known))
    return replace(figures, classes=classes, lowest_label=int(low), highest_label=int(high))


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
