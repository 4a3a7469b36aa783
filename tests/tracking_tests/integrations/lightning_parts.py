"""Lightning modules and trainers of a few steps that note for themselves what a step used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tracking.integrations.lightning import LayerscopeCallback

__all__ = ["Bare", "Manual", "Net", "fit", "loader", "trainer"]

Bare = lightning.Callback


def loader(samples: int = 10, size: int = 3) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 4, generator=generator)
    y = torch.randint(0, 3, (samples,), generator=generator)
    return DataLoader(TensorDataset(x, y), size)


class Net(lightning.LightningModule):
    """Notes each batch's loss and size, and may fail in one of them."""

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        *,
        optimizers: int = 1,
        fails_in: int = -1,
        error: BaseException | None = None,
        spoils: int = -1,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
        self.seen: list[tuple[float, int]] = []
        self._optimizer = optimizer
        self._optimizers = optimizers
        self._fails_in = fails_in
        self._error = error
        self._spoils = spoils
        if optimizers > 1:
            self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if len(self.seen) == self._fails_in:
            raise self._error or ValueError("of the training")
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.seen.append((loss.item(), len(x)))
        if len(self.seen) - 1 == self._spoils:
            loss = loss * torch.inf
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.net(batch[0])

    def configure_optimizers(self) -> Any:
        made = [self._optimizer(self.parameters(), lr=0.1) for _ in range(self._optimizers)]
        if self._optimizers > 1:
            return made
        schedule = torch.optim.lr_scheduler.ExponentialLR(made[0], 0.5)
        return made, [{"scheduler": schedule, "interval": "step"}]


class Manual(Net):
    """Calls backward and optimizer itself, and steps after every second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.manual_backward(super().training_step(batch, batch_idx))
        if batch_idx % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()


def trainer(*callbacks: lightning.Callback, **options: Any) -> lightning.Trainer:
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(callbacks=list(callbacks), **(defaults | options))


def fit(module: Net, valid: bool = False, samples: int = 10, **options: Any) -> LayerscopeCallback:
    """Train with a callback, whose options begin with ``record_``, and give it back."""
    own = {name[7:]: options.pop(name) for name in list(options) if name.startswith("record_")}
    callback = LayerscopeCallback(**own)
    data = loader(samples)
    trainer(callback, **options).fit(module, data, loader(4) if valid else None)
    return callback
