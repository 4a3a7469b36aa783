"""A callback for Lightning's Trainer: docs/other-frameworks.md has an example."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor

from tracking.errors import BadOption
from tracking.hooks.optimizer_steps import on_each_step
from tracking.integrations.fits import FitRecords, RunAddress
from tracking.integrations.steps import ToldSteps, samples_in

__all__ = ["LayerscopeCallback"]


class LayerscopeCallback(FitRecords, Callback):  # type: ignore[misc]
    """Records hyperparameters and activation statistics of ``Trainer.fit``.

    Where no ``run_id`` is given and the trainer has an MLFlowLogger, its run gets the records too.
    Batches whose gradients accumulate are one step. The sanity check is never recorded, validation
    only with ``record_eval``. The module has one optimizer, with automatic or manual optimization;
    where there are several processes, the first one records its own share of each batch. See
    FitRecords for the arguments.

    Raises BadOption, when the training starts: there is not exactly one optimizer, or ``layers``
    matches nothing; BadTracking: the directory or the run cannot be used.
    """

    _samples: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise BadOption(
                f"the module has {len(trainer.optimizers)} optimizers: a LayerscopeCallback "
                "records exactly one; for others, put a Recorder around each"
            )
        if trainer.is_global_zero:
            self._begin_fit(trainer, pl_module, trainer.optimizers[0])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._samples = samples_in(batch)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        if self._recording:
            self._batches.add(self._loss_of_batch(trainer, pl_module, loss), self._samples)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self._recording:
            self._record.note(**self._batches.take(), epoch=trainer.current_epoch)
            if self._scaler is None:
                self._steps.before()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close_after(exception)

    def _begin_fit(
        self, trainer: Trainer, module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # optimizer.step(closure) computes the gradients itself, after torch's hook for its start.
        self._steps = ToldSteps(lambda: optimizer.param_groups)
        self._scaler = getattr(trainer.precision_plugin, "scaler", None)
        steps = trainer.estimated_stepping_batches
        self._begin(
            module,
            cast(torch.optim.Optimizer, self._steps),
            expected_steps=int(steps) if 0 < steps < math.inf else None,
            first_step=trainer.global_step,
            run=_run_of(trainer),
            scaler=self._scaler,
        )
        # With a scaler it does not; and that a step is skipped has no other sign than torch's hook.
        before = None if self._scaler is None else self._steps.before
        self._hooked(*on_each_step(optimizer, before, self._after_update))

    def _loss_of_batch(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> Tensor:
        """The mean loss of a batch, from what the gradients are computed of."""
        loss = loss.detach()
        if self._scaler is not None:
            loss = loss / self._scaler.get_scale()
        accumulate = trainer.accumulate_grad_batches if module.automatic_optimization else 1
        return loss if accumulate == 1 else loss * accumulate

    def _after_update(self) -> None:
        if self._steps.after():
            self._record.step()


def _run_of(trainer: Trainer) -> RunAddress | None:
    """The run of the trainer's first MLFlowLogger."""
    for logger in trainer.loggers:
        if isinstance(logger, MLFlowLogger):
            return RunAddress(logger.run_id, logger.experiment.tracking_uri)
    return None
