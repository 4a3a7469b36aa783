"""One optimizer step, for trainer and range test: mixed precision, accumulation, clipping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.data.loaders import Batch, Loader

__all__ = ["StepOptions", "TrainStep", "autocast", "batch_groups", "endless_groups"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepOptions:
    """How a step is computed; the fields are those of RunConfig."""

    precision: str = "fp32"
    accumulate: int = 1
    clip_norm: float = 0.0
    label_smoothing: float = 0.0


class TrainStep:
    """Computes gradients of a group of batches, and then lets the optimizer use them."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        options: StepOptions,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.device = device
        self.options = options
        # Scaling does nothing, and costs nothing, where it is not enabled.
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")

    def gradients(self, group: Sequence[Batch]) -> Tensor:
        """Fresh gradients, clipped; returns the mean loss over the group, detached, a scalar.

        Each batch is weighted by its samples, so a group gives the gradient of one large batch.
        """
        self.optimizer.zero_grad(set_to_none=True)
        samples = sum(len(batch.y) for batch in group)
        losses = [self._backward(batch, len(batch.y) / samples) for batch in group]
        if self.options.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def update(self) -> None:
        """One optimizer step with the gradients; left out where fp16 gradients overflowed."""
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _backward(self, batch: Batch, weight: float) -> Tensor:
        with autocast(self.device, self.options.precision):
            scores = self.model(batch.x)
            loss = F.cross_entropy(scores, batch.y, label_smoothing=self.options.label_smoothing)
        if weight != 1:
            loss = loss * weight
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for a forward pass; does nothing for fp32."""
    return torch.autocast(device.type, dtype=DTYPES.get(precision), enabled=precision != "fp32")


def batch_groups(loader: Loader, size: int) -> Iterator[list[Batch]]:
    """The batches of an epoch, ``size`` at a time; the last group may be smaller."""
    batches = iter(loader)
    while group := list(islice(batches, size)):
        yield group


def endless_groups(loader: Loader, size: int) -> Iterator[list[Batch]]:
    """The groups of one epoch after the other."""
    while True:
        yield from batch_groups(loader, size)
