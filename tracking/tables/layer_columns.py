"""One layer's statistics in a few columns: what pictures and the report are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tracking.statistics.kernels import HIST_BINS

__all__ = ["CURVES", "Floats", "Ints", "LayerColumns", "ratio"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CURVES = ("mean", "std", "near_zero", "dead_channels")


@dataclass(frozen=True)
class LayerColumns:
    """A layer's rows of one mode, summed into n columns of neighbouring recorded steps."""

    layer: str
    first: Ints
    """(n,) First recorded step of each column, ascending."""
    last: Ints
    """(n,) Last recorded step of each column."""
    rows: Ints
    """(n,) Recorded steps in each column."""
    nonfinite: Ints
    """(n,) NaN and infinities."""
    hist: Ints
    """(n, 82) Histograms, summed."""
    mean: Floats
    """(n,) Average of the recorded means; NaN where none of them has a value, as for the next."""
    std: Floats
    near_zero: Floats
    dead_channels: Floats
    min: Floats
    """(n,) Smallest of the recorded minima."""
    max: Floats

    def __len__(self) -> int:
        return len(self.first)

    def joined(self, limit: int) -> LayerColumns:
        """At most ``limit`` columns: neighbours joined, averages weighted by their rows."""
        width = -(-len(self) // limit)
        if width <= 1:
            return self
        begin = np.arange(0, len(self), width)
        curves = {name: _weighted(getattr(self, name), self.rows, begin) for name in CURVES}
        return LayerColumns(
            layer=self.layer,
            first=self.first[begin],
            last=self.last[np.append(begin[1:], len(self)) - 1],
            min=np.fmin.reduceat(self.min, begin),
            max=np.fmax.reduceat(self.max, begin),
            rows=np.add.reduceat(self.rows, begin),
            nonfinite=np.add.reduceat(self.nonfinite, begin),
            hist=np.add.reduceat(self.hist, begin, axis=0),
            **curves,
        )

    @property
    def edges(self) -> Floats:
        """(n + 1,) Where columns begin and the last one ends, in steps."""
        if not len(self):
            return np.zeros(0)
        gap = 1.0
        if self.rows[-1] > 1:
            gap = (self.last[-1] - self.first[-1]) / (self.rows[-1] - 1)
        elif len(self) > 1:
            gap = self.last[-1] - self.last[-2]
        return np.append(self.first, self.last[-1] + gap).astype(np.float64)

    @property
    def lowest(self) -> float:
        """The smallest finite activation of all; NaN where there is none."""
        return float(np.fmin.reduce(self.min, initial=np.nan))

    @property
    def highest(self) -> float:
        """The largest finite activation of all; NaN where there is none."""
        return float(np.fmax.reduce(self.max, initial=np.nan))

    @property
    def used_bins(self) -> tuple[int, int]:
        """First bin of the histograms that is not empty throughout, and the one after the last."""
        used = np.flatnonzero(self.hist.any(axis=0))
        return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, HIST_BINS)

    @property
    def middle(self) -> Floats:
        """(n,) The middle of each column's steps, where its averages belong."""
        return (self.first + self.last) / 2


def _weighted(values: Floats, weights: Ints, begin: Ints) -> Floats:
    """Averages of the values from each of ``begin`` to the next; NaN counts for nothing."""
    known = np.where(np.isnan(values), 0, weights)
    sums = np.add.reduceat(np.nan_to_num(values, posinf=np.inf, neginf=-np.inf) * known, begin)
    return ratio(sums, np.add.reduceat(known, begin))


def ratio(sums: Floats, counts: npt.NDArray[Any]) -> Floats:
    """Averages; NaN where there is nothing."""
    empty = np.full(len(sums), np.nan)
    averages: Floats = np.divide(sums, counts, out=empty, where=counts > 0)
    return averages
