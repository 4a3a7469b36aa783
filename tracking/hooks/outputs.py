"""The tensors in what a module returns, and whether this is the time to look at them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["float_tensors", "has_values", "in_backward", "in_trace", "tensors_in"]


def in_backward() -> bool:
    """Whether autograd is at work: activation checkpointing then computes a layer a second time."""
    return bool(torch._C._current_graph_task_id() != -1)  # noqa: SLF001 - torch has no public way


def in_trace() -> bool:
    """Whether torch.jit records what is done, which is no training."""
    return bool(torch._C._is_tracing())  # noqa: SLF001 - torch.jit.is_tracing takes longer


def has_values(x: Tensor) -> bool:
    """False for what has no plain memory to read: meta, fake, sparse and nested tensors, and those
    that stand for others inside torch.func's transformations (vmap, grad).
    """
    if x.is_meta or x.is_nested or x.layout is not torch.strided or isinstance(x, FakeTensor):
        return False
    # torch.func has no public way to ask.
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)  # noqa: SLF001


def float_tensors(output: Any) -> Iterable[Tensor]:
    """The floating-point tensors in a module's output, inside tuples, lists and mappings too."""
    if isinstance(output, Tensor):
        return (output,) if output.is_floating_point() else ()
    return (x for x in tensors_in(output) if x.is_floating_point())


def tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors in what a module is given or gives, in their order."""
    if isinstance(values, Tensor):
        yield values
        return
    if isinstance(values, Mapping):
        values = values.values()
    elif not isinstance(values, (tuple, list)):
        return
    for value in values:
        yield from tensors_in(value)
