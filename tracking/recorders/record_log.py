"""Records on their way: to a watcher at once, to disk and to a sink in larger portions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import pyarrow as pa

from tracking.records import Metric
from tracking.sink import Sink
from tracking.tables.record_file import RecordFile

__all__ = ["RecordLog", "Watch"]

Record = TypeVar("Record")
Watch = Callable[[Sequence[Record]], None]


class RecordLog(Generic[Record]):
    """Keeps records until they are written; writing makes them a part of ``file``.

    ``table`` and ``metrics`` say what records are as rows and as points of charts.
    """

    def __init__(
        self,
        file: RecordFile,
        sink: Sink,
        table: Callable[[Sequence[Record]], pa.Table],
        metrics: Callable[[Sequence[Record]], Iterable[Metric]],
        watch: Watch[Record] | None = None,
    ) -> None:
        self.file = file
        self._sink = sink
        self._table = table
        self._metrics = metrics
        self._watch = watch
        self._unwritten: list[Record] = []
        self._written = time.monotonic()

    @property
    def seconds_since_write(self) -> float:
        """Since the last write, or since there is a log."""
        return time.monotonic() - self._written

    def add(self, records: Sequence[Record]) -> None:
        """Take finished records, in order, and show them to the watcher."""
        if records and self._watch is not None:
            self._watch(records)
        self._unwritten.extend(records)

    def write(self) -> list[Record]:
        """Write what has been added since the last time; what a failed write left comes again."""
        records = self._unwritten
        if records:
            self.file.append(self._table(records))
            self._unwritten = []  # only now: a full disk may have room again later
            self._sink.metrics(list(self._metrics(records)))
        self._written = time.monotonic()
        return records
