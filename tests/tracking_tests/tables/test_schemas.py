from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import tracking
from tracking.errors import RecordsDamaged
from tracking.records import HyperParams, LayerStats, Metric
from tracking.tables import schemas
from tracking.tables.record_file import RecordFile
from tracking.tables.schemas import (
    StatsSettings,
    check_format,
    read_stats,
    read_steps,
    stats_schema,
    stats_table,
    steps_schema,
    steps_table,
)

__all__: list[str] = []

SETTINGS = StatsSettings(0.05, 1.0, "activations", "auto:0.05")


def stats(step: int = 0, layer: str = "conv1.relu", **changed: Any) -> LayerStats:
    hist = np.zeros(82, np.int64)
    hist[41] = 8
    usual = LayerStats(
        step, layer, "train", 8, 0.5, 0.25, 0.0, 1.5, 0.125, 3, 0.5, 0.25, 0, hist, time=1e9
    )
    return dataclasses.replace(usual, **changed)


def params(step: int = 0, **changed: Any) -> HyperParams:
    usual = HyperParams(step, 1, "0", 0.1, 0.9, 1e-4, 64, 2.5, 2.25, 1e9, {"beta2": 0.99})
    return dataclasses.replace(usual, **changed)


def test_columns_of_the_statistics_are_the_contract_s() -> None:
    schema = stats_schema(SETTINGS)
    text = pa.dictionary(pa.int32(), pa.string())
    assert {field.name: field.type for field in schema} == {
        "step": pa.int64(),
        "layer": text,
        "mode": text,
        "count": pa.int64(),
        **dict.fromkeys(("mean", "std", "min", "max", "near_zero"), pa.float64()),
        "above": pa.int64(),
        "dead_channels": pa.float64(),
        "dead_lasting": pa.float64(),
        "nonfinite": pa.int64(),
        "hist": pa.list_(pa.int64(), 82),
    }


def test_metadata_tells_edges_thresholds_and_versions() -> None:
    meta = check_format(stats_schema(SETTINGS), Path("x"))
    assert meta == {
        "format": 1,
        "versions": {"layerscope": tracking.__version__, "torch": torch.__version__},
        "hist_edges": [x / 4 for x in range(-40, 41)],
        "near_zero_eps": 0.05,
        "above_threshold": 1.0,
        "layers": "activations",
        "every": "auto:0.05",
    }
    assert {"format", "versions"} <= check_format(steps_schema(), Path("x")).keys()


def test_statistics_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    hist = np.arange(82) * 10**12
    nothing = dict.fromkeys(("mean", "std", "min", "max", "near_zero", "dead_channels"))
    records = [stats(), stats(2**40, "größe", hist=hist), stats(3, **nothing, nonfinite=8)]
    file = RecordFile("stats.parquet", stats_schema(SETTINGS), tmp_path)
    for record in records:
        file.append(stats_table([record], SETTINGS))
    file.close()
    table = read_stats(file.path)
    assert table.schema.equals(stats_schema(SETTINGS))
    assert check_format(table.schema, file.path) == check_format(stats_schema(SETTINGS), file.path)
    for row, record in zip(table.to_pylist(), records, strict=True):
        expected = dataclasses.asdict(record)
        del expected["time"]
        assert row == expected | {"hist": record.hist.tolist()}


def test_other_tools_can_read_the_statistics(tmp_path: Path) -> None:
    path = tmp_path / "stats.parquet"
    pq.write_table(stats_table([stats(), stats(1, mean=None)], SETTINGS), path)
    frame = pd.read_parquet(path)
    assert frame["layer"].tolist() == ["conv1.relu"] * 2
    assert frame["mean"].isna().tolist() == [False, True]
    assert np.stack(frame["hist"]).shape == (2, 82)


def test_no_records_make_an_empty_table() -> None:
    assert stats_table([], SETTINGS).schema.equals(stats_schema(SETTINGS))
    assert steps_table([]).schema.equals(steps_schema())
    assert len(stats_table([], SETTINGS)) == len(steps_table([])) == 0


def test_steps_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    nothing = dict.fromkeys(
        ("epoch", "momentum", "weight_decay", "batch_size", "loss", "loss_smooth")
    )
    records = [params(), params(1, group="head", options={}), params(2, **nothing)]
    path = tmp_path / "steps.parquet"
    pq.write_table(steps_table(records), path)
    for row, record in zip(read_steps(path).to_pylist(), records, strict=True):
        expected = dataclasses.asdict(record)
        assert row == {"beta2": None} | expected.pop("options") | expected


def test_an_option_named_like_a_column_is_kept_under_another_name() -> None:
    table = steps_table([params(7, options={"step": 3.0, "time": 4.0})])
    assert table.column_names == [*steps_schema().names, "group_step", "group_time"]
    assert (table["step"][0].as_py(), table["group_step"][0].as_py()) == (7, 3.0)


def test_reading_an_empty_folder_answers_with_the_schema(tmp_path: Path) -> None:
    table = read_stats(tmp_path, stats_schema(SETTINGS))
    assert len(table) == 0
    assert table.schema.equals(stats_schema(SETTINGS))
    with pytest.raises(RecordsDamaged, match="holds no records"):
        read_stats(tmp_path)


def write(path: Path, metadata: dict[bytes, bytes] | None) -> Path:
    table = stats_table([stats()], SETTINGS).replace_schema_metadata(metadata)
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("version", [2, 10**6])
def test_a_newer_format_is_refused(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "FORMAT", version)
    path = tmp_path / "stats.parquet"
    pq.write_table(stats_table([stats()], SETTINGS), path)
    monkeypatch.undo()
    expected = f"{path}: has format {version}, this version reads up to 1; update Layerscope"
    with pytest.raises(RecordsDamaged, match=f"^{re.escape(expected)}$"):
        read_stats(path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {b"pandas": b"{}"},
        {b"layerscope": b"not json"},
        {b"layerscope": b"[1, 2]"},
        {b"layerscope": b"\xff"},
    ],
    ids=str,
)
def test_a_foreign_table_is_refused(metadata: dict[bytes, bytes] | None, tmp_path: Path) -> None:
    path = write(tmp_path / "foreign.parquet", metadata)
    expected = f"{path}: was not written by Layerscope (no metadata)"
    with pytest.raises(RecordsDamaged, match=f"^{re.escape(expected)}$"):
        read_stats(path)


@pytest.mark.parametrize("version", [None, "1", 1.5, []])
def test_a_format_that_is_no_number_is_refused(version: object, tmp_path: Path) -> None:
    metadata = {b"layerscope": json.dumps({"format": version}).encode()}
    with pytest.raises(RecordsDamaged, match="has format"):
        read_stats(write(tmp_path / "odd.parquet", metadata))


def test_one_table_is_not_taken_for_the_other(tmp_path: Path) -> None:
    pq.write_table(steps_table([params()]), tmp_path / "steps.parquet")
    with pytest.raises(RecordsDamaged, match=r"is another table, without the columns \['layer'"):
        read_stats(tmp_path / "steps.parquet")
    pq.write_table(stats_table([stats()], SETTINGS), tmp_path / "stats.parquet")
    with pytest.raises(RecordsDamaged, match=r"is another table, without the columns \['epoch'"):
        read_steps(tmp_path / "stats.parquet")


@pytest.mark.parametrize("record", [stats(), params(), Metric("lr", 0.1, 0, 1e9)], ids=str)
def test_records_are_frozen(record: Any) -> None:
    with pytest.raises(AttributeError):
        record.step = 3
    assert not hasattr(record, "__dict__")
