"""Rows of activations/stats.parquet as arrays, ready to be summed by step and layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracking.errors import RecordsDamaged
from tracking.statistics.kernels import HIST_BINS, HIST_EDGES
from tracking.tables.layer_columns import CURVES, Ints
from tracking.tables.schemas import check_format

__all__ = ["NEEDED", "TOTALS", "Arrays", "known", "stats_blocks"]

Arrays = dict[str, npt.NDArray[Any]]

_FLOATS = ("step", *CURVES, "min", "max", "nonfinite")
NEEDED = (*_FLOATS, "layer", "mode", "hist")


def known(name: str) -> str:
    """The name of the number of rows in which a curve has a value."""
    return f"{name} known"


TOTALS = ("rows", "nonfinite", *CURVES, *map(known, CURVES))
"""What the numbers in ``totals`` are."""


def stats_blocks(table: pa.Table, mode: str, source: Path) -> Iterator[tuple[list[str], Arrays]]:
    """Layers and their rows of one mode, all of a table, layers in the order in which they come.

    ``hist`` (steps, layers, 82), ``totals`` (steps, layers, 10), ``lows`` and ``highs`` (steps,
    layers, 2): the step, and the minimum or maximum. Where layers take turns they share a block.
    Raises RecordsDamaged: the table is none of statistics that this version reads.
    """
    _check(table, source)
    table = _of_mode(table, mode)
    arrays = _arrays(table)
    for layers, rows in _turns(table):
        shape = (-1, len(layers))
        yield (
            layers,
            {name: a[rows].reshape(*shape, a.shape[1]) for name, a in arrays.items()},
        )


def _check(table: pa.Table, source: Path) -> None:
    meta = check_format(table.schema, source)
    missing = [name for name in NEEDED if name not in table.column_names]
    if missing:
        raise RecordsDamaged(f"{source}: is another table, without the columns {missing}")
    size = getattr(table.schema.field("hist").type, "list_size", None)
    if size != HIST_BINS or meta.get("hist_edges") != HIST_EDGES.tolist():
        raise RecordsDamaged(f"{source}: its histograms have other bins than this version reads")


def _arrays(table: pa.Table) -> Arrays:
    """What the rows bring to their columns: arrays with a row for each of them."""
    floats = {name: table[name].to_numpy().astype(np.float64, copy=False) for name in _FLOATS}
    has = {name: ~np.isnan(floats[name]) for name in CURVES}
    totals = {name: np.where(has[name], floats[name], 0.0) for name in CURVES}
    totals |= {known(name): where for name, where in has.items()}
    totals |= {"rows": np.ones(len(table)), "nonfinite": floats["nonfinite"]}
    flat = _one_piece(table["hist"]).flatten().to_numpy()
    return {
        "hist": flat.reshape(len(table), HIST_BINS),
        "totals": np.column_stack([totals[name] for name in TOTALS]),
        "lows": np.column_stack([floats["step"], floats["min"]]),
        "highs": np.column_stack([floats["step"], floats["max"]]),
    }


def _of_mode(table: pa.Table, mode: str) -> pa.Table:
    """The rows of one mode."""
    modes, codes = _coded(table["mode"])
    chosen = np.isin(codes, [code for code, name in enumerate(modes) if name == mode])
    return table if chosen.all() else table.filter(pa.array(chosen))


def _turns(table: pa.Table) -> Iterator[tuple[list[str], Ints | slice]]:
    """Layers in the order in which they come, and their rows; rows of several take turns."""
    names, codes = _coded(table["layer"])
    present, begin = np.unique(codes, return_index=True)
    present = present[np.argsort(begin)]
    turns = np.resize(present, len(codes))
    if (codes == turns).all() and len(codes):
        # As it is where every layer runs in every step; a slice may end within a step.
        whole = len(codes) - len(codes) % len(present)
        yield [names[code] for code in present], slice(0, whole)
        if whole < len(codes):
            yield [names[code] for code in codes[whole:]], slice(whole, None)
        return
    for code in present:
        yield [names[code]], _sliced(np.flatnonzero(codes == code))


def _sliced(rows: Ints) -> Ints | slice:
    """Evenly spaced rows, as they are where every layer runs in every step, need no copy."""
    gaps = np.diff(rows)
    if len(gaps) and (gaps == gaps[0]).all():
        return slice(int(rows[0]), int(rows[-1]) + 1, int(gaps[0]))
    return rows


def _coded(column: pa.ChunkedArray) -> tuple[list[str], Ints]:
    """The different texts of a column, and each row's place among them."""
    array = _one_piece(column)
    array = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    return array.dictionary.to_pylist(), array.indices.to_numpy()


def _one_piece(column: pa.ChunkedArray) -> pa.Array:
    """A column's values; joining what is in one piece would copy it."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
