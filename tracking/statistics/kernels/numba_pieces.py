"""What the CPU's compiled code does with a piece of memory that stays in the first-level cache.

Short passes, each a loop that compiles to vector instructions, which one loop for everything would
not; only the first pass over a piece reads main memory. Non-finite elements are rare: a piece that
has any takes a slower way, one by one.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from tracking.statistics.kernels import accumulators as k
from tracking.statistics.kernels import numba_histogram as h
from tracking.statistics.kernels.accumulators import INTS
from tracking.statistics.kernels.numba_histogram import PIECE

__all__ = ["FINITE", "MOMENTS", "add_piece", "mark_living", "merge"]

# Columns of a piece's float64 moments: those of the accumulators, and how many elements are finite.
FINITE = k.FLOATS
MOMENTS = k.FLOATS + 1

# Not kept on disk one by one: numba_reduction.py says under which key the whole of it is.
_compiled = numba.njit(nogil=True)
# Vector instructions need sums in an order of their own; NaN and infinities keep their meaning.
_compiled_sum = numba.njit(nogil=True, fastmath={"reassoc", "nsz", "contract"})

merge = _compiled(k.merge)


@_compiled
def add_piece(  # pragma: no cover - compiled
    x: Any,
    bits: Any,
    ints: Any,
    moments: Any,
    limits: Any,
    ends: Any,
    places: Any,
    pairs: Any,
    span: Any,
) -> None:
    """Add a piece (n,), n <= PIECE, to integer accumulators; its moments (MOMENTS,) are set.

    ``bits`` (n,) is its memory as whole numbers. Ordinals are compared, not floats: a minimum of
    whole numbers needs no thought of NaN. The bins of a full piece go to ``pairs``, if it has room
    with their ``span`` (see ``numba_histogram.add_pairs``). ``ends`` (2,) of the kind of ``bits``
    and ``places`` (PIECE / 2,) uint32 are memory to work in.
    """
    eps, threshold, infinity = limits
    low, high, near, above = _compare(bits, eps, threshold)
    ints[k.COUNT] += x.size
    if high >= infinity or low <= ~infinity:
        _add_one_by_one(x, bits, ints, moments, limits)
        return
    ends[0], ends[1] = low, high
    _to_bits(ends)
    extremes = ends.view(x.dtype)
    _set_moments(x, extremes, moments)
    ints[k.NEAR] += near
    ints[k.ABOVE] += above
    if pairs.size > 2 and x.size == PIECE:
        h.count_pairs(x, extremes, places, pairs, span)
    else:
        h.count(x, ints)


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
def _set_moments(x: Any, ends: Any, moments: Any) -> None:  # pragma: no cover - compiled
    """Those of finite elements (n,), of which ``ends`` are the smallest and the largest."""
    n = x.size
    mean = _sum(x) / n
    squares = _squares(x, mean)
    rest = 0.0
    if squares < k.TINY * n * mean * mean:
        rest = _drift(x, mean) / n
        squares = max(squares - n * rest * rest, 0.0)
    moments[k.MEAN], moments[k.REST], moments[k.SQUARES] = mean, rest, squares
    moments[k.MIN], moments[k.MAX] = np.float64(ends[0]), np.float64(ends[1])
    moments[FINITE] = n


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
def _add_one_by_one(  # pragma: no cover - compiled
    x: Any, bits: Any, ints: Any, moments: Any, limits: Any
) -> None:
    """Add elements of which some are not finite."""
    eps, threshold, infinity = limits
    mean, rest, squares, low, high = k.NOTHING
    finite = 0
    for i in range(x.size):
        ordinal, _, near, above = _compare(bits[i : i + 1], eps, threshold)
        if ~infinity < ordinal < infinity:
            value = np.float64(x[i])
            new = merge(finite, 1 / (finite + 1), mean, rest, value, 0.0)
            mean, rest, squares = new[0], new[1], squares + new[2]
            low, high = min(low, value), max(high, value)
            finite += 1
            h.count(x[i : i + 1], ints)
            ints[k.NEAR] += near
            ints[k.ABOVE] += above
        elif ordinal == infinity:
            ints[k.ABOVE] += 1
            ints[INTS - 1] += 1
        elif ordinal == ~infinity:
            ints[k.HIST] += 1
    moments[k.MEAN], moments[k.REST], moments[k.SQUARES] = mean, rest, squares
    moments[k.MIN], moments[k.MAX] = low, high
    moments[FINITE] = finite


@_compiled
def mark_living(  # pragma: no cover - compiled
    x: Any, start: int, stop: int, inner: int, alive: Any
) -> None:
    """Mark in ``alive`` (channels,) the channels that have an element > 0 in x[start:stop].

    Element i is of channel i // inner % channels. A channel that lives is soon found out, so little
    is read of a healthy network.
    """
    channels = alive.size
    if inner == 1 and channels > 1:
        _mark_columns(x, start, stop, alive)
        return
    while start < stop:
        place = start // inner
        end = min((place + 1) * inner, stop)
        channel = place % channels
        if not alive[channel]:
            alive[channel] = _any_above_zero(x[start:end])
        start = end


@_compiled
def _mark_columns(x: Any, start: int, stop: int, alive: Any) -> None:  # pragma: no cover - compiled
    channels = alive.size
    looked = 0
    while start < stop:
        if looked % 64 == 0 and alive.all():
            return
        first = start % channels
        row = x[start : min(start + channels - first, stop)]
        for c in range(row.size):
            alive[first + c] |= row[c] > 0
        start += row.size
        looked += 1


@_compiled
def _any_above_zero(x: Any) -> bool:  # pragma: no cover - compiled
    found = np.int32(0)
    for i in range(x.size):
        found = np.int32(found + np.int32(x[i] > 0))
    return bool(found > 0)
