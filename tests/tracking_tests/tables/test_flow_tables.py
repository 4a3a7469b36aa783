from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracking.errors import RecordsDamaged
from tracking.records import GradientRecord, UpdateRecord
from tracking.tables.flow_tables import (
    flow_table,
    gradients_schema,
    read_gradients,
    read_updates,
    updates_schema,
)
from tracking.tables.schemas import StatsSettings, check_format, stats_schema

__all__: list[str] = []

GRADIENTS = gradients_schema("all", "auto:0.05")
UPDATES = updates_schema("2")
GRADIENT = GradientRecord(2**40, "größe", 8, 0.5, 0.25, 0.125, 3, time=1e9)
UPDATE = UpdateRecord(2**40, "größe", 8, 0.5, 0.25, 2.0, 3, time=1e9)


def names_and_types(schema: pa.Schema) -> dict[str, Any]:
    return {field.name: field.type for field in schema}


def test_columns_are_those_that_the_documentation_lists() -> None:
    text = pa.dictionary(pa.int32(), pa.string())
    assert names_and_types(GRADIENTS) == {
        "step": pa.int64(),
        "layer": text,
        "count": pa.int64(),
        **dict.fromkeys(("norm", "mean_abs", "zeros"), pa.float64()),
        "nonfinite": pa.int64(),
    }
    assert names_and_types(UPDATES) == {
        "step": pa.int64(),
        "parameter": text,
        "count": pa.int64(),
        **dict.fromkeys(("update_norm", "weight_norm", "ratio"), pa.float64()),
        "nonfinite": pa.int64(),
    }
    page = Path(__file__).parents[3].joinpath("docs", "statistics.md").read_text(encoding="utf-8")
    for title, schema in (("## Gradients", GRADIENTS), ("## Updates", UPDATES)):
        section = page.split(title)[1].split("\n## ")[0]
        listed = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
        assert listed == schema.names


def test_metadata_tells_settings_and_versions() -> None:
    meta = check_format(GRADIENTS, Path("x"))
    assert (meta["format"], meta["layers"], meta["every"]) == (1, "all", "auto:0.05")
    assert check_format(UPDATES, Path("x"))["every"] == "2"
    assert {"layerscope", "torch"} == set(dict(meta)["versions"])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("record", "schema", "read"),
    [(GRADIENT, GRADIENTS, read_gradients), (UPDATE, UPDATES, read_updates)],
    ids=["gradients", "updates"],
)
def test_records_come_back_from_disk_as_they_were(
    record: Any, schema: pa.Schema, read: Any, tmp_path: Path
) -> None:
    nothing = {name: None for name in schema.names if schema.field(name).type == pa.float64()}
    records = [record, dataclasses.replace(record, **nothing)]
    path = tmp_path / "stats.parquet"
    pq.write_table(flow_table(records, schema), path)
    table = read(path)
    assert table.schema.equals(schema, check_metadata=True)
    for row, expected in zip(table.to_pylist(), records, strict=True):
        values = dataclasses.asdict(expected)
        del values["time"]
        assert row == values
    assert flow_table([], schema).schema.equals(schema)
    (tmp_path / "parts").mkdir()
    assert read(tmp_path / "parts", schema).equals(schema.empty_table())


def test_one_table_is_not_taken_for_the_other(tmp_path: Path) -> None:
    others = {
        "a": (UPDATES, read_gradients),
        "b": (GRADIENTS, read_updates),
        "c": (stats_schema(StatsSettings(0.05, 1.0, "all", "1")), read_gradients),
    }
    for name, (schema, read) in others.items():
        pq.write_table(schema.empty_table(), tmp_path / name)
        with pytest.raises(RecordsDamaged, match="is another table, without the columns"):
            read(tmp_path / name)


@pytest.mark.parametrize("record", [GRADIENT, UPDATE], ids=["gradient", "update"])
def test_records_are_frozen(record: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.step = 3
    assert not hasattr(record, "__dict__")
