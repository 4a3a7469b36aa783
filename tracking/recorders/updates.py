"""UpdateStats: how far each optimizer step moves each parameter, beside the parameter's size.

In a hand-written loop::

    with UpdateStats(model, optimizer) as updates:
        for x, y in batches:
            loss = loss_function(model(x), y)
            loss.backward()
            optimizer.step()  # measured around this call
            optimizer.zero_grad()
    table = updates.read()

What counts is what the optimizer really did, whatever momentum, clipping or weight decay made of
the gradient. A ratio around 1e-3 is usual; near 1 a step replaces what was learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tracking.errors import BadOption
from tracking.hooks.optimizer_steps import inner_optimizer
from tracking.pace import Pace
from tracking.recorders.metric_keys import metric_key
from tracking.recorders.record_log import Watch
from tracking.recorders.step_recorder import FLUSH_EVERY
from tracking.recorders.sum_stats import SumStats
from tracking.records import UpdateRecord
from tracking.sink import Sink
from tracking.statistics.norms import has_elements_to_read, update_sums
from tracking.statistics.sum_rows import SumRow
from tracking.tables.flow_tables import updates_schema

__all__ = ["UpdateStats"]


class UpdateStats(SumStats[UpdateRecord]):
    """Records the change of every trainable parameter that an optimizer has, step by step.

    Before a recorded step the parameters are copied, on their devices; after it the difference is
    reduced and the copy is freed. So memory holds one more copy of the trained parameters during
    ``optimizer.step()``. A parameter that the step left as it was (no gradient) has a row with an
    update of 0. A step that a gradient scaler skips is not recorded, since it did not happen; the
    next one that is due is.

    ``current_step`` counts the optimizer's own steps from 0; a loop that counts otherwise may set
    it before a step. ``every``, ``directory``, ``sink``, ``expected_steps`` and ``flush_every`` are
    those of ActivationStats.

    Raises BadOption: ``every`` or ``flush_every`` cannot be used, or, when the context is entered,
    the optimizer has no trainable parameter of the model; BadTracking: the directory cannot be
    written.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        every: str | int | Pace = 1,
        directory: Path | str | None = None,
        sink: Sink | None = None,
        expected_steps: int | None = None,
        flush_every: int = FLUSH_EVERY,
        watch: Watch[UpdateRecord] | None = None,
    ) -> None:
        super().__init__(
            model,
            "updates",
            updates_schema(str(every)),
            every=every,
            directory=directory,
            sink=sink,
            expected_steps=expected_steps,
            flush_every=flush_every,
            watch=watch,
        )
        self.optimizer = inner_optimizer(optimizer)
        self._places: dict[str, int] = {}
        self._before: dict[str, tuple[nn.Parameter, Tensor]] = {}
        self._lost: set[str] = set()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters recorded so far, in the model's order; late ones last."""
        return tuple(self._places)

    def _attach(self) -> None:
        if next(self._trained(), None) is None:
            raise BadOption(
                f"optimizer={type(self.optimizer).__name__}: has no trainable parameter of the "
                "model; give the optimizer that trains it"
            )
        self._watch(self.optimizer)
        if not self._pace.interval.fixed:
            # Only to tell training from evaluation, so a compiled model is not compiled anew.
            self._handles.append(self._forward.before(self.model))
        self._pace.begin()

    def _detach(self) -> None:
        super()._detach()
        self._before = {}

    def _order(self) -> Mapping[str, int]:
        return self._places

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        had = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for name, parameter in self.model.named_parameters():
            known = parameter.requires_grad and id(parameter) in had and name not in self._lost
            if known and has_elements_to_read(parameter):
                yield name, parameter

    def _before_update(self) -> None:
        self._before = {}
        if self._armed():
            with self._counted():
                for name, parameter in self._trained():
                    with self._losing(name):
                        self._before[name] = parameter, parameter.detach().clone()

    def _after_update(self) -> None:
        if self._before:
            with self._counted(), torch.no_grad():
                for name, (parameter, before) in self._before.items():
                    self._places.setdefault(name, len(self._places))
                    with self._losing(name):
                        self._rows.add(name, update_sums(before, parameter))
                self._before = {}
        super()._after_update()

    def _lose(self, name: str) -> None:
        self._lost.add(name)

    def _record(self, row: SumRow) -> UpdateRecord:
        finite, nonfinite, update_squares, weights, weight_squares = row.sums
        update_norm = math.sqrt(update_squares) if finite else None
        weight_norm = math.sqrt(weight_squares) if weights else None
        return UpdateRecord(
            step=row.step,
            parameter=row.name,
            count=int(finite + nonfinite),
            update_norm=update_norm,
            weight_norm=weight_norm,
            ratio=None if update_norm is None or not weight_norm else update_norm / weight_norm,
            nonfinite=int(nonfinite),
            time=row.time,
        )

    def _metric(self, record: UpdateRecord) -> tuple[str, float | None]:
        return metric_key("updates", record.parameter, "ratio"), record.ratio
