"""A callback for the Trainer of Transformers: docs/other-frameworks.md has an example."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tracking.hooks.module_hooks import Hook
from tracking.hooks.optimizer_steps import inner_optimizer, on_each_step
from tracking.integrations.fits import FitRecords
from tracking.integrations.steps import samples_in

__all__ = ["LayerscopeCallback"]


class LayerscopeCallback(FitRecords, TrainerCallback):  # type: ignore[misc]
    """Records hyperparameters and activation statistics of ``Trainer.train``.

    The trainer has no event for a training that fails: train inside ``with callback:``, and the
    hooks are removed and the records written then too. Batches whose gradients accumulate are one
    step. The loss is the one in the model's output; where the trainer computes another (label
    smoothing, ``compute_loss_func``), it is left out. Where there are several processes, the first
    one records its own share of each batch. See FitRecords for the arguments.

    Raises BadOption, when the training starts: ``layers`` matches nothing; BadTracking: the
    directory or the run cannot be used.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_after(error)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **parts: Any,
    ) -> None:
        if not state.is_world_process_zero:
            return
        model, optimizer = parts["model"], inner_optimizer(parts["optimizer"])
        self._begin(model, optimizer, expected_steps=state.max_steps, first_step=state.global_step)
        self._hooked(*on_each_step(optimizer, None, self._after_update))
        self._hooked(model.register_forward_hook(Hook(self._after_forward), with_kwargs=True))

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **parts: Any,
    ) -> None:
        if self._recording:
            self._record.note(**self._batches.take(), epoch=int(state.epoch or 0))

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **parts: Any,
    ) -> None:
        self.close()

    def _after_forward(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        loss = _loss_in(output) if model.training else None
        if loss is None:
            return
        # A model that is told of it gives each batch's part of the step's mean loss.
        parts = kwargs.get("num_items_in_batch") is not None
        self._batches.add(loss, samples_in([*args, *kwargs.values()]), part=parts)

    def _after_update(self) -> None:
        self._record.step()


def _loss_in(output: Any) -> Tensor | None:
    """The loss in a model's output, where the trainer looks for it."""
    if isinstance(output, Mapping):
        loss = output.get("loss")
    else:
        loss = output[0] if isinstance(output, (tuple, list)) and output else None
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None
