"""Trainers of Transformers, of a few steps, whose models note what a step used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments

from tracking.integrations.transformers import LayerscopeCallback

__all__ = ["LayerscopeCallback", "Net", "ToldNet", "train"]


class Net(nn.Module):
    """Gives the mean loss of each batch, notes it, and may fail in one."""

    def __init__(self, fails_in: int = -1, error: BaseException | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
        self.seen: list[tuple[float, int]] = []
        self._fails_in = fails_in
        self._error = error or ValueError("of the training")

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        return self.outcome(x, labels, F.cross_entropy)

    def outcome(self, x: Tensor, labels: Tensor, loss_function: Any) -> dict[str, Tensor]:
        if len(self.seen) == self._fails_in:
            raise self._error
        scores = self.net(x)
        loss = loss_function(scores, labels)
        if self.training:
            self.seen.append((loss.item(), len(x)))
        return {"loss": loss, "scores": scores}


class ToldNet(Net):
    """Is told how many items the step has, as language models are, and gives its part."""

    def forward(self, x: Tensor, labels: Tensor, num_items_in_batch: Any = None, **_: Any) -> Any:
        items = num_items_in_batch or len(x)
        return self.outcome(x, labels, lambda s, y: F.cross_entropy(s, y, reduction="sum") / items)


def train(model: nn.Module, callbacks: Sequence[TrainerCallback] = (), **options: Any) -> Trainer:
    """Two epochs of 10 samples, 3 at a time, in their own order."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(10, 4, generator=generator)
    y = torch.randint(0, 3, (10,), generator=generator).tolist()
    data = [{"x": one, "labels": label} for one, label in zip(x, y, strict=True)]
    defaults = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 3,
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "linear",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    arguments = TrainingArguments("checkpoints", **(defaults | options))
    trainer = Trainer(
        model, arguments, train_dataset=data, eval_dataset=data[:4], callbacks=list(callbacks)
    )
    trainer.train()
    return trainer
