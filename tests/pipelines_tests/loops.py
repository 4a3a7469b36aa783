"""Loops for tests of callbacks: a spy on every event, and a trainer that takes a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipelines.callbacks import EVENTS, Callback
from pipelines.config import RunConfig
from pipelines.data.loaders import Loaders
from pipelines.fit import Fit
from pipelines.schedules import make_schedule
from pipelines.step import StepOptions
from pipelines.trainer import Trainer

__all__ = ["BATCH", "EPOCH", "VALIDATE", "LoadersMaker", "Spy", "fit", "trainer_of"]

CPU = torch.device("cpu")
LoadersMaker = Callable[..., Loaders]

BATCH = ["before_batch", "before_step", "after_batch", "cleanup_batch"]
VALIDATE = ["before_validate", "after_validate"]
EPOCH = ["before_epoch", *BATCH, *BATCH, *VALIDATE, "after_epoch", "cleanup_epoch"]


class Spy(Callback):
    """Writes down every event it is told of, and raises in one of them."""

    def __init__(
        self, log: list[Any], name: str = "", fails: str = "", error: BaseException | None = None
    ) -> None:
        self.log = log
        self.name = name
        self.fails = fails
        self.error = RuntimeError(f"{name} in {fails}") if error is None else error

    def _note(self, event: str) -> None:
        self.log.append((self.name, event) if self.name else event)
        if event == self.fails:
            raise self.error


for _event in EVENTS:
    setattr(Spy, _event, lambda self, fit, event=_event: self._note(event))


def trainer_of(
    loaders: Loaders, *callbacks: Callback, model: nn.Module | None = None, **options: Any
) -> Trainer:
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Trainer(model, optimizer, loaders, CPU, StepOptions(**options), callbacks)


def fit(trainer: Trainer, epochs: int = 1, lr_max: float = 0.01) -> Fit:
    return trainer.fit(epochs, lambda steps: make_schedule(RunConfig(lr_max=lr_max), steps))
