"""The kernel of GPUs, compiled with Triton: one launch reads an output once and never waits.

Torch operations take some fifty launches for the same statistics, and write tensors in between that
are larger than the output. What the results are, and in which arithmetic, stands in
``accumulators``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from tracking.kernels import accumulators as k
from tracking.kernels.triton_reduction import PARTIALS, reduce_blocks

__all__ = ["TritonKernel", "try_out"]

BLOCK = 2048
"""Elements that a program reads at a time."""
PROGRAMS = 512
"""At most so many share an output: some for each multiprocessor, so that none waits for memory."""
WARPS = 8


class TritonKernel:
    """Statistics of an output by a single launch; needs a device for which Triton compiles."""

    def __init__(self, near_zero_eps: float, above_threshold: float) -> None:
        self.near_zero_eps = near_zero_eps
        self.above_threshold = above_threshold
        self._finished: Tensor | None = None

    def rows(self, table: Tensor) -> Sequence[tuple[Tensor, int]]:
        # A table and a number: a row's own address would compile anew for each alignment.
        table = table.view(torch.uint8) if table.dtype == torch.bool else table
        return [(table, row) for row in range(len(table))]

    def __call__(
        self,
        x: Tensor,
        ints: tuple[Tensor, int],
        floats: tuple[Tensor, int],
        alive: tuple[Tensor, int] | None,
    ) -> None:
        if x.numel() == 0:
            return
        x, inner = _in_memory_order(x.detach().resolve_neg())
        programs = min(triton.cdiv(x.numel(), BLOCK), PROGRAMS)
        if self._finished is None:
            self._finished = torch.zeros(1, dtype=torch.int32, device=x.device)
        partials = torch.empty(PARTIALS, PROGRAMS, dtype=torch.float64, device=x.device)
        living = (ints if alive is None else alive)[0]
        with _current(x.device):
            reduce_blocks[(programs,)](
                x,
                x.numel(),
                *ints,
                floats[0],
                living,
                living.shape[1],
                inner,
                partials,
                self._finished,
                self.near_zero_eps,
                self.above_threshold,
                alive is not None,
                x.numel() + BLOCK * PROGRAMS >= 2**31,
                BLOCK,
                PROGRAMS,
                num_warps=WARPS,
            )


def try_out(device: torch.device) -> None:
    """Compile and launch the kernel once; raises whatever Triton raises where it cannot."""
    kernel = TritonKernel(0.0, 0.0)
    ints = torch.zeros(1, k.INTS, dtype=torch.int64, device=device)
    floats = torch.zeros(1, k.FLOATS, dtype=torch.float64, device=device)
    alive = torch.zeros(1, 4, dtype=torch.bool, device=device)
    rows = [kernel.rows(table)[0] for table in (ints, floats, alive)]
    kernel(torch.zeros(4, 4, 4, device=device), *rows)


def _in_memory_order(x: Tensor) -> tuple[Tensor, int]:
    """A tensor without gaps, and how many elements of a channel lie side by side in its memory."""
    if x.dtype.itemsize == 1:  # not every device that computes has conversions from float8
        x = x.float()
    if x.ndim < 2:
        return x.contiguous(), 1
    channels_last = x.movedim(1, -1)
    if channels_last.is_contiguous():
        return channels_last, 1
    return x.contiguous(), math.prod(x.shape[2:])


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device; its interpreter knows none."""
    return nullcontext() if device.type == "cpu" else torch.accelerator.device_index(device.index)
