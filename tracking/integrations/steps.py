"""What a library's events tell about a step: its batches' losses, and when the update is made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

__all__ = ["StepBatches", "ToldSteps", "samples_in"]

Groups = Sequence[Mapping[str, Any]]


class ToldSteps:
    """Stands for an optimizer where the library's events, not torch's hooks, tell of its steps.

    Recorders hook into it as into an optimizer. It is needed where torch's hook comes too early
    (``optimizer.step(closure)`` computes the gradients itself) or where there is none.
    ``groups`` gives the parameter groups as torch names them.
    """

    def __init__(self, groups: Callable[[], Groups]) -> None:
        self._groups = groups
        self._before: OrderedDict[int, Callable[..., None]] = OrderedDict()
        self._after: OrderedDict[int, Callable[..., None]] = OrderedDict()
        self._under_way = False

    @property
    def param_groups(self) -> Groups:
        """What the optimizer uses now."""
        return self._groups()

    def register_step_pre_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Have ``hook(self, (), {})`` called before each update."""
        return _registered(hook, self._before)

    def register_step_post_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Have ``hook(self, (), {})`` called after each update."""
        return _registered(hook, self._after)

    def before(self) -> None:
        """Gradients are there and have not been used; said again before the update, it is one."""
        if not self._under_way:
            self._under_way = True
            self._call(self._before)

    def after(self) -> bool:
        """The update has been made; False where none was under way."""
        made, self._under_way = self._under_way, False
        if made:
            self._call(self._after)
        return made

    def _call(self, hooks: Mapping[int, Callable[..., None]]) -> None:
        for hook in list(hooks.values()):
            hook(self, (), {})


class StepBatches:
    """The batches whose gradients the next step uses: one, or several where they accumulate."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._samples: list[int | None] = []
        self._parts = False

    def add(self, loss: Tensor, samples: int | None, *, part: bool = False) -> None:
        """Add a batch: its mean loss, a scalar, and the number of its samples where it is known.

        With ``part`` the loss is this batch's part of the step's mean, so that parts add up to it.
        """
        self._losses.append(loss.detach().clone())
        self._samples.append(samples)
        self._parts = part

    def take(self) -> dict[str, Any]:
        """Mean loss over all samples and their number, as RunRecord.note has them; then forget.

        Nothing waits for the device. Batches count alike where their sizes are not known.
        """
        losses, sizes = self._losses, [size for size in self._samples if size]
        self._losses, self._samples = [], []
        if not losses:
            return {}
        batch_size = sum(sizes) if len(sizes) == len(losses) else None
        if self._parts:
            shares = [1.0] * len(losses)
        elif batch_size:
            shares = [size / batch_size for size in sizes]
        else:
            shares = [1 / len(losses)] * len(losses)
        parts = [loss * share for loss, share in zip(losses, shares, strict=True)]
        return {"loss": torch.stack(parts).sum(), "batch_size": batch_size}


def samples_in(batch: Any) -> int | None:
    """The number of samples in a batch: the length of the first tensor in it that has one."""
    return next((len(x) for x in _tensors(batch) if x.ndim), None)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        yield from _tensors(list(batch.values()))
    elif isinstance(batch, (tuple, list)):
        for item in batch:
            yield from _tensors(item)


def _registered(
    hook: Callable[..., None], hooks: OrderedDict[int, Callable[..., None]]
) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle
