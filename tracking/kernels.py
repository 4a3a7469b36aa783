"""Reduce a layer's output to its accumulators: one kernel for the CPU, one for accelerators.

A kernel adds a tensor to a row of accumulators, so that several calls of a layer in one step, or
several batches, merge exactly. Means and squared deviations are merged with the formula of Chan,
Golub and LeVeque (1979), which loses nothing to cancellation. All accumulation is in float64 and
all comparisons are made on float64 values, so the results do not depend on the input's dtype,
memory layout, batch size or number of threads.

The histogram has 82 counts: underflow, 80 bins of width 1/4 over [-10, 10), overflow. The bin of x
is floor(4 x) + 41; multiplying by a power of two is exact, so a value lands on the right side of an
edge however close it is.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "ABOVE",
    "CHANNELS",
    "COUNT",
    "DEAD",
    "FINITE",
    "FLOATS",
    "HIST",
    "HIST_BINS",
    "HIST_EDGES",
    "INTS",
    "MAX",
    "MEAN",
    "MIN",
    "NEAR",
    "SQUARES",
    "NumbaKernel",
    "Reduction",
    "TorchKernel",
    "kernel_for",
]

HIST_BINS = 82
HIST_EDGES: npt.NDArray[np.float64] = np.linspace(-10.0, 10.0, HIST_BINS - 1)

# Columns of the integer accumulators; the histogram fills the rest.
COUNT, FINITE, NEAR, ABOVE, CHANNELS, DEAD, HIST = range(7)
INTS = HIST + HIST_BINS
# Columns of the float64 accumulators; SQUARES is the sum of squared deviations from the mean.
MEAN, SQUARES, MIN, MAX = range(4)
FLOATS = 4

# Elements that the accelerator path widens to float64 at a time, so that memory stays bounded.
CHUNK = 1 << 24


class Reduction(Protocol):
    """Adds a tensor's elements to one row of accumulators."""

    def __call__(self, x: Tensor, ints: Tensor, floats: Tensor, alive: Tensor | None) -> None:
        """Add every element of ``x``.

        ``ints`` (int64, INTS) and ``floats`` (float64, FLOATS) are the row, ``alive`` (bool, one
        per channel) marks channels (dimension 1) that have an element > 0; all are updated in
        place and lie on the device of ``x``.
        """


class TorchKernel:
    """Reductions with torch operations: any device, no synchronisation with the host."""

    def __init__(self, near_zero_eps: float, above_threshold: float) -> None:
        self.near_zero_eps = near_zero_eps
        self.above_threshold = above_threshold

    def __call__(self, x: Tensor, ints: Tensor, floats: Tensor, alive: Tensor | None) -> None:
        if x.numel() == 0:
            return
        if x.ndim == 0:
            x = x.reshape(1)
        rows = max(1, CHUNK // max(1, x[0].numel()))
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            self._add(part, ints, floats)
            if alive is not None:
                others = [dim for dim in range(part.ndim) if dim != 1]
                alive.logical_or_((part > 0).any(dim=others))

    def _add(self, x: Tensor, ints: Tensor, floats: Tensor) -> None:
        wide = x.double().flatten()
        finite = wide.isfinite()
        kept = torch.where(finite, wide, 0.0)
        n = finite.sum()
        mean = kept.sum() / n.clamp(min=1)
        squares = torch.where(finite, (kept - mean).square(), 0.0).sum()
        low = torch.where(finite, wide, math.inf).min()
        high = torch.where(finite, wide, -math.inf).max()
        _merge(ints[FINITE], floats, n, mean, squares)
        floats[MIN] = torch.minimum(floats[MIN], low)
        floats[MAX] = torch.maximum(floats[MAX], high)
        ints[COUNT] += wide.numel()
        ints[FINITE] += n
        ints[NEAR] += (wide.abs() <= self.near_zero_eps).sum()
        ints[ABOVE] += (wide > self.above_threshold).sum()
        _add_histogram(wide, ints)


def _merge(n: Tensor, floats: Tensor, n_new: Tensor, mean_new: Tensor, squares_new: Tensor) -> None:
    total = (n + n_new).clamp(min=1)
    delta = mean_new - floats[MEAN]
    floats[MEAN] += delta * (n_new / total)
    floats[SQUARES] += squares_new + delta.square() * (n * (n_new / total))


def _add_histogram(wide: Tensor, ints: Tensor) -> None:
    last = HIST_BINS - 1
    bins = (wide * 4.0).floor().add(41.0).clamp(0.0, float(last))
    # NaN goes to one bin more, which is thrown away: selecting would need the host to know a size.
    index = torch.where(wide.isnan(), float(HIST_BINS), bins).long()
    counts = torch.zeros(HIST_BINS + 1, dtype=torch.int64, device=wide.device)
    counts.scatter_add_(0, index, torch.ones_like(index))
    ints[HIST:] += counts[:HIST_BINS]


class NumbaKernel:
    """One compiled pass over memory on the CPU, and a second one for the squared deviations."""

    def __init__(self, near_zero_eps: float, above_threshold: float) -> None:
        self.near_zero_eps = near_zero_eps
        self.above_threshold = above_threshold

    def __call__(self, x: Tensor, ints: Tensor, floats: Tensor, alive: Tensor | None) -> None:
        if x.numel() == 0:
            return
        block = _as_block(x)
        if block.dtype not in (torch.float32, torch.float64):
            block = block.float()
        # An output without channels counts as one channel, whose life nobody reads.
        living = np.zeros(block.shape[1], np.bool_) if alive is None else alive.numpy()
        _reduce_block(
            block.numpy(),
            ints.numpy(),
            floats.numpy(),
            living,
            self.near_zero_eps,
            self.above_threshold,
        )


def _as_block(x: Tensor) -> Tensor:
    """View as contiguous (outer, channels, inner) without a copy where the layout allows it."""
    x = x.detach()
    if x.ndim < 2:
        return x.reshape(1, 1, -1)
    if x.is_contiguous():
        return x.view(x.shape[0], x.shape[1], -1)
    channels_last = x.movedim(1, -1)
    if channels_last.is_contiguous():
        return channels_last.view(-1, x.shape[1], 1)
    return x.contiguous().view(x.shape[0], x.shape[1], -1)


@numba.njit(nogil=True, cache=True)
def _reduce_block(  # pragma: no cover - compiled
    block: Any, ints: Any, floats: Any, alive: Any, near_zero_eps: float, above_threshold: float
) -> None:
    outer, channels, inner = block.shape
    finite = 0
    near = 0
    above = 0
    total = 0.0
    low = np.inf
    high = -np.inf
    for i in range(outer):
        partial = 0.0
        for c in range(channels):
            for j in range(inner):
                x = np.float64(block[i, c, j])
                if x > 0.0:
                    alive[c] = True
                above += x > above_threshold
                if math.isfinite(x):
                    finite += 1
                    partial += x
                    low = min(low, x)
                    high = max(high, x)
                    near += abs(x) <= near_zero_eps
                    scaled = min(max(math.floor(x * 4.0), -41.0), 40.0)
                    ints[HIST + 41 + int(scaled)] += 1
                elif x > 0.0:
                    ints[INTS - 1] += 1
                elif x < 0.0:
                    ints[HIST] += 1
        total += partial
    mean = total / finite if finite > 0 else 0.0
    squares = 0.0
    for i in range(outer):
        partial = 0.0
        for c in range(channels):
            for j in range(inner):
                delta = np.float64(block[i, c, j]) - mean
                if math.isfinite(delta):
                    partial += delta * delta
        squares += partial
    if finite > 0:
        before = ints[FINITE]
        share = finite / (before + finite)
        delta = mean - floats[MEAN]
        floats[MEAN] += delta * share
        floats[SQUARES] += squares + delta * delta * (before * share)
        floats[MIN] = min(floats[MIN], low)
        floats[MAX] = max(floats[MAX], high)
    ints[COUNT] += block.size
    ints[FINITE] += finite
    ints[NEAR] += near
    ints[ABOVE] += above


def kernel_for(device: torch.device, near_zero_eps: float, above_threshold: float) -> Reduction:
    """The kernel that serves tensors on ``device``."""
    kind = NumbaKernel if device.type == "cpu" else TorchKernel
    return kind(near_zero_eps, above_threshold)
