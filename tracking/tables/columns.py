"""Long tables as a few columns: neighbouring steps summed, while the rows stream by.

A picture has so many pixels, not more, so nothing ever holds the table. A layer's columns hold one
row each until they are all in use; then neighbours are joined in pairs, and each holds twice as
many from there on. Its columns are therefore between half of the limit and the limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracking.statistics.kernels import HIST_BINS
from tracking.tables.layer_columns import CURVES, Ints, LayerColumns, ratio
from tracking.tables.record_file import numbered_slices
from tracking.tables.stats_blocks import NEEDED, TOTALS, Arrays, known, stats_blocks

__all__ = ["COLUMNS", "NEEDED", "ColumnsBuilder", "LayerColumns", "read_columns"]

T = TypeVar("T")

COLUMNS = 1200
"""Largest number of a layer's columns; half of it is always there, and a panel shows no more."""
TOTAL = 48_000
"""Largest number of all layers' columns, 32 MB: layers of very deep networks get fewer."""
FEWEST = 16
READERS = 2
"""Threads that decode: that takes twice as long as summing."""
ROWS = 1 << 14
"""Rows at a time: all of a row group in one piece, as this project writes them; 12 MB."""


class ColumnsBuilder:
    """Takes tables of statistics in the order of their steps, and sums them into columns.

    ``limit``: the largest number of columns of a layer, even. ``mode``: ``train`` or ``eval``;
    rows of the other mode are left out.
    """

    def __init__(self, limit: int = COLUMNS, mode: str = "train") -> None:
        if limit < 2 or limit % 2:
            raise ValueError(f"limit={limit}: allowed: even numbers from 2")
        self._most = limit
        self._mode = mode
        self._sums: dict[str, _Sums] = {}

    def add(self, table: pa.Table, source: Path) -> None:
        """Add rows. Raises RecordsDamaged: they are no statistics that this version reads."""
        for layers, block in stats_blocks(table, self._mode, source):
            self._add(layers, block)

    def columns(self, layers: Sequence[str] = ()) -> dict[str, LayerColumns]:
        """What has been summed so far, layers in the order in which they came.

        With ``layers``, exactly those, in that order; one that was not recorded has no columns.
        """
        for sums in self._sums.values():
            sums.shrink(self._limit)
        nothing = _Sums()
        return {
            layer: self._sums.get(layer, nothing).columns(layer) for layer in layers or self._sums
        }

    def _add(self, layers: Sequence[str], block: Arrays) -> None:
        """Add rows by step, layer and number: those of layers that are alike are summed at once."""
        count = len(block["hist"])
        sums = [self._sums.setdefault(layer, _Sums()) for layer in layers]
        alike: dict[tuple[int, int], list[int]] = {}
        for place, one in enumerate(sums):
            one.shrink(self._limit, count)
            alike.setdefault(one.state, []).append(place)
        for (before, width), places in alike.items():
            columns = (before + np.arange(count)) // width
            begin = np.flatnonzero(np.diff(columns, prepend=-1))
            together = slice(None) if len(places) == len(layers) else places
            joined = {
                name: _reduced(join, block[name][:, together], begin)
                for name, (join, _) in _JOIN.items()
            }
            for number, place in enumerate(places):
                own = {name: array[:, number] for name, array in joined.items()}
                sums[place].add(own, count, self._limit)

    @property
    def _limit(self) -> int:
        share = TOTAL // max(1, len(self._sums)) // 2 * 2
        return min(self._most, max(FEWEST, share))


def read_columns(
    source: Path, limit: int = COLUMNS, mode: str = "train", layers: Sequence[str] = ()
) -> dict[str, LayerColumns]:
    """The statistics at ``source``, stats.parquet or the folder of its parts, as columns by layer.

    ``limit``, ``mode`` and ``layers`` as in ColumnsBuilder.
    Raises RecordsDamaged: unreadable, no such table, or written by a newer version.
    """
    builder = ColumnsBuilder(limit, mode)
    readers = [numbered_slices(source, NEEDED, ROWS, share, READERS) for share in range(READERS)]
    for _, table in merge(*map(_ahead, readers), key=itemgetter(0)):
        builder.add(table, source)
    return builder.columns(layers)


def _ahead(slices: Iterator[T]) -> Iterator[T]:
    """The same; while one is in use, the next is decoded, in another thread."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, slices, None)
        while (found := coming.result()) is not None:
            coming = thread.submit(next, slices, None)
            yield found


# How columns are joined, and what an empty one has.
_JOIN = {
    "hist": (np.add, 0),
    "totals": (np.add, 0.0),
    "lows": (np.fmin, np.nan),
    "highs": (np.fmax, np.nan),
}


class _Sums:
    """One layer's columns while they grow; each has ``width`` rows, the last one up to so many."""

    def __init__(self) -> None:
        self._width = 1
        self._count = 0
        self._arrays: Arrays = {
            "hist": np.zeros((0, HIST_BINS), np.int64),
            "totals": np.zeros((0, len(TOTALS))),
            "lows": np.zeros((0, 2)),
            "highs": np.zeros((0, 2)),
        }

    @property
    def _used(self) -> int:
        return -(-self._count // self._width)

    @property
    def state(self) -> tuple[int, int]:
        """Rows so far, and rows in a column: what the next rows' columns depend on."""
        return self._count, self._width

    def add(self, joined: Arrays, count: int, limit: int) -> None:
        """Add ``count`` rows, joined by columns; the first may belong to the last column."""
        begin = self._count // self._width
        here = slice(begin, begin + len(joined["hist"]))
        self._count += count
        if self._used > len(self._arrays["hist"]):
            self._resize(min(limit, 2 * self._used))
        for name, (join, _) in _JOIN.items():
            array = self._arrays[name]
            array[here] = join(array[here], joined[name])

    def shrink(self, limit: int, coming: int = 0) -> None:
        """Join neighbours until the rows, and those that are coming, fit into ``limit`` columns."""
        while self._count + coming > limit * self._width:
            self._resize(self._used + self._used % 2)
            self._width *= 2
            for name, (join, _) in _JOIN.items():
                self._arrays[name] = join(self._arrays[name][0::2], self._arrays[name][1::2])

    def columns(self, layer: str) -> LayerColumns:
        """The columns as they are now, which later rows do not change."""
        found = {name: array[: self._used] for name, array in self._arrays.items()}
        totals = dict(zip(TOTALS, found["totals"].T, strict=True))
        means = {name: ratio(totals[name], totals[known(name)]) for name in CURVES}
        return LayerColumns(
            layer=layer,
            first=found["lows"][:, 0].astype(np.int64),
            last=found["highs"][:, 0].astype(np.int64),
            rows=totals["rows"].astype(np.int64),
            nonfinite=totals["nonfinite"].astype(np.int64),
            hist=found["hist"].copy(),
            min=found["lows"][:, 1].copy(),
            max=found["highs"][:, 1].copy(),
            **means,
        )

    def _resize(self, length: int) -> None:
        for name, (_, nothing) in _JOIN.items():
            array = self._arrays[name][:length]
            filling = np.full((length - len(array), array.shape[1]), nothing, array.dtype)
            self._arrays[name] = np.concatenate([array, filling])


def _reduced(join: np.ufunc, rows: npt.NDArray[Any], begin: Ints) -> npt.NDArray[Any]:
    """Rows joined from each of ``begin`` to the next: reduceat, in a fraction of its time."""
    if len(begin) == len(rows):
        return rows
    ends = [*begin[1:].tolist(), len(rows)]
    found = [join.reduce(rows[a:b], axis=0) for a, b in zip(begin.tolist(), ends, strict=True)]
    return np.stack(found)
