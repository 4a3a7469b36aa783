"""The tensors in what a module returns, and whether this is the time to look at them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["float_tensors", "has_values", "in_backward"]


def in_backward() -> bool:
    """Whether autograd is at work: activation checkpointing then computes a layer a second time."""
    return bool(torch._C._current_graph_task_id() != -1)  # noqa: SLF001 - torch has no public way


def has_values(x: Tensor) -> bool:
    """False for what has no plain memory to read: meta, sparse and nested tensors."""
    return not (x.is_meta or x.is_nested) and x.layout is torch.strided


def float_tensors(output: Any) -> Iterable[Tensor]:
    """The floating-point tensors in a module's output, inside tuples, lists and mappings too."""
    if isinstance(output, Tensor):
        return (output,) if output.is_floating_point() else ()
    return _inside(output)


def _inside(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Mapping):
        output = output.values()
    elif not isinstance(output, (tuple, list)):
        return
    for value in output:
        yield from float_tensors(value)
