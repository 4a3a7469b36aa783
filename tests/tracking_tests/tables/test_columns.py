"""Columns against NumPy: whatever the table, they hold what its rows hold."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracking_tests.figures import row, table
from tracking.errors import RecordsDamaged
from tracking.records import LayerStats
from tracking.tables import record_file
from tracking.tables.columns import FEWEST, ColumnsBuilder, LayerColumns, read_columns
from tracking.tables.record_file import RecordFile
from tracking.tables.schemas import StatsSettings, stats_schema

__all__: list[str] = []

CURVES = ("mean", "std", "near_zero", "dead_channels")
SCHEMA = stats_schema(StatsSettings(0.05, 1.0, "activations", "1"))


def written(folder: Path, *parts: list[LayerStats]) -> Path:
    file = RecordFile("stats.parquet", SCHEMA, folder)
    for records in parts:
        file.append(table(*records))
    return file.close()


# -- what cannot be read --


def test_what_is_no_table_of_statistics_is_refused(tmp_path: Path) -> None:
    whole = pq.read_table(written(tmp_path, [row(0)]))
    meta = json.loads(whole.schema.metadata[b"layerscope"])

    def refused(changed: pa.Table, **other: object) -> str:
        text = json.dumps(meta | other).encode()
        path = tmp_path / "changed.parquet"
        pq.write_table(changed.replace_schema_metadata({b"layerscope": text}), path)
        with pytest.raises(RecordsDamaged) as caught:
            read_columns(path)
        return str(caught.value)

    assert "format 99, this version reads up to 1; update Layerscope" in refused(whole, format=99)
    assert "without the columns ['hist']" in refused(whole.drop_columns(["hist"]))
    assert "other bins" in refused(whole, hist_edges=[0.0, 1.0])
    narrow = pa.FixedSizeListArray.from_arrays(pa.array(range(40)), 40)
    assert "other bins" in refused(whole.drop_columns(["hist"]).append_column("hist", narrow))
    pq.write_table(whole.replace_schema_metadata(None), tmp_path / "bare.parquet")
    with pytest.raises(RecordsDamaged, match="not written by Layerscope"):
        read_columns(tmp_path / "bare.parquet")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "stats.parquet").read_bytes()[:-100])
    with pytest.raises(RecordsDamaged, match=r"torn\.parquet: cannot be read as Parquet"):
        read_columns(tmp_path / "torn.parquet")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RecordsDamaged, match="holds no records"):
        read_columns(tmp_path / "nothing")


@pytest.mark.parametrize("limit", [-2, 0, 1, 7])
def test_limits_that_cannot_be_kept_are_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="even numbers from 2"):
        ColumnsBuilder(limit)


def test_a_table_without_rows(tmp_path: Path) -> None:
    source = written(tmp_path)
    assert read_columns(source) == {}
    empty = read_columns(source, layers=["relu"])["relu"]
    assert len(empty) == len(empty.edges) == len(empty.middle) == 0
    assert empty.hist.shape == (0, 82)
    assert empty.used_bins == (0, 82)


# -- against NumPy --


@st.composite
def runs(draw: st.DrawFn) -> list[LayerStats]:
    """Rows in order of step; layers come late, are left out, and have no values at times."""
    steps = draw(st.lists(st.integers(0, 5), min_size=1, max_size=60)).copy()
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    records, step = [], 0
    for gap in steps:
        step += gap + 1
        for number in range(3):
            if rng.random() < 0.3 or (number == 2 and step < 40):
                continue
            values = {name: None if rng.random() < 0.2 else rng.normal() for name in CURVES}
            limits = {"min": values["mean"], "max": values["mean"]}
            hist = rng.integers(0, 5, 82)
            mode = "eval" if rng.random() < 0.2 else "train"
            more = {"hist": hist, "nonfinite": int(rng.integers(9)), "mode": mode}
            records.append(row(step, f"layer{number}", **values, **limits, **more))
    return records


@given(runs(), st.sampled_from([2, 4, 6, 16]), st.integers(1, 40))
def test_columns_hold_what_the_rows_hold(
    records: list[LayerStats], limit: int, slice_size: int
) -> None:
    for mode in ("train", "eval"):
        builder = ColumnsBuilder(limit, mode)
        for begin in range(0, len(records), slice_size):
            builder.add(table(*records[begin : begin + slice_size]), Path("stats.parquet"))
        found = builder.columns()
        assert set(found) == {r.layer for r in records if r.mode == mode}
        for layer, columns in found.items():
            rows = [r for r in records if (r.layer, r.mode) == (layer, mode)]
            assert_sums(columns, rows, limit)


def assert_sums(columns: LayerColumns, rows: list[LayerStats], limit: int) -> None:
    width = max(1, 2 ** math.ceil(math.log2(len(rows) / limit)))
    groups = [rows[i : i + width] for i in range(0, len(rows), width)]
    assert len(columns) == len(groups) <= limit
    assert columns.first.tolist() == [group[0].step for group in groups]
    assert columns.last.tolist() == [group[-1].step for group in groups]
    assert columns.rows.tolist() == [len(group) for group in groups]
    assert columns.nonfinite.tolist() == [sum(r.nonfinite for r in group) for group in groups]
    np.testing.assert_array_equal(columns.hist, [sum(r.hist for r in group) for group in groups])
    for name in CURVES:
        values = [[getattr(r, name) for r in g if getattr(r, name) is not None] for g in groups]
        expected = [np.mean(known) if known else np.nan for known in values]
        np.testing.assert_allclose(getattr(columns, name), expected, atol=1e-12)
    for name, pick in (("min", min), ("max", max)):
        values = [[getattr(r, name) for r in g if getattr(r, name) is not None] for g in groups]
        expected = [pick(known) if known else np.nan for known in values]
        np.testing.assert_array_equal(getattr(columns, name), expected)
    assert (np.diff(columns.edges) > 0).all()
    assert columns.edges[:-1].tolist() == columns.first.tolist()
    assert columns.edges[-1] > columns.last[-1]


@given(runs(), st.sampled_from([1, 2, 3, 7, 50]))
def test_joined_columns_hold_what_all_hold(records: list[LayerStats], limit: int) -> None:
    builder = ColumnsBuilder(16)
    builder.add(table(*records), Path("stats.parquet"))
    for whole in builder.columns().values():
        one = whole.joined(limit)
        assert len(one) <= limit
        assert len(one) == -(-len(whole) // -(-len(whole) // limit))
        for name in ("rows", "nonfinite", "hist"):
            np.testing.assert_array_equal(getattr(one, name).sum(0), getattr(whole, name).sum(0))
        assert set(one.first) <= set(whole.first)
        assert set(one.last) <= set(whole.last)
        assert one.edges[0] == whole.edges[0]
        if limit == 1:
            known = ~np.isnan(whole.mean)
            total = np.average(whole.mean[known], weights=whole.rows[known]) if known.any() else 0
            assert np.nan_to_num(one.mean[0]) == pytest.approx(total, abs=1e-12)


def test_layers_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    first = [row(0, "z"), row(0, "a"), row(1, "z"), row(1, "a")]
    source = written(tmp_path, first, [row(2, "late"), row(2, "z"), row(2, "a")])
    assert list(read_columns(source)) == ["z", "a", "late"]
    chosen = read_columns(source, layers=["late", "never", "a"])
    assert [(name, len(one)) for name, one in chosen.items()] == [
        ("late", 1),
        ("never", 0),
        ("a", 3),
    ]


@pytest.mark.parametrize(("row_group", "groups"), [(1 << 13, 1), (14, 5)])
def test_parts_and_whole_file_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_group: int, groups: int
) -> None:
    monkeypatch.setattr(record_file, "ROW_GROUP", row_group)
    file = RecordFile("stats.parquet", SCHEMA, tmp_path)
    rng = np.random.default_rng(0)
    for step in range(0, 70, 7):
        hists = rng.integers(0, 9, (7, 82))
        file.append(table(*[row(step + i, hist=hist) for i, hist in enumerate(hists)]))
    parts = read_columns(file.source(), 32)["relu"]
    whole = read_columns(file.close(), 32)["relu"]
    assert pq.read_metadata(file.path).num_row_groups == groups
    assert len(parts) == 18
    np.testing.assert_array_equal(parts.hist, whole.hist)
    assert parts.edges.tolist() == whole.edges.tolist() == [*range(0, 70, 4), 70]


def test_columns_given_out_do_not_change_afterwards() -> None:
    builder = ColumnsBuilder(4)
    builder.add(table(row(0), row(1)), Path("stats.parquet"))
    before = builder.columns()["relu"]
    counts = before.hist.copy()
    builder.add(table(*[row(step) for step in range(2, 40)]), Path("stats.parquet"))
    np.testing.assert_array_equal(before.hist, counts)
    assert builder.columns()["relu"].rows.sum() == 40


def test_very_deep_networks_get_fewer_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracking.tables.columns.TOTAL", 200)
    names = [f"layer{number}" for number in range(10)]
    builder = ColumnsBuilder(64)
    for step in range(0, 64, 8):
        rows = [row(s, name) for s in range(step, step + 8) for name in names]
        builder.add(table(*rows), Path("stats.parquet"))
    assert {len(one) for one in builder.columns().values()} == {16}
    builder.add(table(*[row(64, f"late{n}") for n in range(40)]), Path("stats.parquet"))
    found = builder.columns()
    assert {len(found[name]) for name in names} == {FEWEST}
    assert all(one.rows.sum() == (64 if name in names else 1) for name, one in found.items())


def in_pieces(records: list[LayerStats], size: int) -> dict[str, LayerColumns]:
    builder = ColumnsBuilder(8)
    for begin in range(0, len(records), size):
        builder.add(table(*records[begin : begin + size]), Path("stats.parquet"))
    return builder.columns()


@pytest.mark.parametrize("size", [1, 3, 5, 7, 64, 1000])
def test_layers_that_take_turns_are_summed_like_others(size: int) -> None:
    rng = np.random.default_rng(size)
    names = ["c", "a", "b", "d", "e"]
    turns = [row(s, n, hist=rng.integers(0, 9, 82)) for s in range(45) for n in names]
    by_layer = [one for name in names for one in turns if one.layer == name]
    assert_same(in_pieces(turns, size), in_pieces(by_layer, 10**6))


@pytest.mark.parametrize("size", [2, 9, 1000])
def test_layers_that_miss_steps_keep_their_own_columns(size: int) -> None:
    rng = np.random.default_rng(size)
    names = ["often", "seldom", "late"]
    some = [
        row(s, n, hist=rng.integers(0, 9, 82))
        for s in range(60)
        for n in names
        if n == "often" or (n == "seldom" and s % 3 == 0) or (n == "late" and s >= 31)
    ]
    by_layer = [one for name in names for one in some if one.layer == name]
    assert_same(in_pieces(some, size), in_pieces(by_layer, 10**6))


def assert_same(found: dict[str, LayerColumns], expected: dict[str, LayerColumns]) -> None:
    assert list(found) == list(expected)
    for layer, one in expected.items():
        for name in ("first", "last", "rows", "hist", "min", "max", "nonfinite"):
            np.testing.assert_array_equal(getattr(found[layer], name), getattr(one, name))
        for name in CURVES:
            np.testing.assert_allclose(getattr(found[layer], name), getattr(one, name))
