"""What one optimizer step used: read between backward and update, understood at the next flush."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tracking.records import HyperParams

__all__ = [
    "SmoothedLoss",
    "StepNotes",
    "copied",
    "kept_loss",
    "losses_on_host",
    "of_all_ranks",
    "records_of",
    "understood",
]

BETA = 0.98

FIELDS = frozenset({"lr", "momentum", "weight_decay", "betas", "params", "name"})
WAYS = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""How, not what, is computed."""
APART = FIELDS | WAYS


class StepNotes(NamedTuple):
    """What a step leaves until the next flush; its groups are understood only then."""

    step: int
    epoch: int | None
    batch_size: int | None
    time: float
    loss: Any
    """A scalar tensor on an accelerator; a number; or None."""
    groups: list[dict[str, Any]]


def copied(group: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter group's options as they are now; numbers may be tensors, betas two of them."""
    copy = dict(group)
    copy.pop("params", None)
    for name, value in copy.items():
        if isinstance(value, Tensor):
            copy[name] = value.detach().clone()
    betas = copy.get("betas")
    if isinstance(betas, (tuple, list)):
        copy["betas"] = [b.detach().clone() if isinstance(b, Tensor) else b for b in betas]
    return copy


def kept_loss(loss: Tensor | float | None) -> Tensor | float | None:
    """A loss as it is now: whoever made it may go on computing with it in place.

    A tensor of an accelerator stays there, since reading it would make the host wait; of the CPU's
    the host has the number already. Raises TypeError: it is neither a number nor like one.
    """
    if loss is None:
        return None
    if not isinstance(loss, Tensor):
        return float(loss)
    return loss.item() if loss.is_cpu else loss.detach().reshape(()).clone()


def losses_on_host(steps: Sequence[StepNotes]) -> list[float | None]:
    """The steps' losses; waits until devices have computed them.

    One transfer where they are of one kind.
    """
    tensors = [step.loss for step in steps if isinstance(step.loss, Tensor)]
    same = len({(loss.device, loss.dtype) for loss in tensors}) == 1
    values = iter(torch.stack(tensors).tolist() if same else map(float, tensors))
    return [next(values) if isinstance(step.loss, Tensor) else step.loss for step in steps]


def understood(steps: Sequence[StepNotes], losses: Sequence[float | None]) -> list[StepNotes]:
    """The same with these losses, and with the groups' options under the names of HyperParams."""
    return [
        StepNotes(
            step.step,
            step.epoch,
            step.batch_size,
            step.time,
            loss,
            [_read_group(group, index) for index, group in enumerate(step.groups)],
        )
        for step, loss in zip(steps, losses, strict=True)
    ]


def of_all_ranks(shares: Sequence[Sequence[StepNotes]]) -> list[StepNotes]:
    """The steps of all ranks as steps of the global batch; rank 0 has the hyperparameters."""
    if len(shares) < 2:
        return list(itertools.chain.from_iterable(shares))
    others = [{step.step: step for step in share} for share in shares[1:]]
    return [
        _of_all([step, *(share[step.step] for share in others if step.step in share)])
        for step in shares[0]
    ]


def _of_all(steps: Sequence[StepNotes]) -> StepNotes:
    sizes = [step.batch_size for step in steps]
    known = [size for size in sizes if size is not None]
    losses = [step.loss for step in steps]
    loss = None
    if None not in losses:
        weights = known if len(known) == len(steps) and any(known) else [1 for _ in steps]
        loss = sum(x * w for x, w in zip(losses, weights, strict=True)) / sum(weights)
    return steps[0]._replace(batch_size=sum(known) if known else None, loss=loss)


def records_of(step: StepNotes, smoothed: SmoothedLoss) -> Iterator[HyperParams]:
    smooth = None if step.loss is None else smoothed.add(step.loss)
    for group in step.groups:
        yield HyperParams(
            step=step.step,
            epoch=step.epoch,
            batch_size=step.batch_size,
            time=step.time,
            loss=step.loss,
            loss_smooth=smooth,
            **group,
        )


class SmoothedLoss:
    """Exponential moving average with Adam's bias correction (fastai's AvgSmoothLoss)."""

    def __init__(self) -> None:
        self._average = 0.0
        self._steps = 0

    def state_dict(self) -> dict[str, float]:
        """The average before its correction, and how many losses are in it."""
        return {"average": self._average, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what ``state_dict`` gave."""
        self._average, self._steps = state["average"], int(state["steps"])

    def add(self, loss: float) -> float:
        """The average with this loss; one that is not finite is left out of it."""
        if math.isfinite(loss):
            self._steps += 1
            self._average = BETA * self._average + (1 - BETA) * loss
        return self._average / (1 - BETA**self._steps) if self._steps else math.nan


@cache
def _option_names(*names: object) -> tuple[str, ...]:
    """Those that are options of the optimizer's own, and may be numbers."""
    return tuple(name for name in names if isinstance(name, str) and name not in APART)


def _read_group(group: Mapping[str, Any], index: int) -> dict[str, Any]:
    """One parameter group's numbers, under the names of HyperParams."""
    betas = group.get("betas")
    momentum = betas[0] if betas else group.get("momentum")
    options = {}
    for name in _option_names(*group):
        number = _number(group[name])
        if number is not None:
            options[name] = number
        elif isinstance(group[name], tuple):  # Adafactor's eps, Rprop's etas
            numbers = {f"{name}.{i}": _number(one) for i, one in enumerate(group[name])}
            options |= {key: one for key, one in numbers.items() if one is not None}
    for position, beta in enumerate(betas[1:] if betas else (), start=2):
        options[f"beta{position}"] = float(beta)
    weight_decay = group.get("weight_decay")
    return {
        "group": str(group.get("name", index)),
        "lr": _number(group.get("lr")),
        "momentum": _number(momentum),
        "weight_decay": _number(weight_decay),
        "options": options,
    }


def _number(value: Any) -> float | None:
    """As a float; None for what is no number, such as a rate that the optimizer finds itself."""
    if isinstance(value, (bool, int, float, Real)):
        return float(value)
    return float(value) if isinstance(value, Tensor) and value.numel() == 1 else None
