"""What recorders of sums have in common: rows of steps, their ends, thinned metrics."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import torch
from torch import nn

from tracking.hooks.failed_hooks import FailedHooks
from tracking.hooks.layers import inner_model
from tracking.hooks.module_hooks import ValuesHook
from tracking.hooks.optimizer_steps import on_each_step
from tracking.pace import Pace
from tracking.recorders.record_log import Watch
from tracking.recorders.step_recorder import RecordTable, StepRecorder
from tracking.records import GradientRecord, Metric, UpdateRecord
from tracking.sink import Sink
from tracking.statistics.sum_rows import SumRow, SumRows
from tracking.tables.flow_tables import flow_table
from tracking.tables.schemas import read_table

__all__ = ["SumStats"]

Record = TypeVar("Record", bound=GradientRecord | UpdateRecord)


class SumStats(StepRecorder[Record]):
    """Base of recorders whose hooks add sums to rows, one row for each name and recorded step.

    A subclass hooks itself in (``_attach``), puts sums into ``_rows`` and says what they mean.
    Sums stay on their devices until they are taken, so the host waits once for many steps. Of
    several processes that train one model, rank 0 records its own share.
    """

    def __init__(
        self,
        model: nn.Module,
        group: str,
        schema: pa.Schema,
        *,
        every: str | int | Pace,
        directory: Path | str | None,
        sink: Sink | None,
        expected_steps: int | None,
        flush_every: int,
        watch: Watch[Record] | None,
    ) -> None:
        table: RecordTable[Record] = RecordTable(
            "stats.parquet",
            schema,
            partial(flow_table, schema=schema),
            partial(read_table, expected=schema),
        )
        super().__init__(
            table,
            directory=directory,
            sink=sink,
            expected_steps=expected_steps,
            flush_every=flush_every,
            watch=watch,
            together=False,
        )
        self.model = inner_model(model)
        self._pace = every if isinstance(every, Pace) else Pace(every)
        self._ends_steps = self._pace is not every
        self._forward = ValuesHook(self._before_forward)
        self._rows = SumRows()
        self._failed = FailedHooks(group, self._sink)

    @abstractmethod
    def _order(self) -> Mapping[str, int]:
        """The place of each name among the rows of a step."""

    @abstractmethod
    def _record(self, row: SumRow) -> Record:
        """What a row's sums mean."""

    @abstractmethod
    def _metric(self, record: Record) -> tuple[str, float | None]:
        """Key and value of the record's point in a chart."""

    def _armed(self) -> bool:
        """Whether the step under way is to be recorded."""
        return not self._closed and self._pace.due(self.current_step)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count the time as spent on recording."""
        began = time.perf_counter()
        yield
        self._pace.recording += time.perf_counter() - began

    @contextmanager
    def _losing(self, name: str) -> Iterator[None]:
        """What is named is recorded no more where this fails: a training is worth more than it."""
        try:
            yield
        except Exception as error:
            self._failed.add(name, error)
            self._rows.abandon(name)
            self._lose(name)

    @abstractmethod
    def _lose(self, name: str) -> None:
        """Call ``_rows.add`` for this name no more."""

    def _end_last_step(self) -> None:
        self._rows.end_step(self.current_step, time.time())

    def _before_forward(self, inputs: Any) -> None:
        self._pace.before_forward(self.model.training)

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
                self._count_step()
        if self._ends_steps:
            self._pace.end_step(self.current_step)
        self.current_step += 1

    def _take(self) -> None:
        order = self._order()
        rows = sorted(self._rows.take(), key=lambda row: (row.step, order[row.name]))
        self._log.add([self._record(row) for row in rows])

    def _metrics(self, records: Sequence[Record]) -> Iterator[Metric]:
        charted = self._charted(record.step for record in records)
        for record in records:
            key, value = self._metric(record)
            if record.step in charted and value is not None:
                yield Metric(key, value, record.step, record.time)
