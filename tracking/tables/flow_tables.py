"""The tables of what flows back through a network: gradients of layers, updates of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from tracking.records import GradientRecord, UpdateRecord
from tracking.tables.schemas import arrays, read_table, with_metadata

__all__ = ["flow_table", "gradients_schema", "read_gradients", "read_updates", "updates_schema"]

_GRADIENTS = pa.schema(
    [
        ("step", pa.int64()),
        ("layer", pa.dictionary(pa.int32(), pa.string())),
        ("count", pa.int64()),
        ("norm", pa.float64()),
        ("mean_abs", pa.float64()),
        ("zeros", pa.float64()),
        ("nonfinite", pa.int64()),
    ]
)
_UPDATES = pa.schema(
    [
        ("step", pa.int64()),
        ("parameter", pa.dictionary(pa.int32(), pa.string())),
        ("count", pa.int64()),
        ("update_norm", pa.float64()),
        ("weight_norm", pa.float64()),
        ("ratio", pa.float64()),
        ("nonfinite", pa.int64()),
    ]
)


def gradients_schema(layers: str, every: str) -> pa.Schema:
    """Columns of gradients/stats.parquet, with settings and versions as metadata."""
    return with_metadata(_GRADIENTS, layers=layers, every=every)


def updates_schema(every: str) -> pa.Schema:
    """Columns of updates/stats.parquet, with settings and versions as metadata."""
    return with_metadata(_UPDATES, every=every)


def flow_table(records: Sequence[GradientRecord | UpdateRecord], schema: pa.Schema) -> pa.Table:
    """Rows of one of the two tables; ``schema`` is its own."""
    return pa.table(arrays(records, schema), schema=schema)


def read_gradients(source: Path, empty: pa.Schema | None = None) -> pa.Table:
    """A table of gradients, from stats.parquet or the folder of its parts.

    ``empty``: the schema to answer with while there are no parts yet.
    Raises RecordsDamaged: unreadable, no such table, or written by a newer version.
    """
    return read_table(source, empty, _GRADIENTS)


def read_updates(source: Path, empty: pa.Schema | None = None) -> pa.Table:
    """A table of updates; otherwise like read_gradients."""
    return read_table(source, empty, _UPDATES)
