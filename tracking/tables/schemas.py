"""The tables that records become: columns, metadata, and reading back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa

from tracking import __version__
from tracking.errors import BadOption, RecordsDamaged
from tracking.records import HyperParams, LayerStats
from tracking.statistics.kernels import HIST_BINS, HIST_EDGES
from tracking.tables.record_file import read_records

__all__ = [
    "FORMAT",
    "StatsSettings",
    "arrays",
    "check_format",
    "read_stats",
    "read_steps",
    "read_table",
    "stats_schema",
    "stats_table",
    "steps_schema",
    "steps_table",
    "with_metadata",
]

FORMAT = 1
"""Version of the tables' layout; a reader refuses what is newer."""

_KEY = b"layerscope"

_STATS = pa.schema(
    [
        ("step", pa.int64()),
        ("layer", pa.dictionary(pa.int32(), pa.string())),
        ("mode", pa.dictionary(pa.int32(), pa.string())),
        ("count", pa.int64()),
        ("mean", pa.float64()),
        ("std", pa.float64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        ("near_zero", pa.float64()),
        ("above", pa.int64()),
        ("dead_channels", pa.float64()),
        ("dead_lasting", pa.float64()),
        ("nonfinite", pa.int64()),
        ("hist", pa.list_(pa.int64(), HIST_BINS)),
    ]
)
_ADDED = frozenset({"dead_lasting"})
"""Columns that the first tables lack."""
_STEPS = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int64()),
        ("group", pa.dictionary(pa.int32(), pa.string())),
        ("lr", pa.float64()),
        ("momentum", pa.float64()),
        ("weight_decay", pa.float64()),
        ("batch_size", pa.int64()),
        ("loss", pa.float64()),
        ("loss_smooth", pa.float64()),
        ("time", pa.float64()),
    ]
)


@dataclass(frozen=True)
class StatsSettings:
    """What the numbers of a statistics table depend on."""

    near_zero_eps: float
    above_threshold: float
    layers: str
    every: str

    def __post_init__(self) -> None:
        if not 0 <= self.near_zero_eps < math.inf:
            raise BadOption(f"near_zero_eps={self.near_zero_eps}: allowed: a number from 0")
        if not math.isfinite(self.above_threshold):
            raise BadOption(f"above_threshold={self.above_threshold}: allowed: a number")


def stats_schema(settings: StatsSettings) -> pa.Schema:
    """Columns of activations/stats.parquet, with edges, thresholds and versions as metadata."""
    return with_metadata(_STATS, hist_edges=HIST_EDGES.tolist(), **asdict(settings))


def stats_table(records: Sequence[LayerStats], settings: StatsSettings) -> pa.Table:
    """Rows of activations/stats.parquet."""
    schema = stats_schema(settings)
    columns = arrays(records, [field for field in schema if field.name != "hist"])
    flat = np.concatenate([r.hist for r in records]) if records else np.zeros(0, np.int64)
    columns["hist"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), HIST_BINS)
    return pa.table(columns, schema=schema)


def arrays(records: Sequence[object], fields: Iterable[pa.Field]) -> dict[str, pa.Array]:
    """The records' values, by field: each a column."""
    types = {field.name: field.type for field in fields}
    rows = map(attrgetter(*types), records)
    values = zip(*rows, strict=True) if records else [()] * len(types)
    return {
        name: pa.array(column, type=kind)
        for (name, kind), column in zip(types.items(), values, strict=True)
    }


def read_stats(source: Path, empty: pa.Schema | None = None) -> pa.Table:
    """A table of statistics, from stats.parquet or the folder of its parts.

    ``empty``: the schema to answer with while there are no parts yet.
    Columns that older versions did not write are null. Raises RecordsDamaged: unreadable, no such
    table, or written by a newer version.
    """
    expected = pa.schema([field for field in _STATS if field.name not in _ADDED])
    table = read_table(source, empty, expected)
    for name in _ADDED - {*table.column_names}:
        table = table.append_column(_STATS.field(name), pa.nulls(len(table), pa.float64()))
    return table


def steps_schema() -> pa.Schema:
    """Columns of hyperparameters/steps.parquet that every optimizer has."""
    return with_metadata(_STEPS)


def steps_table(records: Sequence[HyperParams]) -> pa.Table:
    """Rows of hyperparameters/steps.parquet; the optimizer's other numbers become columns.

    One that has the name of another column, such as a group's own ``step``, becomes ``group_step``.
    """
    schema = steps_schema()
    columns = arrays(records, schema)
    for name in sorted({name for r in records for name in r.options}):
        column = f"group_{name}" if name in _STEPS.names else name
        columns[column] = pa.array([r.options.get(name) for r in records], type=pa.float64())
        schema = schema.append(pa.field(column, pa.float64()))
    return pa.table(columns, schema=schema)


def read_steps(source: Path, empty: pa.Schema | None = None) -> pa.Table:
    """A table of hyperparameters, from steps.parquet or its parts; otherwise like read_stats."""
    return read_table(source, empty, _STEPS)


def with_metadata(schema: pa.Schema, **settings: object) -> pa.Schema:
    """The schema with the format, the versions and ``settings``, for ``check_format`` to read."""
    import torch  # here, where tables are written: their readers do without it

    versions = {"layerscope": __version__, "torch": torch.__version__}
    meta = {"format": FORMAT, "versions": versions, **settings}
    return schema.with_metadata({_KEY: json.dumps(meta).encode()})


def read_table(source: Path, empty: pa.Schema | None, expected: pa.Schema) -> pa.Table:
    """A table that has at least the columns of ``expected``; otherwise like read_stats."""
    if empty is not None and source.is_dir() and not any(source.glob("*.parquet")):
        return empty.empty_table()
    table = read_records(source)
    check_format(table.schema, source)
    missing = [name for name in expected.names if name not in table.column_names]
    if missing:
        raise RecordsDamaged(f"{source}: is another table, without the columns {missing}")
    return table


def check_format(schema: pa.Schema, source: Path) -> dict[str, object]:
    """The settings in a table's metadata.

    Raises RecordsDamaged: the table is not one of this project's, or is of a newer format.
    """
    try:
        meta: dict[str, object] = dict(json.loads((schema.metadata or {})[_KEY]))
    except (KeyError, TypeError, ValueError):
        raise RecordsDamaged(f"{source}: was not written by Layerscope (no metadata)") from None
    version = meta.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise RecordsDamaged(
            f"{source}: has format {version}, this version reads up to {FORMAT}; update Layerscope"
        )
    return meta
