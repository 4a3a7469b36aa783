"""Recorder: what the optimizer really used, in every step and for every parameter group.

In a hand-written loop::

    with Recorder(optimizer) as recorder:
        for x, y in batches:
            loss = loss_function(model(x), y)
            loss.backward()
            recorder.note(loss=loss, batch_size=len(x))
            optimizer.step()  # reads the groups just before they are used
            optimizer.zero_grad()
    table = recorder.read()
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracking.hooks.optimizer_steps import inner_optimizer, on_each_step
from tracking.pace import Pace
from tracking.recorders.record_log import Watch
from tracking.recorders.step_notes import (
    SmoothedLoss,
    StepNotes,
    copied,
    kept_loss,
    losses_on_host,
    of_all_ranks,
    records_of,
    understood,
)
from tracking.recorders.step_recorder import FLUSH_EVERY, RecordTable, StepRecorder
from tracking.records import HyperParams, Metric
from tracking.sink import Sink
from tracking.tables.schemas import read_steps, steps_schema, steps_table

__all__ = ["Recorder"]

NOTHING: list[dict[str, Any]] = [{}]
"""What is known of a step of which nothing was said."""


class Recorder(StepRecorder[HyperParams]):
    """Records every hyperparameter of every optimizer step.

    A hook reads the parameter groups between ``backward`` and the update, so what is recorded is
    what was used, whoever set it. A step that a gradient scaler skips, or that raises, is not
    recorded, since it did not happen. Losses stay on their device until 64 steps are full, or 16
    where ``watch`` is given the finished records (on rank 0). ``flush_every`` steps are written at
    a time, fewer where that takes longer than five seconds: rows to Parquet parts below
    ``directory`` (a temporary one by default), thinned metrics to ``sink``. ``pace`` is told what
    the steps took. With several ranks each must have a recorder, unless ``together`` is False.

    Raises BadOption: ``optimizer`` is none, or ``flush_every`` is below 1; BadTracking: the
    directory cannot be written.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        directory: Path | str | None = None,
        sink: Sink | None = None,
        expected_steps: int | None = None,
        flush_every: int = FLUSH_EVERY,
        watch: Watch[HyperParams] | None = None,
        pace: Pace | None = None,
        together: bool = True,
    ) -> None:
        super().__init__(
            RecordTable("steps.parquet", steps_schema(), steps_table, read_steps),
            directory=directory,
            sink=sink,
            expected_steps=expected_steps,
            flush_every=flush_every,
            watch=watch,
            together=together,
        )
        self.optimizer = inner_optimizer(optimizer)
        self._pace = pace or Pace(1)
        self._told_before: list[dict[str, Any]] = []
        self._told_since: list[dict[str, Any]] = []
        self._pending: list[StepNotes] = []
        self._smooth = SmoothedLoss()
        self._groups: list[dict[str, Any]] = []
        self._time = self._waited = 0.0

    def note(
        self,
        *,
        loss: Tensor | float | None = None,
        batch_size: int | None = None,
        epoch: int | None = None,
        step: int | None = None,
    ) -> None:
        """Say what the optimizer cannot know of its next step; a closure says it during the step.

        ``loss`` is a number or a scalar tensor (its value is copied, on an accelerator
        without waiting for it; its graph is not kept), ``step`` overrides the recorder's own count.
        """
        if step is not None:
            self.current_step = int(step)
        noted = {"loss": kept_loss(loss), "batch_size": batch_size, "epoch": epoch}
        # The first since the last step, or since this one began, and the latest.
        self._told_since = [*self._told_since[:1], noted]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"smooth": self._smooth.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._smooth.load_state_dict(state["smooth"])

    def _attach(self) -> None:
        self._handles += on_each_step(self.optimizer, self._before_step, self._after_step)

    def _before_step(self) -> None:
        began = time.perf_counter()
        self._time = time.time()
        self._told_before, self._told_since = self._told_since[-1:], []
        self._groups = [copied(group) for group in self.optimizer.param_groups]
        self._pace.always += time.perf_counter() - began

    def _after_step(self) -> None:
        began, self._waited = time.perf_counter(), 0.0
        # A closure may compute the loss several times, the first time before anything changes.
        noted = (self._told_before or self._told_since or NOTHING)[0]
        self._told_since = []
        self._pending.append(
            StepNotes(
                step=self.current_step,
                epoch=noted.get("epoch"),
                batch_size=noted.get("batch_size"),
                time=self._time,
                loss=noted.get("loss"),
                groups=self._groups,
            )
        )
        self.current_step += 1
        self._count_step()
        self._pace.always += time.perf_counter() - began - self._waited

    def _take(self) -> None:
        """Bring the steps of all ranks together; there are none on ranks other than 0."""
        if self._pending:
            # Waiting until the device has computed the losses is the training's own time.
            began = time.perf_counter()
            losses = losses_on_host(self._pending)
            self._waited = time.perf_counter() - began
            shares = self._ranks.gathered(understood(self._pending, losses))
            self._pending = []
            steps = of_all_ranks(shares)
            self._log.add([r for step in steps for r in records_of(step, self._smooth)])

    def _metrics(self, records: Sequence[HyperParams]) -> Iterator[Metric]:
        previous = None
        for r in records:
            if r.step == previous:  # charts show the first group; the table has them all
                continue
            previous = r.step
            if self._thinning.keep(r.step):
                shown = {"lr": r.lr, "momentum": r.momentum}
                shown |= {"train/loss": r.loss, "train/loss_smooth": r.loss_smooth}
                for key, value in shown.items():
                    if value is not None:
                        yield Metric(key, value, r.step, r.time)
