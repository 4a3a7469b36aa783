"""ActivationStats: exact statistics of every layer's output, from forward hooks.

In a hand-written loop::

    with ActivationStats(model, optimizer=optimizer) as stats:
        for x, y in batches:
            loss = loss_function(model(x), y)
            loss.backward()
            optimizer.step()  # ends the step; without optimizer=, call stats.step()
            optimizer.zero_grad()
    table = stats.read()
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tracking.hooks.failed_hooks import FailedHooks
from tracking.hooks.layer_hooks import LayerHooks
from tracking.hooks.layers import check_layers, inner_model
from tracking.hooks.module_hooks import ValuesHook
from tracking.hooks.optimizer_steps import inner_optimizer, on_each_step
from tracking.hooks.outputs import float_tensors, has_values, in_backward, in_trace
from tracking.pace import Pace
from tracking.recorders.metric_keys import metric_key
from tracking.recorders.record_log import Watch
from tracking.recorders.step_recorder import FLUSH_EVERY, RecordTable, StepRecorder
from tracking.records import LayerStats, Metric
from tracking.sink import Sink
from tracking.statistics.lasting import LastingDead
from tracking.statistics.layer_buffers import LayerBuffers
from tracking.statistics.layer_rows import LayerRows, merged
from tracking.tables.schemas import StatsSettings, read_stats, stats_schema, stats_table

__all__ = ["ActivationStats"]

METRICS = ("mean", "std", "near_zero", "dead_channels")


class ActivationStats(StepRecorder[LayerStats]):
    """Records statistics of the outputs of a model's layers, step by step.

    Hooks reduce each output on its own device; 64 recorded steps come to the host at a time, or 16
    where ``watch`` is given the finished rows (on rank 0). ``flush_every`` steps are written at a
    time, fewer where that takes longer than five seconds, so memory does not grow with the number
    of steps. Rows go to Parquet parts below ``directory`` (a temporary one by default) and become
    ``stats.parquet`` when the context ends; thinned metrics go to ``sink``. A step is what lies
    between two calls of ``optimizer.step()`` (or of ``step()``): the batches of an accumulated
    gradient, and repeated calls of one layer, merge into one row. Copies of the model are not
    recorded. With several ranks each must record, and rows are those of the global batch, unless
    ``together`` is False.

    Raises BadOption: ``layers``, ``every`` or ``flush_every`` cannot be used, or, when the context
    is entered, ``layers`` matches nothing; BadTracking: the directory cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        layers: str = "activations",
        every: str | int | Pace = 1,
        record_eval: bool = False,
        near_zero_eps: float = 0.05,
        above_threshold: float = 1.0,
        directory: Path | str | None = None,
        sink: Sink | None = None,
        expected_steps: int | None = None,
        flush_every: int = FLUSH_EVERY,
        watch: Watch[LayerStats] | None = None,
        together: bool = True,
    ) -> None:
        check_layers(layers)
        settings = StatsSettings(near_zero_eps, above_threshold, layers, str(every))
        rows = partial(stats_table, settings=settings)
        super().__init__(
            RecordTable("stats.parquet", stats_schema(settings), rows, read_stats),
            directory=directory,
            sink=sink,
            expected_steps=expected_steps,
            flush_every=flush_every,
            watch=watch,
            together=together,
        )
        self.model = inner_model(model)
        self._optimizer = inner_optimizer(optimizer) if optimizer is not None else None
        self._record_eval = record_eval
        alone = not self._ranks.several
        self._pace = every if isinstance(every, Pace) else Pace(every, adapts=alone)
        self._ends_steps = self._pace is not every
        self._lasting: dict[tuple[str, str], LastingDead] = defaultdict(LastingDead)
        self._buffers = LayerBuffers(self._take_every, near_zero_eps, above_threshold)
        self._forward = ValuesHook(self._before_forward)
        self._hooks = LayerHooks(
            self.model, layers, lambda name: ValuesHook(partial(self._after_layer, name))
        )
        self._failed = FailedHooks("activations", self._sink)
        self._waited = 0.0
        self._evaluated_in_step = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are or were recorded, in the model's order; late ones last."""
        return tuple(self._hooks.order)

    def step(self) -> None:
        """End the current step: what the layers gave since the last call becomes its rows."""
        self._end_rows()
        self._hooks.end_step()
        if self._ends_steps:
            self._pace.end_step(self.current_step)
        self.current_step += 1

    def state_dict(self) -> dict[str, Any]:
        lasting = {key: one.state_dict() for key, one in self._lasting.items()}
        return super().state_dict() | {"lasting": lasting}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for key, kept in state["lasting"].items():
            self._lasting[key].load_state_dict(kept)

    def _attach(self) -> None:
        self._hooks.attach()
        self._handles.append(self._forward.before(self.model))
        if self._optimizer is not None:
            self._handles += on_each_step(self._optimizer, None, self.step)
        self._pace.begin()

    def _detach(self) -> None:
        super()._detach()
        self._hooks.remove()

    def _end_last_step(self) -> None:
        self._end_rows()

    def _before_forward(self, inputs: tuple[Any, ...]) -> None:
        training = self.model.training
        self._pace.before_forward(training)
        if self._armed():
            began = time.perf_counter()
            self._hooks.update(compiled=self._forward.compiled)
            if training:
                self._pace.recording += time.perf_counter() - began

    def _armed(self) -> bool:
        if self.model.training:
            return self._pace.due(self.current_step)
        return self._record_eval

    def _after_layer(self, name: str, output: Any) -> None:
        if not self._armed() or in_backward() or in_trace():
            return
        began = time.perf_counter()
        mode = "train" if self.model.training else "eval"
        try:
            for x in float_tensors(output):
                if has_values(x):
                    self._buffers.add(name, mode, x)
        except Exception as error:  # a training is worth more than its statistics
            self._lose(name, error)
        if mode == "train":
            self._pace.recording += time.perf_counter() - began
        else:
            self._evaluated_in_step = True

    def _lose(self, name: str, error: Exception) -> None:
        """Record the layer no more; of the step under way it has nothing that can be trusted."""
        self._failed.add(name, error)
        self._hooks.lose(name)
        self._buffers.abandon(name)

    def _end_rows(self) -> None:
        began, self._waited = time.perf_counter(), 0.0
        self._buffers.end_step(self.current_step)
        # Ranks must exchange at the same steps, and one alone may have evaluated.
        evaluated = self._record_eval if self._ranks.several else self._evaluated_in_step
        if self._pace.due(self.current_step) or evaluated:
            self._count_step()
        self._evaluated_in_step = False
        if self._pace.recording:
            self._pace.recording += time.perf_counter() - began - self._waited

    def _take(self) -> None:
        """Bring finished rows of all ranks together; there are none on ranks other than 0."""
        began = time.perf_counter()
        taken = self._buffers.take()
        if not self._buffers.on_host:
            # Waiting until a device has done what it was given is the training's own time.
            self._waited = time.perf_counter() - began
        if self._ranks.several:
            interval = self._pace.interval
            interval.steps = self._ranks.agreed(interval.adapted())
        together: dict[tuple[str, str], list[LayerRows]] = {}
        for rows in itertools.chain.from_iterable(self._ranks.gathered(taken)):
            together.setdefault((rows.layer, rows.mode), []).append(rows)
        records = [
            record
            for key, parts in together.items()
            for record in merged(parts).records(self._lasting[key])
        ]
        order = self._hooks.order
        last = len(order)
        records.sort(key=lambda r: (r.step, r.mode == "eval", order.get(r.layer, last)))
        self._log.add(records)

    def _metrics(self, records: Sequence[LayerStats]) -> Iterator[Metric]:
        charted = self._charted(r.step for r in records if r.mode == "train")
        for record in records:
            if record.step in charted or record.mode == "eval":
                for key, name in _keys(record.layer, record.mode):
                    value = getattr(record, name)
                    if value is not None:
                        yield Metric(key, value, record.step, record.time)


@cache
def _keys(layer: str, mode: str) -> tuple[tuple[str, str], ...]:
    """Keys of a layer's metrics, and the fields they stand for."""
    group = "activations" if mode == "train" else "activations_eval"
    return tuple((metric_key(group, layer, name), name) for name in METRICS)
