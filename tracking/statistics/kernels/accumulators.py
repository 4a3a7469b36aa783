"""The accumulators: their layout, and the formula by which they merge.

Squared deviations come from the corrected two-pass algorithm and are merged with the formula of
Chan, Golub and LeVeque (1979). Where the deviations are tiny beside the mean, the rounding of the
mean would spoil the merged ones, so the mean is kept as a sum of two float64 numbers. All
accumulation is in float64 and every comparison comes out as it would on float64 values, so the
results do not depend on the input's dtype, memory layout, batch size or number of threads.

The histogram has 82 counts: underflow, 80 bins of width 1/4 over [-10, 10), overflow. The bin of x
is floor(4 x) + 41; multiplying by a power of two is exact, so a value lands on the right side of an
edge however close it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

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
    "TINY",
    "merge",
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

TINY = 1e-8
"""Variance beside the squared mean, below which the rounding of a mean is no longer nothing."""


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
