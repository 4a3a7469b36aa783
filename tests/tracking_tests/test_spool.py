"""The spool: nothing is lost, nothing torn is read, and one process at a time has it."""

from __future__ import annotations

import fcntl
import json
import math
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.errors import BadTracking, RecordsUnwritten
from tracking.spool import Spool, SpoolInUse, SpoolReader

__all__: list[str] = []

TARGET = {"tracking_uri": "sqlite:////x/mlflow.db", "run_id": "abc"}


def filled(directory: Path, *entries: dict[str, Any]) -> Spool:
    spool = Spool(directory, TARGET)
    for entry in entries:
        spool.append(entry)
    return spool


def contents(directory: Path) -> list[dict[str, Any]]:
    spool = Spool(directory)
    entries, _ = spool.read()
    spool.close()
    return entries


# -- what can go wrong --


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadTracking, match="file/spool: no usable spool") as error:
        Spool(tmp_path / "file" / "spool", TARGET)
    assert "\n" not in str(error.value)


def test_no_spool_there(tmp_path: Path) -> None:
    with pytest.raises(BadTracking, match="no usable spool"):
        Spool(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_target_that_cannot_be_read(tmp_path: Path) -> None:
    filled(tmp_path).close()
    (tmp_path / "target.json").write_text("{")
    with pytest.raises(BadTracking, match="no usable spool"):
        Spool(tmp_path)
    # And the failed attempt does not keep the lock.
    Spool(tmp_path, TARGET).close()


@pytest.mark.parametrize("torn", [b'{"n":', b'{"n":2}', b"\0\0\0"])
def test_torn_last_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    filled(tmp_path, {"n": 0}, {"n": 1}).close()
    with (tmp_path / "entries.jsonl").open("ab") as file:
        file.write(torn)
    spool = Spool(tmp_path)
    spool.append({"n": 3})
    assert spool.read()[0] == [{"n": 0}, {"n": 1}, {"n": 3}]
    spool.close()


def test_nothing_but_a_torn_line(tmp_path: Path) -> None:
    filled(tmp_path).close()
    (tmp_path / "entries.jsonl").write_bytes(b'{"n"')
    spool = Spool(tmp_path)
    assert not spool.waiting
    assert spool.read() == ([], 0)
    spool.close()


def test_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    spool = filled(tmp_path, {"n": 0})
    with (tmp_path / "entries.jsonl").open("ab") as file:
        file.write(b'{"n":')
        file.flush()
        entries, end = spool.read()
    assert (entries, end) == ([{"n": 0}], len(b'{"n":0}\n'))
    spool.close()


def test_spoilt_line_does_not_stop_the_rest(tmp_path: Path) -> None:
    filled(tmp_path, {"n": 0}).close()
    with (tmp_path / "entries.jsonl").open("ab") as file:
        file.write(b'\xff"n\n[1]\n{"n":1}\n')
    damaged = [{"damaged": '\ufffd"n\n'}, {"damaged": "[1]\n"}]
    assert contents(tmp_path) == [{"n": 0}, *damaged, {"n": 1}]


@pytest.mark.parametrize("text", ["", "x"])
def test_spoilt_acknowledgement_sends_again(tmp_path: Path, text: str) -> None:
    spool = filled(tmp_path, {"n": 0})
    (tmp_path / "acknowledged").write_text(text)
    assert spool.waiting
    assert spool.read()[0] == [{"n": 0}]
    spool.close()


@given(
    entries=st.lists(st.dictionaries(st.text(), st.integers() | st.text(), max_size=3), max_size=5),
    data=st.data(),
)
def test_a_cut_anywhere_leaves_a_beginning(
    entries: list[dict[str, Any]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        filled(Path(folder), *entries).close()
        file = Path(folder) / "entries.jsonl"
        whole = file.read_bytes()
        kept = data.draw(st.integers(0, len(whole)))
        file.write_bytes(whole[:kept])
        assert contents(Path(folder)) == entries[: whole[:kept].count(b"\n")]


# -- one process at a time --


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    spool = filled(tmp_path)
    with pytest.raises(SpoolInUse, match="in use by another process"):
        Spool(tmp_path)
    with pytest.raises(SpoolInUse):
        Spool(tmp_path, TARGET)
    spool.close()
    Spool(tmp_path).close()


def test_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; from tracking.spool import Spool;"
        "spool = Spool(pathlib.Path(sys.argv[1]), {}); spool.append({'n': 0});"
        "print('ready', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(SpoolInUse):
            Spool(tmp_path)
        process.send_signal(signal.SIGKILL)
    assert contents(tmp_path) == [{"n": 0}]


def test_spool_that_is_removed_while_it_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "spool").close()

    def after_the_other_has_finished(file: Any, how: int) -> None:
        shutil.rmtree(tmp_path / "spool")
        flock(file, how)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", after_the_other_has_finished)
    with pytest.raises(SpoolInUse, match="has just sent and removed it"):
        Spool(tmp_path / "spool")


def test_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(file: Any, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(BadTracking, match=r"Function not implemented\); set LAYERSCOPE_RECORDS"):
        Spool(tmp_path, TARGET)


def test_password_in_the_target_is_the_owners_alone(tmp_path: Path) -> None:
    filled(tmp_path).close()
    mode = (tmp_path / "target.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


# -- in order --


def test_what_was_acknowledged_is_not_read_again(tmp_path: Path) -> None:
    spool = filled(tmp_path, {"n": 0}, {"n": 1})
    _, end = spool.read()
    spool.append({"n": 2})
    spool.acknowledge(end)
    assert spool.waiting
    spool.close()
    spool = Spool(tmp_path)
    entries, end = spool.read()
    assert entries == [{"n": 2}]
    spool.acknowledge(end)
    assert not spool.waiting
    assert spool.read() == ([], end)
    assert spool.target == TARGET
    spool.close()


def test_a_disk_that_is_full_has_nothing_read_twice(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", TARGET)
    for number in range(3):
        spool.append({"n": number})
    reader = SpoolReader(tmp_path / "spool")
    entries, end = reader.read(1)
    (tmp_path / "spool" / "acknowledged.tmp").mkdir()  # nothing can be written there
    with pytest.raises(RecordsUnwritten, match="acknowledged cannot be written: Is a directory"):
        reader.acknowledge(end)
    rest, whole = reader.read()
    assert [entry["n"] for entry in entries + rest] == [0, 1, 2]
    assert spool.waiting
    (tmp_path / "spool" / "acknowledged.tmp").rmdir()
    reader.acknowledge(whole)
    assert not spool.waiting
    spool.close()


def test_a_stretch_is_bounded_but_an_entry_is_whole(tmp_path: Path) -> None:
    big = {"text": "x" * 5000}
    spool = filled(tmp_path, big, {"n": 0}, {"n": 1})
    entries, end = spool.read(at_most=100)
    assert entries == [big]
    spool.acknowledge(end)
    assert spool.read(at_most=100)[0] == [{"n": 0}, {"n": 1}]
    spool.close()


def test_nan_and_infinities_come_back(tmp_path: Path) -> None:
    spool = filled(tmp_path, {"v": [math.nan, math.inf, -math.inf]})
    ((nan, *infinities),) = (entry["v"] for entry in spool.read()[0])
    assert math.isnan(nan)
    assert infinities == [math.inf, -math.inf]
    spool.close()


def test_last_written_is_when_the_process_was_last_heard_of(tmp_path: Path) -> None:
    filled(tmp_path, {"n": 0}).close()
    with (tmp_path / "entries.jsonl").open("ab") as file:
        file.write(b"torn")
    written = (tmp_path / "entries.jsonl").stat().st_mtime
    spool = Spool(tmp_path)
    assert spool.last_written == written
    spool.close()


@pytest.mark.parametrize("sent", [False, True])
def test_run_that_goes_on_is_not_ended_by_what_waits(tmp_path: Path, sent: bool) -> None:
    spool = filled(tmp_path, {"tags": {"a": "1"}}, {"finish": ["KILLED", 1.0]})
    if sent:
        spool.acknowledge(spool.read()[1])
    spool.close()
    again = filled(tmp_path, {"tags": {"a": "2"}})
    waiting = again.read()[0]
    assert waiting == ([] if sent else [{"tags": {"a": "1"}}]) + [{"tags": {"a": "2"}}]
    assert not again.finished
    again.close()


def test_reader_beside_a_writer_gets_everything_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, TARGET)
    count = 2000
    writer = threading.Thread(target=lambda: [spool.append({"n": n}) for n in range(count)])
    writer.start()
    got: list[int] = []
    while writer.is_alive() or len(got) < count:
        entries, end = spool.read(at_most=1000)
        assert entries or writer.is_alive()
        got.extend(entry["n"] for entry in entries)
        spool.acknowledge(end)
    writer.join()
    assert got == list(range(count))
    assert not spool.waiting
    spool.close()


def test_entries_are_with_the_system_at_once(tmp_path: Path) -> None:
    spool = filled(tmp_path, {"n": 0})
    assert json.loads((tmp_path / "entries.jsonl").read_text()) == {"n": 0}
    spool.close()
