"""The life of a recorder: a context with hooks in it, and the table that it leaves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import pyarrow as pa
from torch.utils.hooks import RemovableHandle

from tracking.errors import BadOption
from tracking.hooks.module_hooks import HookHandle
from tracking.interval import Thinning
from tracking.pace import LOOK_EVERY
from tracking.ranks import Ranks
from tracking.recorders.record_log import RecordLog, Watch
from tracking.records import Metric
from tracking.sink import NullSink, Sink
from tracking.tables.record_file import RecordFile

__all__ = ["FLUSH_EVERY", "RecordTable", "StepRecorder"]

Record = TypeVar("Record")

FLUSH_EVERY = 256
"""Recorded steps that are written together: a part of its own takes milliseconds for each write,
whatever is in it."""
WRITE_WITHIN = 5.0
"""Seconds after which steps are written although they are fewer: what a process that is killed
takes with it, and how late the charts of a running training are."""
TAKE_EVERY = 64
"""Recorded steps for which there is room on the device."""


@dataclass(frozen=True)
class RecordTable(Generic[Record]):
    """What records become on disk."""

    name: str
    """Of the file."""
    schema: pa.Schema
    rows: Callable[[Sequence[Record]], pa.Table]
    read: Callable[[Path, pa.Schema], pa.Table]
    """Reads the file, or the folder of its parts; while there are none, an empty table."""


class StepRecorder(ABC, Generic[Record]):
    """Base of the recorders, each of which leaves one table of what it records step by step.

    A context manager, used once: entering it hooks it in, and however the context ends, the hooks
    go and the table is written. What is recorded comes to the host every 64 recorded steps, or 16
    where ``watch`` is given the finished records (on rank 0). It is written when ``flush_every``
    steps have come or five seconds have gone, so memory does not grow with the number of steps.
    Rows go to Parquet parts below ``directory`` (a temporary one by default), thinned metrics to
    ``sink``. Where ranks record ``together``, each must have such a recorder; otherwise rank 0
    records its own share.

    Raises BadOption: ``flush_every`` is below 1; BadTracking: the directory cannot be written.
    """

    def __init__(
        self,
        table: RecordTable[Record],
        *,
        directory: Path | str | None,
        sink: Sink | None,
        expected_steps: int | None,
        flush_every: int,
        watch: Watch[Record] | None,
        together: bool,
    ) -> None:
        if flush_every < 1:
            raise BadOption(f"flush_every={flush_every}: allowed: a whole number from 1")
        self.current_step = 0
        self._ranks = Ranks(together=together)
        first = self._ranks.first
        self._sink: Sink = sink if sink and first else NullSink()
        self._table = table
        self._log: RecordLog[Record] = RecordLog(
            RecordFile(table.name, table.schema, directory if first else None),
            self._sink,
            table.rows,
            self._metrics,
            watch if first else None,
        )
        self._thinning = Thinning(expected_steps)
        self._flush_every = flush_every
        # The same on all ranks, which exchange when they take.
        self._take_every = min(flush_every, LOOK_EVERY if watch else TAKE_EVERY)
        self._untaken = self._unflushed = 0
        self._handles: list[RemovableHandle | HookHandle] = []
        self._entered = self._closed = False

    @property
    def path(self) -> Path:
        """The table's file, which exists once the context has ended."""
        return self._log.file.path

    def __enter__(self) -> Self:
        if self._entered:
            kind = type(self).__name__
            raise RuntimeError(f"{kind} records once; make a new one for another run")
        self._entered = True
        try:
            self._attach()
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._ranks.part()
        self.close()

    def flush(self) -> list[Record]:
        """Bring finished records to the host, write them as a part, and send thinned metrics.

        With several ranks all of them must call it; what they have comes together on rank 0.
        """
        if not self._closed:  # the other ranks may have gone since
            self._take()
            self._untaken = self._unflushed = 0
        return self._log.write()

    def state_dict(self) -> dict[str, Any]:
        """What it remembers of the steps so far, beside its table: numbers and tensors."""
        return {"thinning": self._thinning.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self._thinning.load_state_dict(state["thinning"])

    def take_over(self, table: Path, before: int) -> None:
        """Begin with the rows of an earlier recorder's table that lie before a step.

        Raises RecordsDamaged: it cannot be read; RecordsUnwritten: the disk does not take it.
        """
        self._log.file.take_over(table, before)

    def close(self) -> None:
        """Remove every hook, write what is left and join the parts. May be called twice."""
        self._detach()
        try:
            if not self._closed:
                self._end_last_step()
                self.flush()
        finally:
            self._closed = True
        self._log.file.close()

    def read(self) -> pa.Table:
        """Every row recorded so far, in order."""
        self.flush()
        return self._table.read(self._log.file.source(), self._table.schema)

    @abstractmethod
    def _attach(self) -> None:
        """Check what can be wrong, then register hooks; their handles go to ``_handles``."""

    @abstractmethod
    def _take(self) -> None:
        """Give ``_log`` the records of all steps that have ended."""

    @abstractmethod
    def _metrics(self, records: Sequence[Record]) -> Iterable[Metric]:
        """Points of charts."""

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _end_last_step(self) -> None:
        """The context ends: so does the step under way, if it has anything."""

    def _count_step(self) -> None:
        """One more step has been recorded: take what there is, and write it, when it is enough."""
        self._untaken += 1
        self._unflushed += 1
        if self._unflushed >= self._flush_every:
            self.flush()
        elif self._untaken >= self._take_every:
            self._take()
            self._untaken = 0
            # When to take is counted in steps alone: ranks, whose clocks differ, do it together.
            if self._log.seconds_since_write > WRITE_WITHIN:
                self._log.write()

    def _charted(self, steps: Iterable[int]) -> set[int]:
        """Those of the steps, in order, that appear in charts."""
        return {step for step in dict.fromkeys(steps) if self._thinning.keep(step)}
