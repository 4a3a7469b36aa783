"""The CPU's kernel, compiled with Numba."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tracking.kernels.accumulators import find_living, reduce_pieces

__all__ = ["NumbaKernel"]


class NumbaKernel:
    """Compiled for float32 and for float64 when it first meets one; the code is kept on disk."""

    def __init__(self, near_zero_eps: float, above_threshold: float) -> None:
        self.near_zero_eps = near_zero_eps
        self.above_threshold = above_threshold
        limits = (near_zero_eps, above_threshold, np.inf)
        self._limits = {
            kind: tuple(_ordinal(_at_most(limit, kind)) for limit in limits)
            for kind in (np.float32, np.float64)
        }

    def rows(self, table: Tensor) -> Sequence[Any]:
        return list(table.numpy())

    def __call__(self, x: Tensor, ints: Any, floats: Any, alive: Any | None) -> None:
        if x.numel() == 0:
            return
        x = x.detach().resolve_neg()
        if x.dtype not in (torch.float32, torch.float64):
            x = x.float()
        block = _as_block(x.numpy())
        flat = block.reshape(-1)
        limits = self._limits[flat.dtype.type]
        reduce_pieces(flat, flat.view(limits[0].dtype), ints, floats, *limits)
        if alive is not None:
            find_living(block, alive)


def _as_block(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View as contiguous (outer, channels, inner) without a copy where the layout allows it."""
    if x.ndim < 2:
        return np.ascontiguousarray(x).reshape(1, 1, -1)
    if not x.flags.c_contiguous:
        channels_last = x.transpose(0, *range(2, x.ndim), 1)
        if channels_last.flags.c_contiguous:
            return channels_last.reshape(-1, x.shape[1], 1)
        x = np.ascontiguousarray(x)
    return x.reshape(x.shape[0], x.shape[1], -1)


def _at_most(limit: float, kind: type[Any]) -> Any:
    """The largest number of a kind that is <= limit: comparing with it is comparing in float64."""
    with np.errstate(over="ignore"):
        near = kind(limit)
    if float(near) > limit:
        near = np.nextafter(near, kind(-np.inf))
    return near + kind(0)  # -0.0 would be another whole number than 0.0


def _ordinal(x: Any) -> Any:
    """The whole number that has the place of ``x`` in the order of floats; that of 0.0 is 0."""
    bits = x.view(np.int32 if x.itemsize == 4 else np.int64)
    return bits if bits >= 0 else bits ^ np.iinfo(bits.dtype).max
