"""What recorders of sums have in common: a context, steps, flushes, a file, thinned metrics."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import pyarrow as pa
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tracking.errors import BadOption
from tracking.flow_tables import flow_table
from tracking.interval import Thinning
from tracking.layers import inner_model
from tracking.optimizer_steps import on_each_step
from tracking.pace import Pace
from tracking.ranks import is_first_rank
from tracking.record_log import LOOK_EVERY, RecordLog, Watch
from tracking.records import GradientRecord, Metric, UpdateRecord
from tracking.sink import NullSink, Sink
from tracking.store import RecordFile
from tracking.sum_rows import SumRow, SumRows
from tracking.tables import read_table

__all__ = ["SteppedStats", "metric_key"]

Record = TypeVar("Record", GradientRecord, UpdateRecord)

# What MLflow refuses in the name of a metric.
NOT_IN_KEYS = re.compile(r"[^\w\-. :/]")


def metric_key(group: str, name: str, value: str) -> str:
    """``group/name/value`` with characters that MLflow takes."""
    return f"{group}/{NOT_IN_KEYS.sub('_', name)}/{value}"


class SteppedStats(ABC, Generic[Record]):
    """Base of recorders whose hooks add sums to rows, one row for each name and recorded step.

    A subclass hooks itself in (``_attach``), puts sums into ``_rows`` and says what they mean.
    Sums stay on their devices until ``flush_every`` recorded steps are full, so the host waits
    once per flush and memory does not grow with the number of steps.
    """

    def __init__(
        self,
        model: nn.Module,
        schema: pa.Schema,
        *,
        every: str | int | Pace,
        directory: Path | str | None,
        sink: Sink | None,
        expected_steps: int | None,
        flush_every: int,
        watch: Watch[Record] | None,
    ) -> None:
        if flush_every < 1:
            raise BadOption(f"flush_every={flush_every}: allowed: a whole number from 1")
        self.model = inner_model(model)
        self.current_step = 0
        self._pace = every if isinstance(every, Pace) else Pace(every)
        self._ends_steps = self._pace is not every
        self._schema = schema
        # Of several processes that train one model, rank 0 records its own share.
        self._sink = sink if sink and is_first_rank() else NullSink()
        self._log: RecordLog[Record] = RecordLog(
            RecordFile("stats.parquet", schema, directory if is_first_rank() else None),
            self._sink,
            partial(flow_table, schema=schema),
            self._metrics,
            watch if is_first_rank() else None,
        )
        self._thinning = Thinning(expected_steps)
        self._flush_every = flush_every
        self._take_every = min(flush_every, LOOK_EVERY) if watch else flush_every
        self._unflushed = 0
        self._rows = SumRows()
        self._handles: list[RemovableHandle] = []
        self._entered = self._closed = False

    @property
    def path(self) -> Path:
        """``stats.parquet``, which exists once the context has ended."""
        return self._log.file.path

    def __enter__(self) -> Self:
        if self._entered:
            kind = type(self).__name__
            raise RuntimeError(f"{kind} records once; make a new one for another run")
        self._attach()
        self._entered = True
        self._pace.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def flush(self) -> list[Record]:
        """Bring finished rows to the host, write them as a part, and send thinned metrics."""
        self._take()
        self._unflushed = 0
        return self._log.write()

    def close(self) -> None:
        """Remove every hook, write what is left and join the parts. May be called twice."""
        self._closed = True
        self._detach()
        self._rows.end_step(self.current_step, time.time())
        self.flush()
        self._log.file.close()

    def read(self) -> pa.Table:
        """Every row recorded so far, in order of step and name (as in the model)."""
        self.flush()
        return read_table(self._log.file.source(), self._schema, self._schema)

    @abstractmethod
    def _attach(self) -> None:
        """Check what can be wrong, then register hooks; their handles go to ``_handles``."""

    @abstractmethod
    def _order(self) -> Mapping[str, int]:
        """The place of each name among the rows of a step."""

    @abstractmethod
    def _record(self, row: SumRow) -> Record:
        """What a row's sums mean."""

    @abstractmethod
    def _metric(self, record: Record) -> tuple[str, float | None]:
        """Key and value of the record's point in a chart."""

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _armed(self) -> bool:
        """Whether the step under way is to be recorded."""
        return not self._closed and self._pace.due(self.current_step)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count the time as spent on recording."""
        began = time.perf_counter()
        yield
        self._pace.recording += time.perf_counter() - began

    def _before_forward(self, model: nn.Module, inputs: Any) -> None:
        self._pace.before_forward(model.training)

    def _watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Have each step of the optimizer end a step."""
        self._handles += on_each_step(optimizer, self._before_update, self._after_update)

    def _before_update(self) -> None:
        """The optimizer is about to step."""

    def _after_update(self) -> None:
        self._end_step()

    def _end_step(self) -> None:
        if self._rows.open:
            with self._counted():
                self._rows.end_step(self.current_step, time.time())
                self._unflushed += 1
                if self._unflushed >= self._flush_every:
                    self.flush()
                elif len(self._rows) >= self._take_every:
                    self._take()
        if self._ends_steps:
            self._pace.end_step(self.current_step)
        self.current_step += 1

    def _take(self) -> None:
        order = self._order()
        rows = sorted(self._rows.take(), key=lambda row: (row.step, order[row.name]))
        self._log.add([self._record(row) for row in rows])

    def _metrics(self, records: Sequence[Record]) -> Iterator[Metric]:
        steps = dict.fromkeys(record.step for record in records)
        charted = {step for step in steps if self._thinning.keep(step)}
        for record in records:
            key, value = self._metric(record)
            if record.step in charted and value is not None:
                yield Metric(key, value, record.step, record.time)
