"""Accumulated rows on the host: merged over several ranks, then turned into records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap

import numpy as np
import numpy.typing as npt

from tracking.records import LayerStats
from tracking.statistics.kernels import accumulators as k
from tracking.statistics.lasting import LastingDead

__all__ = ["LayerRows", "merged"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LayerRows:
    """Finished rows (n) of one layer in one mode, in ascending order of steps."""

    layer: str
    mode: str
    moments: Sequence[tuple[int, float]]
    """Step, and Unix seconds at its end."""
    ints: npt.NDArray[np.int64]
    """(n, INTS)"""
    floats: npt.NDArray[np.float64]
    """(n, FLOATS)"""
    channels: Mapping[int, tuple[Bools, Bools]]
    """By number of channels: whether there was such an output (n,), which of them lived (n, C)."""

    def records(self, lasting: LastingDead | None = None) -> list[LayerStats]:
        """What the rows say; ``lasting`` is what the layer's earlier rows left."""
        count, n = self.ints[:, k.COUNT], self.ints[:, k.FINITE]
        some = n > 0
        rows = len(self.moments)
        columns = (
            [step for step, _ in self.moments],
            [self.layer] * rows,
            [self.mode] * rows,
            count.tolist(),
            _where(some, self.floats[:, k.MEAN] + self.floats[:, k.REST]),
            _where(some, np.sqrt(self.floats[:, k.SQUARES] / np.maximum(n - 1, 1))),
            _where(some, self.floats[:, k.MIN]),
            _where(some, self.floats[:, k.MAX]),
            _where(some, self.ints[:, k.NEAR] / np.maximum(n, 1)),
            self.ints[:, k.ABOVE].tolist(),
            *self._dead_channels(lasting or LastingDead()),
            (count - n).tolist(),
            self.ints[:, k.HIST :],
            [time for _, time in self.moments],
        )
        return list(starmap(LayerStats, zip(*columns, strict=True)))

    def _dead_channels(self, lasting: LastingDead) -> tuple[list[float | None], ...]:
        """Shares of channels: dead in each row, and dead for long."""
        dead, channels = np.zeros((2, len(self.moments)), np.int64)
        for width, (called, alive) in self.channels.items():
            dead += called * (width - alive.sum(axis=1))
            channels += called * width
        both = dead, lasting.add(self.channels, len(self.moments))
        return tuple(_where(channels > 0, some / np.maximum(channels, 1)) for some in both)


def _where(known: Bools, values: npt.NDArray[np.float64]) -> list[float | None]:
    if known.all():
        return list(values.tolist())
    return [x if yes else None for x, yes in zip(values.tolist(), known, strict=True)]


def merged(parts: Sequence[LayerRows]) -> LayerRows:
    """The rows of one layer and mode on several ranks as if their batches had been one.

    A step that only some of them have is theirs alone. The times are those of the first that has
    the step.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    times = {step: time for part in reversed(parts) for step, time in part.moments}
    moments = sorted(times.items())
    place = {step: index for index, (step, _) in enumerate(moments)}
    whole = LayerRows(
        first.layer,
        first.mode,
        moments,
        np.zeros((len(moments), k.INTS), np.int64),
        np.tile(k.NOTHING, (len(moments), 1)),
        _no_channels(parts, len(moments)),
    )
    for part in parts:
        _add(whole, part, np.array([place[step] for step, _ in part.moments], np.int64))
    return whole


def _no_channels(parts: Sequence[LayerRows], rows: int) -> dict[int, tuple[Bools, Bools]]:
    widths = sorted({width for part in parts for width in part.channels})
    return {w: (np.zeros(rows, np.bool_), np.zeros((rows, w), np.bool_)) for w in widths}


def _add(whole: LayerRows, part: LayerRows, at: npt.NDArray[np.int64]) -> None:
    """Add the rows of ``part`` to the rows ``at`` of ``whole``, in place."""
    floats, more = whole.floats[at], part.floats
    before, n = whole.ints[at, k.FINITE], part.ints[:, k.FINITE]
    mean, rest, between = k.merge(
        before,
        n / np.maximum(before + n, 1),
        *(floats[:, k.MEAN], floats[:, k.REST]),
        *(more[:, k.MEAN], more[:, k.REST]),
    )
    floats[:, k.MEAN], floats[:, k.REST] = mean, rest
    floats[:, k.SQUARES] += more[:, k.SQUARES] + between
    floats[:, k.MIN] = np.minimum(floats[:, k.MIN], more[:, k.MIN])
    floats[:, k.MAX] = np.maximum(floats[:, k.MAX], more[:, k.MAX])
    whole.floats[at] = floats
    whole.ints[at] += part.ints
    for width, (called, alive) in part.channels.items():
        whole.channels[width][0][at] |= called
        whole.channels[width][1][at] |= alive
