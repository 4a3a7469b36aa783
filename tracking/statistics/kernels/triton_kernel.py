"""The kernel of GPUs, compiled with Triton: one launch reads an output once and never waits.

Torch operations take some fifty launches for the same statistics, and write tensors in between that
are larger than the output. What the results are, and in which arithmetic, stands in
``accumulators``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tracking.statistics.kernels import accumulators as k
from tracking.statistics.kernels.blocks import as_block
from tracking.statistics.kernels.triton_reduction import PARTIALS, reduce_blocks

__all__ = ["TritonKernel", "try_out"]

BLOCK = 2048
"""Elements that a program reads at a time."""
PROGRAMS = 512
"""At most so many share an output: some for each multiprocessor, so that none waits for memory."""
WARPS = 8


ALIGNED = 16
"""Triton compiles apart for addresses and sizes that are multiples of this, and for others."""


class Row(NamedTuple):
    """A row of a table, by its number: its own address would compile anew for each alignment."""

    table: Tensor
    address: int
    """The table's, not the row's."""
    number: int
    width: int


class TritonKernel:
    """Statistics of an output by a single launch; needs a device for which Triton compiles.

    Triton looks at every argument to find what it has compiled for such arguments, which takes the
    host longer than the launch. So what it found is kept, by all that tells its variants apart, and
    launched by itself, with addresses for tensors.
    """

    def __init__(self, near_zero_eps: float, above_threshold: float) -> None:
        self.near_zero_eps = near_zero_eps
        self.above_threshold = above_threshold
        self._scratch: tuple[Tensor, Tensor] | None = None
        self._addresses = (0, 0)
        self._launches: dict[tuple[Any, ...], Callable[..., None]] = {}

    def rows(self, table: Tensor) -> Sequence[Row]:
        table = table.view(torch.uint8) if table.dtype == torch.bool else table
        address, width = table.data_ptr(), table.shape[1]
        return [Row(table, address, number, width) for number in range(len(table))]

    def __call__(self, x: Tensor, ints: Row, floats: Row, alive: Row | None) -> None:
        # Not every device that computes has conversions from float8.
        if x.is_neg() or x.element_size() == 1:
            x = x.detach().resolve_neg()
            x = x.float() if x.element_size() == 1 else x
        x, (outer, channels, inner) = as_block(x)
        n = outer * channels * inner
        if not n:
            return
        partials, finished = self._scratch or self._new_scratch(x.device)
        living = ints if alive is None else alive
        large = n + BLOCK * PROGRAMS >= 2**31
        rest = (
            *(self.near_zero_eps, self.above_threshold),
            *(alive is not None, large, BLOCK, PROGRAMS),
        )
        grid = (min(-(-n // BLOCK), PROGRAMS), 1, 1)
        address = x.data_ptr()
        multiples = (address % ALIGNED == 0, n % ALIGNED == 0)
        widths = (n >> 31, inner >> 31)  # a number of more bits has another type
        key = (x.dtype, *multiples, n == 1, *widths, alive is None, large, grid)
        with _current(x.device):
            launch = self._launches.get(key)
            if launch is not None:
                tables = (ints.address, ints.number, floats.address, living.address)
                launch(address, n, *tables, living.width, inner, *self._addresses, *rest)
                return
            compiled = reduce_blocks[grid](
                *(x, n, ints.table, ints.number, floats.table, living.table),
                *(living.width, inner, partials, finished, *rest),
                num_warps=WARPS,
            )
            if compiled is not None:  # as it is where Triton interprets
                self._launches[key] = compiled[grid]

    def _new_scratch(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where programs leave what they found, and count how many have; launches take turns."""
        partials = torch.empty(PARTIALS, PROGRAMS, dtype=torch.float64, device=device)
        finished = torch.zeros(1, dtype=torch.int32, device=device)
        self._scratch = (partials, finished)
        self._addresses = (partials.data_ptr(), finished.data_ptr())
        return self._scratch


def try_out(device: torch.device) -> None:
    """Compile the kernel and launch it in both ways; raises whatever Triton raises where it cannot.

    RuntimeError: it does not count right.
    """
    kernel = TritonKernel(0.0, 0.0)
    ints = torch.zeros(1, k.INTS, dtype=torch.int64, device=device)
    floats = torch.zeros(1, k.FLOATS, dtype=torch.float64, device=device)
    alive = torch.zeros(1, 4, dtype=torch.bool, device=device)
    rows = [kernel.rows(table)[0] for table in (ints, floats, alive)]
    x = torch.zeros(4, 4, 4, device=device)
    for _ in range(2):
        kernel(x, *rows)
    if (found := ints[0, k.COUNT].item()) != 2 * x.numel():
        raise RuntimeError(f"its kernel counts {found} elements where there are {2 * x.numel()}")


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device; its interpreter knows none."""
    if device.type == "cpu" or device.index == torch.accelerator.current_device_index():
        return nullcontext()
    return torch.accelerator.device_index(device.index)
