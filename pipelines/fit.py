"""The state of a training run: what callbacks see of it, and what its epochs came to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipelines.data.loaders import Loaders
from pipelines.evaluation import Evaluation
from pipelines.schedules import Schedule, ScheduleValues

__all__ = ["EpochResult", "EpochSoFar", "Fit", "Start"]


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
class EpochSoFar:
    """How far an epoch has come: with weights, optimizer and random states, what going on takes."""

    epoch: int
    first_step: int
    """Optimizer steps done before it."""
    data: Mapping[str, Any]
    """The training loader's state when the epoch began."""
    loss: Tensor
    """Sum over the samples, on the device."""
    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    """Of training, before the run was stopped; 0 in a run that was not."""

    def add(self, loss: Tensor, samples: int) -> None:
        """Count a batch, of this mean loss."""
        self.steps += 1
        self.samples += samples
        self.loss += loss * samples


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
    so_far: EpochSoFar = field(default_factory=lambda: EpochSoFar(0, 0, {}, torch.zeros(())))
    """Of this epoch, what has been trained."""
    in_batch: bool = False
    """Whether weights and optimizer are being changed."""
    began: float = field(default_factory=time.perf_counter)
    """When this epoch, or what is left of it, began, by time.perf_counter."""
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

    @property
    def training_seconds(self) -> float:
        """Of this epoch until now."""
        return self.so_far.seconds + time.perf_counter() - self.began - self.aside

    def stop(self, reason: str) -> None:
        """End the run after this epoch, as a success."""
        self.stopped = reason


class Start(Protocol):
    """Where a run that was stopped goes on."""

    def begin(self, fit: Fit) -> None:
        """Bring weights, optimizer, data order, step, epoch and history to where they were."""

    def restore_random(self) -> None:
        """Bring the global random states to where they were."""
