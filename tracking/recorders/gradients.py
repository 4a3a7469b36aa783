"""GradientStats: statistics of the loss's gradient with respect to every layer's output.

In a hand-written loop::

    with GradientStats(model, optimizer=optimizer) as gradients:
        for x, y in batches:
            loss = loss_function(model(x), y)
            loss.backward()  # the gradients are reduced while they flow
            optimizer.step()  # ends the step; without optimizer=, call gradients.step()
            optimizer.zero_grad()
    table = gradients.read()

The gradients are caught by hooks on the output tensors. Backward hooks of modules would wrap the
outputs in a function of their own and forbid in-place non-linearities. A hook on a tensor gets the
gradient with respect to the values that the tensor had when the hook was registered, also where an
in-place operation replaces them later (PyTorch, "Autograd mechanics: tensor hooks when tensors are
modified in-place"). Views are the exception, see ``_source``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tracking.hooks.layer_hooks import LayerHooks
from tracking.hooks.layers import check_layers
from tracking.hooks.module_hooks import GradientHook
from tracking.hooks.optimizer_steps import inner_optimizer
from tracking.hooks.outputs import float_tensors, has_values, in_trace
from tracking.pace import Pace
from tracking.recorders.metric_keys import metric_key
from tracking.recorders.record_log import Watch
from tracking.recorders.step_recorder import FLUSH_EVERY
from tracking.recorders.sum_stats import SumStats
from tracking.records import GradientRecord
from tracking.sink import Sink
from tracking.statistics import norms
from tracking.statistics.norms import gradient_sums, has_elements_to_read
from tracking.statistics.sum_rows import SumRow
from tracking.tables.flow_tables import gradients_schema

__all__ = ["GradientStats"]


class GradientStats(SumStats[GradientRecord]):
    """Records statistics of the gradients at the outputs of a model's layers, step by step.

    ``layers``, ``every``, ``directory``, ``sink``, ``expected_steps`` and ``flush_every`` are those
    of ActivationStats, and so is what a step is: all backward passes between two calls of
    ``optimizer.step()`` (or of ``step()``), and all calls of a layer, merge into one row. Passes
    through the model in evaluation mode are left out. A layer that no gradient reaches in a step
    (nothing before it is trained, or the loss does not depend on it) has no row for that step, and
    neither has one whose output no operation made: a parameter or the input, handed on.

    ``scaler``: the gradient scaler that scales the loss, if any; its scale is divided out.

    Raises BadOption: ``layers``, ``every`` or ``flush_every`` cannot be used, or, when the context
    is entered, ``layers`` matches nothing; BadTracking: the directory cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        scaler: torch.amp.GradScaler | None = None,
        layers: str = "activations",
        every: str | int | Pace = 1,
        directory: Path | str | None = None,
        sink: Sink | None = None,
        expected_steps: int | None = None,
        flush_every: int = FLUSH_EVERY,
        watch: Watch[GradientRecord] | None = None,
    ) -> None:
        check_layers(layers)
        super().__init__(
            model,
            "gradients",
            gradients_schema(layers, str(every)),
            every=every,
            directory=directory,
            sink=sink,
            expected_steps=expected_steps,
            flush_every=flush_every,
            watch=watch,
        )
        self._optimizer = inner_optimizer(optimizer) if optimizer is not None else None
        self._scaler = scaler
        self._hooks = LayerHooks(
            self.model,
            layers,
            lambda name: GradientHook(
                partial(self._after_layer, name), partial(self._of_compiled, name)
            ),
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are or were hooked, in the model's order; late ones last."""
        return tuple(self._hooks.order)

    def step(self) -> None:
        """End the current step: the gradients since the last call become its rows."""
        self._end_step()
        self._hooks.end_step()

    def _attach(self) -> None:
        self._hooks.attach()
        self._handles.append(self._forward.before(self.model))
        if self._optimizer is not None:
            self._watch(self._optimizer)
        self._pace.begin()

    def _detach(self) -> None:
        super()._detach()
        self._hooks.remove()

    def _order(self) -> Mapping[str, int]:
        return self._hooks.order

    def _before_forward(self, inputs: Any) -> None:
        super()._before_forward(inputs)
        if self.model.training and self._armed():
            self._hooks.update(compiled=self._forward.compiled)

    def _after_layer(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        # Also while a checkpointed layer is computed again, in backward: it is either the first
        # time that it is computed with a graph (use_reentrant), or no gradient comes by.
        if self.model.training and self._armed() and not in_trace():
            with self._counted(), self._losing(name):
                for x in float_tensors(output):
                    source = _source(x, module, inputs)
                    if source.requires_grad and not source.is_leaf and has_values(source):
                        _catch(source, partial(self._on_gradient, name))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _on_gradient(self, name: str, gradient: Tensor | None) -> None:
        # An output beside which others of the same operation got a gradient has None.
        if gradient is None or not has_elements_to_read(gradient) or not self._armed():
            return
        with self._counted(), self._losing(name), torch.no_grad():
            sums = gradient_sums(gradient)
            if self._scaler is not None:
                _unscale(sums, self._scaler)
            self._rows.add(name, sums)

    def _lose(self, name: str) -> None:
        self._hooks.lose(name)

    def _of_compiled(self, name: str, gradient: Tensor) -> None:
        if self.model.training:
            self._on_gradient(name, gradient)

    def _record(self, row: SumRow) -> GradientRecord:
        finite, nonfinite, zeros, size, squares = row.sums
        count = finite + nonfinite
        return GradientRecord(
            step=row.step,
            layer=row.name,
            count=int(count),
            norm=math.sqrt(squares) if finite else None,
            mean_abs=size / finite if finite else None,
            zeros=zeros / count if count else None,
            nonfinite=int(nonfinite),
            time=row.time,
        )

    def _metric(self, record: GradientRecord) -> tuple[str, float | None]:
        return metric_key("gradients", record.layer, "norm"), record.norm


def _source(x: Tensor, module: nn.Module, inputs: Any) -> Tensor:
    """The tensor to hook for the gradient at a module's output ``x``: itself, but for some views.

    When a view is changed in place, its place in the graph is taken by the change, and a hook on it
    is never called. Where the module made a tensor and gives it in another shape (Linear with three
    dimensions, InstanceNorm, one-dimensional pooling), nobody else has that tensor, and the
    gradient at it has the same elements.
    """
    base = x._base  # noqa: SLF001 - torch has no public way
    if base is None or base.numel() != x.numel() or next(module.children(), None) is not None:
        return x
    given = [y if y._base is None else y._base for y in float_tensors(inputs)]  # noqa: SLF001
    return x if any(base is y for y in given) else base


def _catch(x: Tensor, call: Callable[[Tensor | None], None]) -> None:
    x.register_hook(call)  # type: ignore[no-untyped-call]


def _unscale(sums: Tensor, scaler: torch.amp.GradScaler) -> None:
    # Scaling a one tells the scale on its device; asking for it as a number would wait.
    scale = scaler.scale(torch.ones((), dtype=torch.float64, device=sums.device))
    sums[norms.ABS] /= scale
    sums[norms.SQUARES] /= scale.square()
