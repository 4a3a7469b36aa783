"""Records on their way: shown at once, written in portions, kept where writing fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from tracking.recorders.record_log import RecordLog
from tracking.records import Metric
from tracking.sink import MemorySink
from tracking.tables.record_file import RecordFile, read_records

__all__: list[str] = []

SCHEMA = pa.schema([("step", pa.int64())])


def table(records: Sequence[int]) -> pa.Table:
    return pa.table({"step": records}, schema=SCHEMA)


def points(records: Sequence[int]) -> list[Metric]:
    return [Metric("step", float(step), step, 0.0) for step in records]


def test_a_watcher_sees_records_before_they_are_written(tmp_path: Path) -> None:
    seen: list[Sequence[int]] = []
    file, sink = RecordFile("t.parquet", SCHEMA, tmp_path), MemorySink()
    log = RecordLog(file, sink, table, points, seen.append)
    log.add([1, 2])
    log.add([])
    log.add([3])
    assert seen == [[1, 2], [3]]
    assert not sink.logged_metrics
    assert log.write() == [1, 2, 3]
    assert log.write() == []
    assert [metric.step for metric in sink.logged_metrics] == [1, 2, 3]
    assert read_records(file.close())["step"].to_pylist() == [1, 2, 3]


def test_what_could_not_be_written_is_written_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, sink = RecordFile("t.parquet", SCHEMA, tmp_path), MemorySink()
    log = RecordLog(file, sink, table, points)
    log.add([1])

    def full(_table: pa.Table) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(file, "append", full)
        with pytest.raises(OSError, match="No space left"):
            log.write()
    log.add([2])
    log.write()
    assert [metric.step for metric in sink.logged_metrics] == [1, 2]
    assert read_records(file.close())["step"].to_pylist() == [1, 2]
