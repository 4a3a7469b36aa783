"""The accumulators: their layout, the formula by which they merge, and the CPU's compiled code.

All in one file, since Numba keeps compiled code on disk until the file it stands in changes; what
stands in another one could change without its knowledge.

Squared deviations come from the corrected two-pass algorithm and are merged with the formula of
Chan, Golub and LeVeque (1979). Where the deviations are tiny beside the mean, the rounding of the
mean would spoil the merged ones, so the mean is kept as a sum of two float64 numbers. All
accumulation is in float64 and every comparison comes out as it would on float64 values, so the
results do not depend on the input's dtype, memory layout, batch size or number of threads.

The histogram has 82 counts: underflow, 80 bins of width 1/4 over [-10, 10), overflow. The bin of x
is floor(4 x) + 41; multiplying by a power of two is exact, so a value lands on the right side of an
edge however close it is.

The compiled code makes short passes over a piece of memory that stays in the first-level cache.
Each pass is a loop that compiles to vector instructions, which one loop for everything would not;
only the first pass over a piece reads main memory. Non-finite elements are rare: a piece that has
any takes a slower way, one by one.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import carray  # type: ignore[attr-defined]

__all__ = [
    "ABOVE",
    "COUNT",
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
    "NOTHING",
    "REST",
    "SQUARES",
    "merge",
    "reduce_block",
]

HIST_BINS = 82
HIST_EDGES: npt.NDArray[np.float64] = np.linspace(-10.0, 10.0, HIST_BINS - 1)

# Columns of the integer accumulators; the histogram fills the rest.
COUNT, FINITE, NEAR, ABOVE, HIST = range(5)
INTS = HIST + HIST_BINS
# Columns of the float64 accumulators. The mean is MEAN + REST, where REST is what rounding would
# lose; SQUARES is the sum of squared deviations from it.
MEAN, REST, SQUARES, MIN, MAX = range(5)
FLOATS = 5
NOTHING = (0.0, 0.0, 0.0, np.inf, -np.inf)
"""A row of them before the first element."""

PIECE = 2048
"""Elements: 8 or 16 kB."""
FEW = 4 * PIECE
"""With up to so many elements, the table of pairs takes longer to clear than it saves."""
TINY = 1e-8
"""Variance beside the squared mean, below which the rounding of a mean is no longer nothing."""

_compiled = numba.njit(nogil=True, cache=True)
# Vector instructions need sums in an order of their own; NaN and infinities keep their meaning.
_compiled_sum = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "contract"})


def merge(before: Any, share: Any, old: Any, old_rest: Any, mean: Any, rest: Any) -> Any:
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


_merge = _compiled(merge)


def reduce_block(  # pragma: no cover - compiled
    x: Any,
    bits: Any,
    outer: int,
    channels: int,
    inner: int,
    ints: Any,
    floats: Any,
    alive: Any,
    eps: Any,
    threshold: Any,
    infinity: Any,
) -> None:
    """Add a block (outer, channels, inner) to a row; to be compiled as a C function.

    ``x`` is its address, also given as that of whole numbers, ``bits``; ``ints``, ``floats`` and
    ``alive`` are those of the row's parts. The limits are ordinals.
    """
    n = outer * channels * inner
    _reduce_pieces(
        carray(x, (n,)),
        carray(bits, (n,)),
        carray(ints, (INTS,)),
        carray(floats, (FLOATS,)),
        eps,
        threshold,
        infinity,
    )
    _find_living(carray(x, (outer, channels, inner)), carray(alive, (channels,)))


@_compiled
def _reduce_pieces(  # pragma: no cover - compiled
    x: Any, bits: Any, ints: Any, floats: Any, eps: Any, threshold: Any, infinity: Any
) -> None:
    """Add ``x`` (n,) to a row. ``bits`` (n,) is its memory as whole numbers.

    Ordinals are compared, not floats: a minimum of whole numbers needs no thought of NaN.
    """
    few = x.size <= FEW
    places = np.empty(PIECE // 2, np.uint32)
    pairs = np.zeros((2, 1 if few else HIST_BINS * HIST_BINS), np.uint32)
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
    return min(max(np.floor(x * kind(4)) + kind(41), kind(0)), kind(HIST_BINS - 1))


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
        places[i] = np.uint32(np.int32(_bin(x[i]) + kind(HIST_BINS) * _bin(x[i + half])))
    for i in range(0, half, 2):
        pairs[0, places[i]] += np.uint32(1)
        pairs[1, places[i + 1]] += np.uint32(1)


@_compiled
def _add_pairs(pairs: Any, ints: Any) -> None:  # pragma: no cover - compiled
    for second in range(HIST_BINS):
        for first in range(HIST_BINS):
            place = first + HIST_BINS * second
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
            ints[INTS - 1] += 1
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
