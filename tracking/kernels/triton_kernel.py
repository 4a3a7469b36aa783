"""The kernel of GPUs, compiled with Triton: one launch reads an output once and never waits.

Torch operations take some fifty launches for the same statistics, and write tensors in between that
are larger than the output. What the results are, and in which arithmetic, stands in
``accumulators``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from tracking.kernels import accumulators as k
from tracking.kernels.blocks import as_block
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
        self._scratch: tuple[Tensor, Tensor] | None = None

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
        # Not every device that computes has conversions from float8.
        if x.is_neg() or x.element_size() == 1:
            x = x.detach().resolve_neg()
            x = x.float() if x.element_size() == 1 else x
        x, (outer, channels, inner) = as_block(x)
        n = outer * channels * inner
        if not n:
            return
        partials, finished = self._scratch or self._new_scratch(x.device)
        living = (ints if alive is None else alive)[0]
        with _current(x.device):
            reduce_blocks[(min(triton.cdiv(n, BLOCK), PROGRAMS),)](
                x,
                n,
                *ints,
                floats[0],
                living,
                living.shape[1],
                inner,
                partials,
                finished,
                self.near_zero_eps,
                self.above_threshold,
                alive is not None,
                n + BLOCK * PROGRAMS >= 2**31,
                BLOCK,
                PROGRAMS,
                num_warps=WARPS,
            )

    def _new_scratch(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where programs leave what they found, and count how many have; launches take turns."""
        self._scratch = (
            torch.empty(PARTIALS, PROGRAMS, dtype=torch.float64, device=device),
            torch.zeros(1, dtype=torch.int32, device=device),
        )
        return self._scratch


def try_out(device: torch.device) -> None:
    """Compile and launch the kernel once; raises whatever Triton raises where it cannot."""
    kernel = TritonKernel(0.0, 0.0)
    ints = torch.zeros(1, k.INTS, dtype=torch.int64, device=device)
    floats = torch.zeros(1, k.FLOATS, dtype=torch.float64, device=device)
    alive = torch.zeros(1, 4, dtype=torch.bool, device=device)
    rows = [kernel.rows(table)[0] for table in (ints, floats, alive)]
    kernel(torch.zeros(4, 4, 4, device=device), *rows)


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device; its interpreter knows none."""
    if device.type == "cpu" or device.index == torch.accelerator.current_device_index():
        return nullcontext()
    return torch.accelerator.device_index(device.index)
