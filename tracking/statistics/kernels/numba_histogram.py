"""The histogram of a piece of memory, in the CPU's compiled code."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from tracking.statistics.kernels import accumulators as k
from tracking.statistics.kernels.accumulators import HIST_BINS

__all__ = ["PIECE", "add_pairs", "bin_of", "count", "count_pairs"]

PIECE = 2048
"""Elements of a full piece: 8 or 16 kB."""

# Not kept on disk one by one: numba_reduction.py says under which key the whole of it is.
_compiled = numba.njit(nogil=True)


@_compiled
def bin_of(x: Any) -> Any:  # pragma: no cover - compiled
    """Of a finite element, as a whole number in its own float type."""
    kind = type(x)
    return min(max(np.floor(x * kind(4)) + kind(41), kind(0)), kind(HIST_BINS - 1))


@_compiled
def count(x: Any, ints: Any) -> None:  # pragma: no cover - compiled
    """Count the bins of finite elements (n,) one by one."""
    for i in range(x.size):
        ints[k.HIST + np.int64(bin_of(x[i]))] += 1


@_compiled
def count_pairs(  # pragma: no cover - compiled
    x: Any, extremes: Any, places: Any, pairs: Any, span: Any
) -> None:
    """Count the bins of a full piece two by two: writing to the table is what takes the time.

    Two tables take turns, so that equal neighbours do not wait for each other's result. ``span``
    widens to hold the bins of ``extremes``, the piece's smallest and largest element.
    """
    span[0] = min(span[0], np.int64(bin_of(extremes[0])))
    span[1] = max(span[1], np.int64(bin_of(extremes[1])))
    kind = x.dtype.type
    half = PIECE // 2
    for i in range(half):
        places[i] = np.uint32(np.int32(bin_of(x[i]) + kind(HIST_BINS) * bin_of(x[i + half])))
    for i in range(0, half, 2):
        pairs[0, places[i]] += np.uint32(1)
        pairs[1, places[i + 1]] += np.uint32(1)


@_compiled
def add_pairs(pairs: Any, span: Any, ints: Any) -> None:  # pragma: no cover - compiled
    """Add the bins that were counted in pairs (2, HIST_BINS ** 2) to the histogram.

    ``span`` (2,) int64: the lowest and the highest, (HIST_BINS, -1) where there are none. Most of
    the table is of bins that nothing fell into, and reading it took a quarter of a layer's time.
    """
    for second in range(span[0], span[1] + 1):
        for first in range(span[0], span[1] + 1):
            place = first + HIST_BINS * second
            times = np.int64(pairs[0, place]) + np.int64(pairs[1, place])
            ints[k.HIST + first] += times
            ints[k.HIST + second] += times
