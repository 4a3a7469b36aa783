"""Reduce a layer's output to its accumulators: one kernel for the CPU, one for accelerators.

A kernel adds a tensor to a row of accumulators, so that several calls of a layer in one step, or
several batches, merge exactly. Squared deviations come from the corrected two-pass algorithm and
are merged with the formula of Chan, Golub and LeVeque (1979). Where the deviations are tiny beside
the mean, the rounding of the mean would spoil the merged ones, so the mean is kept as a sum of two
float64 numbers. All accumulation is in float64 and all comparisons are made on float64 values, so
the results do not depend on the input's dtype, memory layout, batch size or number of threads.

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
    "REST",
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
# Columns of the float64 accumulators. The mean is MEAN + REST, where REST is what rounding would
# lose; SQUARES is the sum of squared deviations from it.
MEAN, REST, SQUARES, MIN, MAX = range(5)
FLOATS = 5

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
            wide = x[start : start + rows].double()
            self._add(wide.flatten(), ints, floats)
            if alive is not None:
                others = [dim for dim in range(wide.ndim) if dim != 1]
                alive.logical_or_((wide > 0).any(dim=others))

    def _add(self, wide: Tensor, ints: Tensor, floats: Tensor) -> None:
        finite = wide.isfinite()
        kept = torch.where(finite, wide, 0.0)
        n = finite.sum()
        mean = kept.sum() / n.clamp(min=1)
        deviations = torch.where(finite, kept - mean, 0.0)
        rest = deviations.sum() / n.clamp(min=1)
        squares = (deviations.square().sum() - n * rest.square()).clamp(min=0)
        low = torch.where(finite, wide, math.inf).min()
        high = torch.where(finite, wide, -math.inf).max()
        before = ints[FINITE]
        # The quotient of two whole numbers would be float32.
        share = n.double() / (before + n).clamp(min=1)
        new = _merge(before, share, floats[MEAN], floats[REST], mean, rest)
        floats[MEAN], floats[REST] = new[0], new[1]
        floats[SQUARES] += squares + new[2]
        floats[MIN] = torch.minimum(floats[MIN], low)
        floats[MAX] = torch.maximum(floats[MAX], high)
        ints[COUNT] += wide.numel()
        ints[FINITE] += n
        ints[NEAR] += (wide.abs() <= self.near_zero_eps).sum()
        ints[ABOVE] += (wide > self.above_threshold).sum()
        _add_histogram(wide, ints)


def _merge(before: Any, share: Any, old: Any, old_rest: Any, mean: Any, rest: Any) -> Any:
    """Mean and rest of two sets together, and what their distance adds to the squares.

    ``before``: elements of the old set; ``share``: the new set's part of them all. Numbers or
    scalar tensors.
    """
    delta, delta_rest = mean - old, rest - old_rest
    between = (delta + delta_rest) ** 2 * (before * share)
    moved = delta * share
    new = old + moved
    # What rounding took from ``new`` (Knuth's two-sum) goes to the rest.
    back = new - old
    lost = (old - (new - back)) + (moved - back)
    return new, old_rest + delta_rest * share + lost, between


_merge_numbers = numba.njit(nogil=True, cache=True)(_merge)


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
    x = x.detach().resolve_neg()
    if x.ndim < 2:
        return x.reshape(1, 1, -1)
    if x.is_contiguous():
        return x.view(x.shape[0], x.shape[1], -1)
    channels_last = x.movedim(1, -1)
    if channels_last.is_contiguous():
        return channels_last.view(-1, x.shape[1], 1)
    return x.contiguous().view(x.shape[0], x.shape[1], -1)


@numba.njit(nogil=True, cache=True)
def _deviations(block: Any, mean: float) -> tuple[float, float]:  # pragma: no cover - compiled
    """Sums of the squared deviations from ``mean``, and of the deviations, of finite elements."""
    outer, channels, inner = block.shape
    squares = 0.0
    rest = 0.0
    for i in range(outer):
        partial = 0.0
        drift = 0.0
        for c in range(channels):
            for j in range(inner):
                delta = np.float64(block[i, c, j]) - mean
                if math.isfinite(delta):
                    partial += delta * delta
                    drift += delta
        squares += partial
        rest += drift
    return squares, rest


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
                above += int(x > above_threshold)
                if math.isfinite(x):
                    finite += 1
                    partial += x
                    low = min(low, x)
                    high = max(high, x)
                    near += int(abs(x) <= near_zero_eps)
                    # Brought into range first: floor gives an int64, which huge values overflow.
                    scaled = min(max(x * 4.0, -41.0), 40.0)
                    ints[HIST + 41 + math.floor(scaled)] += 1
                elif x > 0.0:
                    ints[INTS - 1] += 1
                elif x < 0.0:
                    ints[HIST] += 1
        total += partial
    if finite > 0:
        mean = total / finite
        squares, rest = _deviations(block, mean)
        rest /= finite
        before = ints[FINITE]
        share = finite / (before + finite)
        new = _merge_numbers(before, share, floats[MEAN], floats[REST], mean, rest)
        floats[MEAN], floats[REST] = new[0], new[1]
        floats[SQUARES] += max(squares - finite * rest * rest, 0.0) + new[2]
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
