"""The CPU's kernel, compiled with Numba."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from tracking.statistics.kernels.blocks import as_block
from tracking.statistics.kernels.numba_reduction import SOURCE, block_entry, thread_entry

__all__ = ["NumbaKernel"]

KINDS = {torch.float32: np.float32, torch.float64: np.float64}


class NumbaKernel:
    """Compiled for float32 and for float64 when it first meets one; the code is kept on disk.

    What it does before the compiled code runs costs as much as the statistics of a small output:
    in the middle of a training nothing of it is in the processor's caches. So it asks a tensor for
    little, and hands over addresses.
    """

    def __init__(self, near_zero_eps: float, above_threshold: float) -> None:
        self.near_zero_eps = near_zero_eps
        self.above_threshold = above_threshold
        limits = (near_zero_eps, above_threshold, np.inf)
        self._limits = {
            dtype: tuple(_ordinal(_at_most(limit, kind)) for limit in limits)
            for dtype, kind in KINDS.items()
        }
        # Where a channel is marked that nobody asks for: all elements are of this one then.
        self._nobody = ctypes.c_bool()

    def rows(self, table: Tensor) -> Sequence[int]:
        """Addresses: nothing checks that what they are of still exists, or has room."""
        step = table.stride(0) * table.element_size()
        return [table.data_ptr() + row * step for row in range(len(table))]

    def __call__(self, x: Tensor, ints: int, floats: int, alive: int | None) -> None:
        if x.dtype not in KINDS or x.is_neg() or not x.is_cpu:
            x = _plain(x)
        x, block = as_block(x)
        outer, channels, inner = block
        if not outer * channels * inner:
            return
        address = x.data_ptr()
        if not address:
            raise TypeError(f"a {type(x).__name__} has no memory of its own to read")
        if alive is None:
            block = 1, 1, outer * channels * inner
            alive = ctypes.addressof(self._nobody)
        code = _compiled(KINDS[x.dtype])
        code.reduce(address, *block, ints, floats, alive, *self._limits[x.dtype], *code.team)


@dataclass(frozen=True)
class _Code:
    """What is compiled for one kind of float."""

    reduce: Callable[..., None]
    team: tuple[int, int]
    """Its last arguments: what a thread does, and what calls them; see ``block_entry``."""
    kept: tuple[Any, Any]
    """What the addresses are those of."""


@cache
def _compiled(kind: type[np.floating[Any]]) -> _Code:
    """The reduction of float32 or float64 as a C function, which lets other threads run.

    It takes addresses. A compiled Python function would first look at each array that it is given.
    """
    types: Any = numba.types
    whole: Any = np.int64 if kind is np.float64 else np.int32
    part: Any = numba.cfunc(types.void(types.voidptr), cache=True)(
        thread_entry(kind, whole, SOURCE)
    )
    compiled: Any = numba.cfunc(types.void(*[types.int64] * 12), cache=True)(block_entry(SOURCE))
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 12)
    return _Code(prototype(compiled.address), (part.address, _team()), (part, compiled))


def _team() -> int:
    """Address of GOMP_parallel in the library whose threads torch uses; 0 where there is none."""
    torchs = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    for name in (None, str(torchs)):  # what is global goes before what torch brings, for it too
        with suppress(OSError, AttributeError):
            address = ctypes.cast(ctypes.CDLL(name).GOMP_parallel, ctypes.c_void_p)
            return address.value or 0
    return 0


def _plain(x: Tensor) -> Tensor:
    """On the host, in a kind that the compiled code knows, with its signs in its memory."""
    x = x.detach().cpu().resolve_neg()
    return x if x.dtype in KINDS else x.float()


def _at_most(limit: float, kind: type[Any]) -> Any:
    """The largest number of a kind that is <= limit: comparing with it is comparing in float64."""
    with np.errstate(over="ignore"):
        near = kind(limit)
    if float(near) > limit:
        near = np.nextafter(near, kind(-np.inf))
    return near + kind(0)  # -0.0 would be another whole number than 0.0


def _ordinal(x: Any) -> int:
    """The whole number that has the place of ``x`` in the order of floats; that of 0.0 is 0."""
    bits = x.view(np.int32 if x.itemsize == 4 else np.int64)
    return int(bits if bits >= 0 else bits ^ np.iinfo(bits.dtype).max)
