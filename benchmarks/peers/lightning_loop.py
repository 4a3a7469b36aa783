"""Lightning's Trainer with MLFlowLogger and the same statistics in naive torch.

Written as one would write it by hand: forward hooks compute the statistics, the scalars are logged
in each step, and the histograms, for which MLflow has no metric, are kept in a list. What Lightning
need not do is left out: no progress bar, no checkpoints, no model summary, no sanity check.
"""

from __future__ import annotations

import logging
import time
import warnings
from functools import partial
from typing import Any

import mlflow
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.peers.naive import naive_statistics
from benchmarks.runs import EXPERIMENT, fresh_store
from benchmarks.timing import Figures
from pipelines.config import RunConfig
from pipelines.data.loaders import Batch
from pipelines.run import Setup, prepare
from tracking.hooks.layers import select_layers

__all__ = ["lightning_training"]


class Recorded(LightningModule):  # type: ignore[misc]
    """The model with its loss, optimizer, schedule and statistics."""

    def __init__(self, setup: Setup, *, direct: bool) -> None:
        super().__init__()
        self.model = setup.model
        self.histograms: list[tuple[int, str, list[float]]] = []
        self._setup = setup
        self._direct = direct
        self._scalars: dict[str, float] = {}

    def on_fit_start(self) -> None:
        """Hook the layers that this project records by default."""
        for name, layer in select_layers(self.model, self._setup.config.layers).items():
            layer.register_forward_hook(partial(self._record, name))

    def _record(self, name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if not self.training:
            return
        scalars, histogram = naive_statistics(output)
        self._scalars |= {f"activations/{name}/{key}": value for key, value in scalars.items()}
        self.histograms.append((self.global_step, name, histogram))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of a batch; logs it with the statistics of the layers."""
        loss = F.cross_entropy(self.model(batch.x), batch.y)
        if self._direct:
            self.logger.log_metrics({"train/loss": loss.item(), **self._scalars}, self.global_step)
        else:
            self.log_dict({"train/loss": loss, **self._scalars})
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Loss and accuracy, averaged over the epoch."""
        scores = self.model(batch.x)
        right = (scores.argmax(dim=1) == batch.y).float().mean()
        figures = {"valid/loss": F.cross_entropy(scores, batch.y), "valid/accuracy": right}
        self.log_dict(figures, batch_size=len(batch.y))

    def configure_optimizers(self) -> dict[str, Any]:
        """This project's optimizer, and torch's one-cycle schedule with the same formula."""
        config = self._setup.config
        optimizer = self._setup.optimizer
        steps = len(self._setup.loaders.train) * config.epochs
        schedule = OneCycleLR(
            optimizer,
            max_lr=config.lr_max,
            total_steps=max(steps, 8),  # fewer leave torch's schedule no step to rise in
            pct_start=config.resolved().pct_start or 0.25,
            base_momentum=config.momentum_min,
            max_momentum=config.momentum_max,
            div_factor=config.div,
            final_div_factor=config.final_div / config.div,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Clock(Callback):  # type: ignore[misc]
    """Adds up the seconds of the training loops, statistics and logging included."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._began = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.seconds += time.perf_counter() - self._began


def lightning_training(config: RunConfig, *, helped: bool) -> Figures:
    """Train and log; seconds of the training epochs, and from the run's opening to its end.

    As it comes, Lightning has torch's usual memory layout, and ``log_dict`` takes the scalars.
    Helped, it has this project's ``channels_last``, and the scalars of a step go past ``log_dict``
    to the logger, in one call.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    setup = prepare(config.model_copy(update={"channels_last": helped}))
    module = Recorded(setup, direct=helped)
    clock = Clock()
    with fresh_store():
        began = time.perf_counter()
        trainer = _trainer(config, clock)
        with warnings.catch_warnings():
            # Of torch's API, which it uses itself.
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec")
            trainer.fit(module, setup.loaders.train, setup.loaders.valid)
        seconds = time.perf_counter() - began
    return {
        "training": clock.seconds,
        "whole run": seconds,
        "accuracy": float(trainer.callback_metrics["valid/accuracy"]),
    }


def _trainer(config: RunConfig, clock: Clock) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=config.epochs,
        logger=MLFlowLogger(EXPERIMENT, tracking_uri=mlflow.get_tracking_uri()),
        log_every_n_steps=1,
        callbacks=[LearningRateMonitor(logging_interval="step", log_momentum=True), clock],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
