from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracking.errors import BadTracking, RecordsDamaged, RecordsUnwritten
from tracking.tables import record_file
from tracking.tables.record_file import RecordFile, read_batches, read_records

__all__: list[str] = []

SCHEMA = pa.schema(
    [("step", pa.int64()), ("layer", pa.dictionary(pa.int32(), pa.string()))],
    metadata={b"made by": b"a test"},
)


def table(*steps: int, layer: str = "relu", **more: Any) -> pa.Table:
    columns = {"step": list(steps), "layer": [layer] * len(steps)}
    typed = (
        pa.table(columns).cast(SCHEMA.remove_metadata()).replace_schema_metadata(SCHEMA.metadata)
    )
    for name, values in more.items():
        typed = typed.append_column(name, pa.array(values, type=pa.float64()))
    return typed


def parts_of(file: RecordFile) -> list[Path]:
    return sorted(file.source().iterdir())


def test_rows_are_readable_before_and_after_closing(tmp_path: Path) -> None:
    file = RecordFile("stats.parquet", SCHEMA, tmp_path / "new" / "folder")
    tables = [table(0, 1), table(2, layer="head"), table(3, 4, 5)]
    for part in tables:
        file.append(part)
    assert read_records(file.source())["step"].to_pylist() == list(range(6))
    assert [path.name for path in parts_of(file)] == [f"{i:08}.parquet" for i in range(3)]
    assert file.close() == file.path == file.source() == tmp_path / "new/folder/stats.parquet"
    whole = read_records(file.path)
    assert whole.to_pylist() == pa.concat_tables(tables).to_pylist()
    assert whole.schema.equals(SCHEMA, check_metadata=True)
    assert list((tmp_path / "new/folder").iterdir()) == [file.path]


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    file = RecordFile("a.parquet", SCHEMA, tmp_path)
    file.append(table(1))
    file.close()
    before = file.path.read_bytes()
    file.close()
    assert file.path.read_bytes() == before


def test_without_parts_the_file_is_empty_and_typed(tmp_path: Path) -> None:
    file = RecordFile("a.parquet", SCHEMA, tmp_path)
    file.close()
    empty = read_records(file.path)
    assert len(empty) == 0
    assert empty.schema.equals(SCHEMA, check_metadata=True)


def test_order_of_parts_is_that_of_writing(tmp_path: Path) -> None:
    file = RecordFile("a.parquet", SCHEMA, tmp_path)
    for step in range(120):  # where names sort as text, 10 must not come before 9
        file.append(table(step))
    assert read_records(file.source())["step"].to_pylist() == list(range(120))
    file.close()
    assert read_records(file.path)["step"].to_pylist() == list(range(120))


def test_compaction_holds_one_row_group_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_file, "ROW_GROUP", 10)
    joined: list[int] = []
    join = record_file._join
    monkeypatch.setattr(
        record_file,
        "_join",
        lambda tables, schema: joined.append(len(tables)) or join(tables, schema),
    )
    file = RecordFile("a.parquet", SCHEMA, tmp_path)
    for step in range(25):
        file.append(table(2 * step, 2 * step + 1))
    file.close()
    assert joined == [5] * 5
    assert pq.read_metadata(file.path).num_row_groups == 5
    assert [len(group) for group in read_batches(file.path)] == [10] * 5
    assert read_records(file.path)["step"].to_pylist() == list(range(50))


def test_columns_that_come_and_go_are_unified(tmp_path: Path) -> None:
    file = RecordFile("a.parquet", SCHEMA, tmp_path)
    for part in (table(0), table(1, beta2=[0.9]), table(2, eps=[1e-8]), table(3, beta2=[0.8])):
        file.append(part)
    expected = {
        "step": [0, 1, 2, 3],
        "layer": ["relu"] * 4,
        "beta2": [None, 0.9, None, 0.8],
        "eps": [None, None, 1e-8, None],
    }
    assert read_records(file.source()).to_pydict() == expected
    file.close()
    assert read_records(file.path).to_pydict() == expected
    assert pq.read_schema(file.path).metadata[b"made by"] == b"a test"


def test_a_part_appears_only_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RecordFile("a.parquet", SCHEMA, tmp_path)
    file.append(table(0))
    write = pq.write_table

    def killed(written: pa.Table, where: Path, **options: Any) -> None:
        write(written, where, **options)
        content = Path(where).read_bytes()
        Path(where).write_bytes(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        file.append(table(1))
    monkeypatch.undo()
    assert [path.name for path in parts_of(file)] == ["00000000.parquet", "00000001.tmp"]
    assert read_records(file.source())["step"].to_pylist() == [0]
    file.append(table(2))
    file.close()
    assert read_records(file.path)["step"].to_pylist() == [0, 2]
    assert list(tmp_path.iterdir()) == [file.path]


def test_the_whole_file_appears_only_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RecordFile("a.parquet", SCHEMA, tmp_path)
    file.append(table(0))

    def killed(tables: Any, schema: Any) -> pa.Table:
        assert not file.path.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(record_file, "_join", killed)
    with pytest.raises(KeyboardInterrupt):
        file.close()
    monkeypatch.undo()
    assert not file.path.exists()
    file.close()
    assert read_records(file.path)["step"].to_pylist() == [0]


def damaged(content: bytes, how: str) -> bytes:
    middle = len(content) // 3
    return {
        "empty": b"",
        "truncated": content[:-9],
        "half": content[: len(content) // 2],
        "no Parquet": b"step,layer\n0,relu\n",
        "a flipped byte in a page": content[:middle]
        + bytes([content[middle] ^ 0xFF])
        + content[middle + 1 :],
        "zeroes": bytes(len(content)),
    }[how]


HOWS = ["empty", "truncated", "half", "no Parquet", "a flipped byte in a page", "zeroes"]


@pytest.mark.parametrize("how", HOWS)
def test_a_damaged_part_is_named(how: str, tmp_path: Path) -> None:
    file = RecordFile("a.parquet", SCHEMA, tmp_path)
    for part in range(3):
        file.append(table(*range(2000 * part, 2000 * part + 2000)))
    broken = parts_of(file)[1]
    broken.write_bytes(damaged(broken.read_bytes(), how))
    for attempt in (lambda: read_records(file.source()), file.close):
        with pytest.raises(RecordsDamaged, match=rf"^{re.escape(str(broken))}: cannot be read as"):
            attempt()
    # Nothing is lost: the sound parts are still there.
    assert len(parts_of(file)) == 3
    assert not file.path.exists()


@pytest.mark.parametrize("how", HOWS)
def test_a_damaged_file_is_named_in_one_line(how: str, tmp_path: Path) -> None:
    file = RecordFile("a.parquet", SCHEMA, tmp_path)
    file.append(table(*range(2000)))
    file.close()
    file.path.write_bytes(damaged(file.path.read_bytes(), how))
    with pytest.raises(RecordsDamaged, match=re.escape(str(file.path))) as caught:
        read_records(file.path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_damaged_too(tmp_path: Path) -> None:
    with pytest.raises(RecordsDamaged, match=r"missing\.parquet: cannot be read as Parquet"):
        read_records(tmp_path / "missing.parquet")
    with pytest.raises(RecordsDamaged, match="holds no records"):
        read_records(tmp_path)


def test_what_an_earlier_run_left_is_removed(tmp_path: Path) -> None:
    old = RecordFile("a.parquet", SCHEMA, tmp_path)
    old.append(table(0))
    (old.source() / "00000001.tmp").write_bytes(b"half")
    (tmp_path / "a.parquet").write_bytes(b"old")
    (tmp_path / "other.txt").write_text("kept")
    new = RecordFile("a.parquet", SCHEMA, tmp_path)
    assert parts_of(new) == []
    new.close()
    assert len(read_records(new.path)) == 0
    assert (tmp_path / "other.txt").read_text() == "kept"


def test_two_files_share_a_folder(tmp_path: Path) -> None:
    files = [RecordFile(name, SCHEMA, tmp_path) for name in ("a.parquet", "b.parquet")]
    for step, file in enumerate(files):
        file.append(table(step))
    for step, file in enumerate(files):
        file.close()
        assert read_records(file.path)["step"].to_pylist() == [step]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_a_temporary_folder_lives_as_long_as_its_file() -> None:
    file = RecordFile("a.parquet", SCHEMA)
    folder = file.path.parent
    file.append(table(0))
    file.close()
    assert file.path.is_file()
    del file
    gc.collect()
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            BadTracking, match=r"a\.parquet: cannot be written \(.+: .+\)"
        ) as caught:
            RecordFile("a.parquet", SCHEMA, folder)
        assert "\n" not in str(caught.value)


def test_a_folder_in_the_way_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(BadTracking, match="cannot be written"):
        RecordFile("a.parquet", SCHEMA, tmp_path)


def test_a_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(BadTracking, match="no permission"):
        RecordFile("a.parquet", SCHEMA, tmp_path)


FORKING = """
import gc, os, sys, torch
from torch import nn
from tracking import Recorder

model = nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with Recorder(optimizer) as recorder:
    for _ in range(70):
        optimizer.step()
    child = os.fork()
    if not child:
        for _ in range(70):
            optimizer.step()
        sys.exit(0)  # the end of the context, and what is done at exit
    assert os.waitpid(child, 0)[1] == 0
    for _ in range(70):
        optimizer.step()
print(len(recorder.read()))
"""


def test_a_forked_process_leaves_its_parent_s_file_alone() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "140\n"


def test_a_full_disk_is_one_line_and_loses_nothing_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RecordFile("a.parquet", SCHEMA, tmp_path)
    file.append(table(1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(record_file.pq, "write_table", full)
        with pytest.raises(RecordsUnwritten) as raised:
            file.append(table(2))
    assert str(raised.value).startswith(
        f"{tmp_path}/parts/a/00000001.parquet: cannot be written (No space left on device); "
    )
    file.append(table(3))
    assert read_records(file.close())["step"].to_pylist() == [1, 3]


def test_a_folder_that_has_gone_is_one_line(tmp_path: Path) -> None:
    file = RecordFile("a.parquet", SCHEMA, tmp_path / "records")
    shutil.rmtree(tmp_path / "records")
    with pytest.raises(RecordsUnwritten, match="No such file or directory"):
        file.append(table(1))


def test_parts_that_cannot_be_removed_do_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RecordFile("a.parquet", SCHEMA, tmp_path)
    for step in range(3):
        file.append(table(step))
    with monkeypatch.context() as patch:
        patch.setattr(record_file.shutil, "rmtree", lambda *_, **__: None)
        file.close()
    (tmp_path / "parts" / "a" / "00000001.parquet").unlink()
    file.close()
    assert read_records(file.source())["step"].to_pylist() == [0, 1, 2]
