"""The training loop: fit, epoch, batch, each before, body, after, cleanup."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice

import torch
from torch import nn

from pipelines.callbacks import Callback, CallbackList
from pipelines.data.loaders import Batch, Loaders
from pipelines.evaluation import Evaluation, evaluate
from pipelines.fit import EpochResult, EpochSoFar, Fit, Start
from pipelines.optimizers import apply_values
from pipelines.schedules import Schedule
from pipelines.step import StepOptions, TrainStep, batch_groups
from tracking.signals import SafePoints

__all__ = ["Trainer"]


class Trainer:
    """Trains a model by a schedule and tells callbacks about it.

    ``schedule`` gives learning rate and momentum for each optimizer step; its length is
    ``steps_per_epoch * epochs``. The model and the loaders' batches are on ``device``. With
    ``signals_wait``, SIGINT, SIGTERM and SIGHUP wait for the end of a batch, callbacks included, so
    that weights, optimizer and records go together; a second one does not wait.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loaders: Loaders,
        device: torch.device,
        options: StepOptions | None = None,
        callbacks: Iterable[Callback] = (),
        *,
        signals_wait: bool = False,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loaders = loaders
        self.device = device
        self.options = options or StepOptions()
        self._callbacks = CallbackList(callbacks)
        self._step = TrainStep(model, optimizer, device, self.options)
        self._safe_points = SafePoints()
        self._signals: AbstractContextManager[object] = (
            self._safe_points if signals_wait else nullcontext()
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-len(self.loaders.train) // self.options.accumulate)

    def fit(
        self,
        epochs: int,
        make_schedule: Callable[[int], Schedule],
        start: Start | None = None,
    ) -> Fit:
        """Train for ``epochs``; ``make_schedule`` is given the total number of steps.

        With ``start`` a run goes on that was stopped: what follows is bit-identical to what would
        have followed. Whatever a callback or the model raises comes out, after every cleanup has
        run.
        """
        total = self.steps_per_epoch * epochs
        schedule = make_schedule(total)
        fit = Fit(
            self.model,
            self.optimizer,
            schedule,
            self.loaders,
            self.device,
            epochs,
            total,
            self._step.scaler,
        )
        if start is not None:
            start.begin(fit)
        with self._signals, self._level(fit, "fit"):
            while fit.epoch < epochs:
                self._one_epoch(fit, self._batches(fit, start))
                start = None
                fit.epoch += 1
                if fit.stopped:
                    break
        return fit

    def _batches(self, fit: Fit, start: Start | None) -> Iterator[list[Batch]]:
        """An epoch's, or what is left of it; ``fit.so_far`` is brought to where they begin."""
        loader = self.loaders.train
        if start is None:
            loss = torch.zeros((), device=self.device)
            fit.so_far = EpochSoFar(fit.epoch, fit.step, loader.state_dict(), loss)
            return batch_groups(loader, self.options.accumulate)
        groups = batch_groups(loader, self.options.accumulate)
        # Order and augmentation of what comes depend on those that have been trained on.
        for _ in islice(groups, fit.so_far.steps):
            pass
        start.restore_random()
        return groups

    def _one_epoch(self, fit: Fit, groups: Iterator[list[Batch]]) -> None:
        so_far = fit.so_far
        self.model.train()
        with self._level(fit, "epoch"):
            fit.aside, fit.began = 0.0, time.perf_counter()
            for group in groups:
                with self._safe_points.held():
                    self._one_batch(fit, group)
            _wait_for(self.device)
            speed = so_far.samples / fit.training_seconds
            valid = self._validate(fit) if len(self.loaders.valid) else None
            seconds = fit.training_seconds
            fit.metrics["samples_per_second"] = speed
            fit.metrics["train/loss_epoch"] = float(so_far.loss) / so_far.samples
            fit.history.append(EpochResult(fit.epoch, fit.step, valid, speed, seconds))

    def _one_batch(self, fit: Fit, group: list[Batch]) -> None:
        fit.values = fit.schedule(fit.step)
        apply_values(self.optimizer, fit.values)
        fit.labels = group[0].y
        with self._level(fit, "batch"):
            fit.in_batch = True
            fit.batch_size = sum(len(batch.y) for batch in group)
            fit.loss = self._step.gradients(group)
            self._callbacks.call("before_step", fit)
            self._step.update()
            fit.so_far.add(fit.loss, fit.batch_size)
            fit.in_batch = False
        fit.step += 1

    def _validate(self, fit: Fit) -> Evaluation:
        self.model.eval()
        self._callbacks.call("before_validate", fit)
        result = evaluate(self.model, self.loaders.valid, self.device, self.options.precision)
        fit.metrics.update({"valid/loss": result.loss, "valid/accuracy": result.accuracy})
        self._callbacks.call("after_validate", fit)
        self.model.train()
        return result

    @contextmanager
    def _level(self, fit: Fit, name: str) -> Iterator[None]:
        """before, body, after; cleanup always, also when an earlier part failed."""
        try:
            self._callbacks.call(f"before_{name}", fit)
            yield
            self._callbacks.call(f"after_{name}", fit)
        except BaseException as error:
            if fit.error is None:
                fit.error = error
            raise
        finally:
            self._callbacks.cleanup(f"cleanup_{name}", fit)


def _wait_for(device: torch.device) -> None:
    """Let the device finish, so that a duration is that of the work and not of its launch."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
