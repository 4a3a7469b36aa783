"""The training loop: fit, epoch, batch, each before, body, after, cleanup."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.callbacks import Callback, CallbackList
from pipelines.data.loaders import Batch, Loader, Loaders
from pipelines.optimizers import apply_values
from pipelines.schedules import Schedule, ScheduleValues
from pipelines.step import StepOptions, TrainStep, autocast, batch_groups

__all__ = ["EpochResult", "Evaluation", "Fit", "Trainer", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Mean cross entropy (without label smoothing) and share of correct answers on a split."""

    loss: float
    accuracy: float
    top_class: float = math.nan
    """Share of the class that was predicted most often."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch came to."""

    epoch: int
    step: int
    """Optimizer steps done at its end."""
    valid: Evaluation | None
    """None where there is no validation data."""
    samples_per_second: float
    """Training samples per second, validation not included."""
    seconds: float
    """Training and validation, without what callbacks did aside."""


@dataclass
class Fit:
    """The state of a training run, as callbacks see it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loaders: Loaders
    device: torch.device
    epochs: int
    total_steps: int
    scaler: torch.amp.GradScaler | None = None
    """Scales the loss before backward (fp16); the gradients until the optimizer's step."""
    epoch: int = 0
    """Epochs done before this one."""
    step: int = 0
    """Optimizer steps done before this batch."""
    values: ScheduleValues = field(default_factory=lambda: ScheduleValues(0.0, 0.0))
    """Learning rate and momentum of this batch."""
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Mean loss of this batch, on the device."""
    batch_size: int = 0
    """Samples in this batch."""
    aside: float = 0.0
    """Seconds of this epoch in which callbacks did something else than training: they add to it,
    and it is left out of the speed."""
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """Their answers, of the first of accumulated batches."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last finished epoch: samples_per_second, train/loss_epoch (the mean over its samples)
    and, where there is validation data, valid/loss and valid/accuracy."""
    history: list[EpochResult] = field(default_factory=list)
    stopped: str = ""
    """Why the run ends early, or empty."""
    error: BaseException | None = None

    def stop(self, reason: str) -> None:
        """End the run after this epoch, as a success."""
        self.stopped = reason


class Trainer:
    """Trains a model by a schedule and tells callbacks about it.

    ``schedule`` gives learning rate and momentum for each optimizer step; its length is
    ``steps_per_epoch * epochs``. The model and the loaders' batches are on ``device``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loaders: Loaders,
        device: torch.device,
        options: StepOptions | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loaders = loaders
        self.device = device
        self.options = options or StepOptions()
        self._callbacks = CallbackList(callbacks)
        self._step = TrainStep(model, optimizer, device, self.options)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-len(self.loaders.train) // self.options.accumulate)

    def fit(self, epochs: int, make_schedule: Callable[[int], Schedule]) -> Fit:
        """Train for ``epochs``; ``make_schedule`` is given the total number of steps.

        Whatever a callback or the model raises comes out, after every cleanup has run.
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
        with self._level(fit, "fit"):
            while fit.epoch < epochs:
                self._one_epoch(fit)
                fit.epoch += 1
                if fit.stopped:
                    break
        return fit

    def _one_epoch(self, fit: Fit) -> None:
        self.model.train()
        with self._level(fit, "epoch"):
            fit.aside = 0.0
            began = time.perf_counter()
            samples, loss = 0, torch.zeros((), device=self.device)
            for group in batch_groups(self.loaders.train, self.options.accumulate):
                self._one_batch(fit, group)
                samples += fit.batch_size
                loss += fit.loss * fit.batch_size
            _wait_for(self.device)
            trained = time.perf_counter() - began - fit.aside
            valid = self._validate(fit) if len(self.loaders.valid) else None
            seconds = time.perf_counter() - began - fit.aside
            speed = samples / trained
            fit.metrics["samples_per_second"] = speed
            fit.metrics["train/loss_epoch"] = float(loss) / samples
            fit.history.append(EpochResult(fit.epoch, fit.step, valid, speed, seconds))

    def _one_batch(self, fit: Fit, group: list[Batch]) -> None:
        fit.values = fit.schedule(fit.step)
        apply_values(self.optimizer, fit.values)
        fit.labels = group[0].y
        with self._level(fit, "batch"):
            fit.batch_size = sum(len(batch.y) for batch in group)
            fit.loss = self._step.gradients(group)
            self._callbacks.call("before_step", fit)
            self._step.update()
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


def evaluate(
    model: nn.Module, loader: Loader, device: torch.device, precision: str = "fp32"
) -> Evaluation:
    """Loss and accuracy of a model in evaluation mode over a loader; one transfer at the end.

    The loader must have a batch.
    """
    was_training = model.training
    model.eval()
    # Apple's GPU has no float64.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    loss = torch.zeros((), dtype=dtype, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    predicted = torch.zeros(0, dtype=torch.int64, device=device)
    samples = 0
    with torch.no_grad():
        for x, y in loader:
            with autocast(device, precision):
                scores = model(x)
            loss += F.cross_entropy(scores.float(), y, reduction="sum")
            answers = scores.argmax(dim=1)
            correct += (answers == y).sum()
            if not len(predicted):
                predicted = predicted.new_zeros(scores.shape[1])
            # Not bincount, which makes the host wait for the largest answer.
            predicted.index_add_(0, answers, torch.ones_like(answers))
            samples += len(y)
    model.train(was_training)
    top = int(predicted.max()) / samples
    return Evaluation(float(loss) / samples, int(correct) / samples, top)


def _wait_for(device: torch.device) -> None:
    """Let the device finish, so that a duration is that of the work and not of its launch."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
