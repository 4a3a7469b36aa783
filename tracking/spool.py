"""A durable queue on disk: what a run wants to send waits here until it has arrived.

One line of JSON per entry in ``entries.jsonl``; ``acknowledged`` holds the offset up to which
everything has been delivered. Writing never waits for a network, memory does not grow while a
server is away, and what a killed process left behind can be sent later by another one.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import threading
from pathlib import Path
from typing import Any

from tracking.errors import BadTracking, RecordsUnwritten
from tracking.shown_commands import replay_command

__all__ = ["Spool", "SpoolInUse", "SpoolReader"]


LONGEST_END = 4096
"""Bytes that hold the entry that ends a run, which is a status and a time at most, and more."""


class SpoolInUse(BadTracking):
    """Another process writes to the spool or sends it, or has just finished with it."""


class SpoolReader:
    """Reads and acknowledges entries, also while another process goes on writing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._entries = directory / "entries.jsonl"
        self._acknowledged = directory / "acknowledged"
        self._delivered = 0

    @property
    def target(self) -> dict[str, str]:
        """Where the entries are to go. Raises BadTracking: that cannot be read."""
        try:
            text = (self.directory / "target.json").read_text(encoding="utf-8")
            return dict(json.loads(text))
        except (OSError, ValueError) as error:
            raise BadTracking(f"{self.directory}: no usable spool ({error})") from None

    def read(self, at_most: int = 1 << 20) -> tuple[list[dict[str, Any]], int]:
        """Entries not yet acknowledged, about ``at_most`` bytes of them, and the offset after.

        A line that a failing disk has spoilt comes as ``{"damaged": text}``.
        """
        begin = max(self._offset(), self._delivered)
        with self._entries.open("rb") as file:
            file.seek(begin)
            whole = [line for line in file.readlines(at_most) if line.endswith(b"\n")]
        return [_parsed(line) for line in whole], begin + sum(map(len, whole))

    def acknowledge(self, offset: int) -> None:
        """Everything before ``offset`` has been delivered.

        Raises RecordsUnwritten: that cannot be written down. This reader goes on behind it all the
        same; another one would begin before it.
        """
        self._delivered = offset
        half = self._acknowledged.with_suffix(".tmp")
        try:
            half.write_text(str(offset), encoding="utf-8")
            half.replace(self._acknowledged)
        except OSError as error:
            raise RecordsUnwritten(
                f"{self._acknowledged} cannot be written: {error.strerror}"
            ) from None

    @property
    def waiting(self) -> bool:
        """Whether any entry has not been delivered yet."""
        return self._offset() < self._entries.stat().st_size

    @property
    def finished(self) -> bool:
        """Whether the last entry ends the run, or what is sent to it: no process was killed."""
        return not {"finish", "closed"}.isdisjoint(_parsed(self._last_line()))

    def _last_line(self) -> bytes:
        """The last entry if it is a short one; of a longer one its end, which is damaged."""
        with self._entries.open("rb") as file:
            file.seek(max(0, self._entries.stat().st_size - LONGEST_END))
            return (file.readlines() or [b""])[-1]

    def _offset(self) -> int:
        try:
            return int(self._acknowledged.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            # Empty after a power cut: sending again does no harm, leaving out would.
            return 0


class Spool(SpoolReader):
    """Appended to by the training process; one reader, there or in another, delivers.

    One process at a time has a spool; its lock goes with the process, however that ends.
    ``target`` (tracking URI, run id) is stored beside the entries, for whoever sends them later;
    what an earlier process left there is sent first, but does not end the run any more, unless
    ``target`` leaves it to another ``owner``. Without ``target`` an existing spool is opened;
    ``last_written`` then says when its process was last heard of, in Unix seconds. Raises
    SpoolInUse; BadTracking: no spool there, the folder cannot be written, or the run is left to an
    owner that was killed.
    """

    def __init__(self, directory: Path, target: dict[str, str] | None = None) -> None:
        super().__init__(directory)
        self._lock = threading.Lock()
        try:
            if target is not None:
                directory.mkdir(parents=True, exist_ok=True)
            self._file = self._entries.open("ab")
        except OSError as error:
            raise BadTracking(f"{directory}: no usable spool ({error.strerror})") from None
        try:
            self._claim()
            if target is not None:
                self._check_owner(target)
                self._write_target(target)
            _ = self.target
            self.last_written = self._entries.stat().st_mtime
            self._cut_torn_line()
            if target is not None and "owner" not in target:
                self._cut_end()
        except (OSError, ValueError) as error:
            self._file.close()
            raise BadTracking(f"{directory}: no usable spool ({error})") from None
        except BaseException:
            self._file.close()
            raise

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry; it is with the operating system when the call returns.

        Raises RecordsUnwritten: the disk does not take it.
        """
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                self._file.write(line)
                self._file.flush()
        except OSError as error:
            raise RecordsUnwritten(
                f"{self._entries}: cannot be written ({error.strerror}); LAYERSCOPE_RECORDS names "
                "another folder for records"
            ) from error

    def close(self) -> None:
        """Let another process have the spool; the entries stay on disk."""
        self._file.close()

    def _claim(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpoolInUse(f"{self.directory}: in use by another process") from None
        except OSError as error:
            raise BadTracking(
                f"{self.directory}: files cannot be locked there ({error.strerror}); "
                "set LAYERSCOPE_RECORDS to a folder on a local disk"
            ) from None
        # Whoever had the lock may have sent everything and removed the folder since `open`.
        if not self._entries.exists():
            raise SpoolInUse(f"{self.directory}: another process has just sent and removed it")

    def _check_owner(self, target: dict[str, str]) -> None:
        """Who leaves the run to its owner would not end it, as is due where that was killed."""
        written = (self.directory / "target.json").exists()
        if "owner" in target and written and "owner" not in self.target and not self.finished:
            folder = self.directory.parent
            raise BadTracking(
                f"the process of this run was killed, and its records wait in {folder}; "
                f"send them first: {replay_command(folder)}"
            )

    def _write_target(self, target: dict[str, str]) -> None:
        """Readable by the owner alone, since the URI of a store may hold a password."""
        half = self.directory / "target.tmp"
        half.touch(mode=0o600)
        half.write_text(json.dumps(target), encoding="utf-8")
        half.replace(self.directory / "target.json")

    def _cut_torn_line(self) -> None:
        """Drop what a killed process left of a last line, or the next entry would join it."""
        size = self._entries.stat().st_size
        if not size:
            return
        with (
            self._entries.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            whole = content.rfind(b"\n") + 1
        if whole < size:
            os.truncate(self._entries, whole)

    def _cut_end(self) -> None:
        """Drop the end of the run, if it still waits: the run goes on."""
        line = self._last_line()
        before = self._entries.stat().st_size - len(line)
        if "finish" in _parsed(line) and self._offset() <= before:
            os.truncate(self._entries, before)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) else {"damaged": line.decode(errors="replace")}
