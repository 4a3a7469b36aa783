"""A durable queue on disk: what a run wants to send waits here until it has arrived.

One line of JSON per entry in ``entries.jsonl``; ``acknowledged`` holds the offset up to which
everything has been delivered. Writing never waits for a network, memory does not grow while a
server is away, and what a killed process left behind can be sent later by another one.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from tracking.errors import BadTracking

__all__ = ["Spool"]


class Spool:
    """Appended to by the training thread, read and acknowledged by one other.

    ``target`` (tracking URI, run id) is stored beside the entries, for whoever sends them later;
    without it an existing spool is opened. Raises BadTracking: no spool there, or not writable.
    """

    def __init__(self, directory: Path, target: dict[str, str] | None = None) -> None:
        self.directory = directory
        self._entries = directory / "entries.jsonl"
        self._acknowledged = directory / "acknowledged"
        self._lock = threading.Lock()
        try:
            if target is not None:
                directory.mkdir(parents=True, exist_ok=True)
                (directory / "target.json").write_text(json.dumps(target), encoding="utf-8")
            text = (directory / "target.json").read_text(encoding="utf-8")
            self._file = self._entries.open("ab")
        except OSError as error:
            raise BadTracking(f"{directory}: no usable spool ({error.strerror})") from None
        self.target: dict[str, str] = json.loads(text)
        self._cut_torn_line()

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry; it is with the operating system when the call returns."""
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def read(self, at_most: int = 1 << 20) -> tuple[list[dict[str, Any]], int]:
        """Entries not yet acknowledged, about ``at_most`` bytes of them, and the offset after."""
        with self._entries.open("rb") as file:
            file.seek(self._offset())
            lines = file.readlines(at_most)
            whole = [line for line in lines if line.endswith(b"\n")]
            end = self._offset() + sum(map(len, whole))
        return [json.loads(line) for line in whole], end

    def acknowledge(self, offset: int) -> None:
        """Everything before ``offset`` has been delivered."""
        half = self._acknowledged.with_suffix(".tmp")
        half.write_text(str(offset), encoding="utf-8")
        half.replace(self._acknowledged)

    @property
    def waiting(self) -> bool:
        """Whether any entry has not been delivered yet."""
        return self._offset() < self._entries.stat().st_size

    def close(self) -> None:
        """Close the file; the entries stay on disk."""
        self._file.close()

    def _offset(self) -> int:
        try:
            return int(self._acknowledged.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 0

    def _cut_torn_line(self) -> None:
        """Drop what a killed process left of a last line, or the next entry would join it."""
        content = self._entries.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._entries, whole)
