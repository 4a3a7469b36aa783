"""Long tables as a few columns: neighbouring steps summed, while the rows stream by.

A picture has so many pixels, not more, so nothing ever holds the table. A layer's columns hold one
row each until they are all in use; then neighbours are joined in pairs, and each holds twice as
many from there on. Its columns are therefore between half of the limit and the limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracking.errors import RecordsDamaged
from tracking.kernels import HIST_BINS, HIST_EDGES
from tracking.layer_columns import CURVES, Ints, LayerColumns, ratio
from tracking.store import read_slices
from tracking.tables import check_format

__all__ = ["COLUMNS", "NEEDED", "ColumnsBuilder", "LayerColumns", "read_columns"]

Arrays = dict[str, npt.NDArray[Any]]

COLUMNS = 1200
"""Largest number of a layer's columns; half of it is always there, and a panel shows no more."""
TOTAL = 48_000
"""Largest number of all layers' columns, 32 MB: layers of very deep networks get fewer."""
FEWEST = 16

_FLOATS = ("step", *CURVES, "min", "max", "nonfinite")
NEEDED = (*_FLOATS, "layer", "mode", "hist")


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
        _check(table, source)
        arrays = _arrays(table)
        for layer, rows in _rows_by_layer(table, self._mode):
            sums = self._sums.setdefault(layer, _Sums())
            sums.add({name: array[rows] for name, array in arrays.items()}, self._limit)

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
    for table in _ahead(read_slices(source, NEEDED)):
        builder.add(table, source)
    return builder.columns(layers)


def _ahead(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same tables; while one is summed, the next is decoded."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, tables, None)
        while (table := coming.result()) is not None:
            coming = thread.submit(next, tables, None)
            yield table


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
            "totals": np.zeros((0, len(_TOTALS))),
            "lows": np.zeros((0, 2)),
            "highs": np.zeros((0, 2)),
        }

    @property
    def _used(self) -> int:
        return -(-self._count // self._width)

    def add(self, rows: Arrays, limit: int) -> None:
        """Rows that follow those before; afterwards there are at most ``limit`` columns."""
        count = len(rows["hist"])
        self.shrink(limit, count)
        places = (self._count + np.arange(count)) // self._width
        begin = np.flatnonzero(np.diff(places, prepend=-1))
        here = slice(places[0], places[-1] + 1)
        self._count += count
        if self._used > len(self._arrays["hist"]):
            self._resize(min(limit, 2 * self._used))
        for name, (join, _) in _JOIN.items():
            array = self._arrays[name]
            array[here] = join(array[here], join.reduceat(rows[name], begin, axis=0))

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
        totals = dict(zip(_TOTALS, found["totals"].T, strict=True))
        means = {name: ratio(totals[name], totals[_known(name)]) for name in CURVES}
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


def _known(name: str) -> str:
    """The name of the number of rows in which a curve has a value."""
    return f"{name} known"


_TOTALS = ("rows", "nonfinite", *CURVES, *map(_known, CURVES))


def _check(table: pa.Table, source: Path) -> None:
    meta = check_format(table.schema, source)
    missing = [name for name in NEEDED if name not in table.column_names]
    if missing:
        raise RecordsDamaged(f"{source}: is another table, without the columns {missing}")
    size = getattr(table.schema.field("hist").type, "list_size", None)
    if size != HIST_BINS or meta.get("hist_edges") != HIST_EDGES.tolist():
        raise RecordsDamaged(f"{source}: its histograms have other bins than this version reads")


def _arrays(table: pa.Table) -> Arrays:
    """What the rows bring to their columns: arrays as in _JOIN, with a row for each of them."""
    floats = {name: table[name].to_numpy().astype(np.float64) for name in _FLOATS}
    totals = {name: np.nan_to_num(floats[name], posinf=np.inf, neginf=-np.inf) for name in CURVES}
    totals |= {_known(name): ~np.isnan(floats[name]) for name in CURVES}
    totals |= {"rows": np.ones(len(table)), "nonfinite": floats["nonfinite"]}
    flat = table["hist"].combine_chunks().flatten().to_numpy()
    return {
        "hist": flat.reshape(len(table), HIST_BINS),
        "totals": np.column_stack([totals[name] for name in _TOTALS]),
        "lows": np.column_stack([floats["step"], floats["min"]]),
        "highs": np.column_stack([floats["step"], floats["max"]]),
    }


def _rows_by_layer(table: pa.Table, mode: str) -> Iterator[tuple[str, Ints | slice]]:
    """Each layer's rows of one mode, in the order in which the layers come."""
    if not len(table):
        return
    modes, codes = _coded(table["mode"])
    chosen = np.isin(codes, [code for code, name in enumerate(modes) if name == mode])
    layers, codes = _coded(table["layer"])
    present, begin = np.unique(codes[chosen], return_index=True)
    for code in present[np.argsort(begin)]:
        yield layers[code], _sliced(np.flatnonzero(chosen & (codes == code)))


def _sliced(rows: Ints) -> Ints | slice:
    """Evenly spaced rows, as they are where every layer runs in every step, need no copy."""
    gaps = np.diff(rows)
    if len(gaps) and (gaps == gaps[0]).all():
        return slice(int(rows[0]), int(rows[-1]) + 1, int(gaps[0]))
    return rows


def _coded(column: pa.ChunkedArray) -> tuple[list[str], Ints]:
    """The different texts of a column, and each row's place among them."""
    array = column.combine_chunks()
    array = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    return array.dictionary.to_pylist(), array.indices.to_numpy()
