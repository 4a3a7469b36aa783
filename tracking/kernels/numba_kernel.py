"""The CPU's kernel: short passes over a piece of memory that stays in the first-level cache.

Each pass is a loop that compiles to vector instructions, which one loop for everything would not;
only the first pass over a piece reads main memory. Non-finite elements are rare: a piece that has
any takes a slower way, one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tracking.kernels import accumulators as k
from tracking.kernels.accumulators import merge

__all__ = ["NumbaKernel"]

PIECE = 2048
"""Elements: 8 or 16 kB."""
FEW = 4 * PIECE
"""With up to so many elements, the table of pairs takes longer to clear than it saves."""
TINY = 1e-8
"""Variance beside the squared mean, below which the rounding of a mean is no longer nothing."""
BINS = k.HIST_BINS
LAST = k.INTS - 1
COUNT, FINITE, NEAR, ABOVE, HIST = k.COUNT, k.FINITE, k.NEAR, k.ABOVE, k.HIST
MEAN, REST, SQUARES, MIN, MAX = k.MEAN, k.REST, k.SQUARES, k.MIN, k.MAX

_compiled = numba.njit(nogil=True, cache=True)
# Vector instructions need sums in an order of their own; NaN and infinities keep their meaning.
_compiled_sum = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "contract"})
_merge = _compiled(merge)


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
        _reduce(flat, flat.view(limits[0].dtype), ints, floats, *limits)
        if alive is not None:
            _find_living(block, alive)


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


@_compiled
def _reduce(  # pragma: no cover - compiled
    x: Any, bits: Any, ints: Any, floats: Any, eps: Any, threshold: Any, infinity: Any
) -> None:
    """Add ``x`` (n,) to a row. ``bits`` (n,) is its memory as whole numbers; limits are ordinals.

    Ordinals are compared, not floats: a minimum of whole numbers needs no thought of NaN.
    """
    few = x.size <= FEW
    places = np.empty(PIECE // 2, np.uint32)
    pairs = np.zeros((2, 1 if few else BINS * BINS), np.uint32)
    ends = np.empty(2, bits.dtype)
    for start in range(0, x.size, PIECE):
        piece, whole = x[start : start + PIECE], bits[start : start + PIECE]
        ends[0], ends[1], near, above = _compare(whole, eps, threshold)
        if ends[1] >= infinity or ends[0] <= ~infinity:
            _add_one_by_one(piece, whole, ints, floats, eps, threshold, infinity)
            continue
        _to_bits(ends)
        _add_moments(piece, ends.view(x.dtype), ints, floats)
        ints[NEAR] += near
        ints[ABOVE] += above
        if few or piece.size < PIECE:
            _count(piece, ints)
        else:
            _count_pairs(piece, places, pairs)
    ints[COUNT] += x.size
    if not few:
        _add_pairs(pairs, ints)


@_compiled
def _compare(bits: Any, eps: Any, threshold: Any) -> Any:  # pragma: no cover - compiled
    """Smallest and largest ordinal; numbers of elements near zero and above the threshold."""
    kind = bits.dtype.type
    most = kind(np.iinfo(bits.dtype).max)
    low, high = most, kind(~most)
    near, above = kind(0), kind(0)
    for i in range(bits.size):
        size = kind(bits[i] & most)
        ordinal = kind(bits[i] ^ most) if bits[i] < 0 else bits[i]
        low = min(low, ordinal)
        high = max(high, ordinal)
        near = kind(near + kind(size <= eps))
        above = kind(above + kind(ordinal > threshold))
    return low, high, near, above


@_compiled
def _to_bits(ordinals: Any) -> None:  # pragma: no cover - compiled
    """Turn ordinals back into the bits of floats, in place."""
    for i in range(ordinals.size):
        if ordinals[i] < 0:
            ordinals[i] ^= np.iinfo(ordinals.dtype).max


@_compiled
def _add_moments(x: Any, ends: Any, ints: Any, floats: Any) -> None:  # pragma: no cover - compiled
    """Add finite elements (n,), of which ``ends`` are the smallest and the largest."""
    n = x.size
    mean = _sum(x) / n
    squares = _squares(x, mean)
    rest = 0.0
    if squares < TINY * n * mean * mean:
        rest = _drift(x, mean) / n
        squares = max(squares - n * rest * rest, 0.0)
    _merge_moments(n, mean, rest, squares, ints, floats)
    floats[MIN] = min(floats[MIN], np.float64(ends[0]))
    floats[MAX] = max(floats[MAX], np.float64(ends[1]))


@_compiled
def _merge_moments(  # pragma: no cover - compiled
    n: int, mean: float, rest: float, squares: float, ints: Any, floats: Any
) -> None:
    before = ints[FINITE]
    new = _merge(before, n / (before + n), floats[MEAN], floats[REST], mean, rest)
    floats[MEAN], floats[REST] = new[0], new[1]
    floats[SQUARES] += squares + new[2]
    ints[FINITE] += n


@_compiled_sum
def _sum(x: Any) -> float:  # pragma: no cover - compiled
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i])
    return total


@_compiled_sum
def _squares(x: Any, mean: float) -> float:  # pragma: no cover - compiled
    total = 0.0
    for i in range(x.size):
        deviation = np.float64(x[i]) - mean
        total += deviation * deviation
    return total


@_compiled_sum
def _drift(x: Any, mean: float) -> float:  # pragma: no cover - compiled
    """Sum of the deviations, which only rounding of the mean leaves."""
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i]) - mean
    return total


@_compiled
def _bin(x: Any) -> Any:  # pragma: no cover - compiled
    """Of a finite element, as a whole number in its own float type."""
    kind = type(x)
    return min(max(np.floor(x * kind(4)) + kind(41), kind(0)), kind(BINS - 1))


@_compiled
def _count(x: Any, ints: Any) -> None:  # pragma: no cover - compiled
    for i in range(x.size):
        ints[HIST + np.int64(_bin(x[i]))] += 1


@_compiled
def _count_pairs(x: Any, places: Any, pairs: Any) -> None:  # pragma: no cover - compiled
    """Count the bins of a full piece two by two: writing to the table is what takes the time.

    Two tables take turns, so that equal neighbours do not wait for each other's result.
    """
    kind = x.dtype.type
    half = PIECE // 2
    for i in range(half):
        places[i] = np.uint32(np.int32(_bin(x[i]) + kind(BINS) * _bin(x[i + half])))
    for i in range(0, half, 2):
        pairs[0, places[i]] += np.uint32(1)
        pairs[1, places[i + 1]] += np.uint32(1)


@_compiled
def _add_pairs(pairs: Any, ints: Any) -> None:  # pragma: no cover - compiled
    for second in range(BINS):
        for first in range(BINS):
            place = first + BINS * second
            count = np.int64(pairs[0, place]) + np.int64(pairs[1, place])
            ints[HIST + first] += count
            ints[HIST + second] += count


@_compiled
def _add_one_by_one(  # pragma: no cover - compiled
    x: Any, bits: Any, ints: Any, floats: Any, eps: Any, threshold: Any, infinity: Any
) -> None:
    """Add elements of which some are not finite."""
    one, end = np.empty(1, x.dtype), np.empty(2, x.dtype)
    for i in range(x.size):
        ordinal, _, near, above = _compare(bits[i : i + 1], eps, threshold)
        if ~infinity < ordinal < infinity:
            one[0] = end[0] = end[1] = x[i]
            _add_moments(one, end, ints, floats)
            _count(one, ints)
            ints[NEAR] += near
            ints[ABOVE] += above
        elif ordinal == infinity:
            ints[ABOVE] += 1
            ints[LAST] += 1
        elif ordinal == ~infinity:
            ints[HIST] += 1


@_compiled
def _find_living(block: Any, alive: Any) -> None:  # pragma: no cover - compiled
    """Mark the channels of ``block`` (outer, channels, inner) that have an element > 0.

    A channel that lives is soon found out, so little is read of a healthy network.
    """
    if block.shape[2] == 1:
        _find_living_columns(block[:, :, 0], alive)
        return
    for c in range(block.shape[1]):
        for i in range(block.shape[0]):
            if alive[c]:
                break
            alive[c] = _any_above_zero(block[i, c])


@_compiled
def _find_living_columns(rows: Any, alive: Any) -> None:  # pragma: no cover - compiled
    for start in range(0, rows.shape[0], 64):
        if alive.all():
            break
        for i in range(start, min(start + 64, rows.shape[0])):
            for c in range(rows.shape[1]):
                alive[c] |= rows[i, c] > 0


@_compiled
def _any_above_zero(x: Any) -> bool:  # pragma: no cover - compiled
    found = np.int32(0)
    for i in range(x.size):
        found = np.int32(found + np.int32(x[i] > 0))
    return bool(found > 0)
