"""The steps of an optimizer that change something, each of them once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import torch
from torch.utils.hooks import RemovableHandle

from tracking.errors import BadOption

__all__ = ["inner_optimizer", "on_each_step"]

# What torch puts around the step of every class of optimizers; all have this code.
HOOKED_STEP = torch.optim.Optimizer.profile_hook_step(lambda: None).__code__


def inner_optimizer(optimizer: object) -> torch.optim.Optimizer:
    """The optimizer inside wrappers (Accelerate's) that have no hooks of their own.

    Raises BadOption: there is none.
    """
    found = optimizer
    while isinstance(inner := getattr(found, "optimizer", None), torch.optim.Optimizer):
        found = inner
    if not hasattr(found, "register_step_pre_hook"):
        raise BadOption(
            f"optimizer={type(optimizer).__name__}: allowed: a torch.optim.Optimizer, which the "
            "loop calls step() of"
        )
    return cast(torch.optim.Optimizer, found)


def on_each_step(
    optimizer: torch.optim.Optimizer,
    before: Callable[[], None] | None,
    after: Callable[[], None],
) -> list[RemovableHandle]:
    """Have ``before`` and ``after`` called around each step of ``optimizer``.

    A step that a gradient scaler has change nothing is left out, and one that raises has no
    ``after``. Where an optimizer's step calls that of its parent class, torch calls the hooks of
    both; the outer one counts.
    """
    steps = _Steps(before, after)
    return [
        optimizer.register_step_pre_hook(steps.begin),
        optimizer.register_step_post_hook(steps.end),
    ]


def _update_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a gradient scaler has the running ``optimizer.step()`` change nothing.

    The scaler does not call other optimizers for such a step, but a fused one is called and looks
    for itself. Asking makes the host wait, as the scaler does for the others.
    """
    return bool(getattr(optimizer, "found_inf", False))


class _Steps:
    def __init__(self, before: Callable[[], None] | None, after: Callable[[], None]) -> None:
        self._before = before
        self._after = after
        self._under_way = self._nests = False

    def begin(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # One that is under way may also have raised: torch does not tell.
        if self._under_way and _within_another(optimizer):
            self._nests = True
            return
        self._under_way, self._nests = not _update_skipped(optimizer), False
        if self._under_way and self._before is not None:
            self._before()

    def end(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not self._under_way or (self._nests and _within_another(optimizer)):
            return
        self._under_way = False
        self._after()


def _within_another(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the step whose hook is running was called by another one of the same optimizer."""
    calls = 0
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - documented, far cheaper than inspect's
    while frame is not None and calls < 2:
        calls += frame.f_code is HOOKED_STEP and frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return calls == 2
