"""fastai's Learner with ActivationStats, on this project's batches, model and options.

What fastai need not do is left out: no progress bar, no printing, no transforms, and no DataLoader
of its own, since the batches are made from tensors in memory.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import fastai.callback.schedule  # noqa: F401 - gives Learner its fit_one_cycle
from fastai.callback.core import Callback
from fastai.callback.hook import ActivationStats
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import Adam, OptimWrapper
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import Figures
from pipelines.config import RunConfig
from pipelines.data.loaders import Loader
from pipelines.run import Setup, prepare
from tracking.hooks.layers import select_layers

__all__ = ["fastai_training"]


class Batches:
    """The least that fastai wants of a loader: plain tuples, and their number."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((batch.x, batch.y) for batch in self.loader)


class Clock(Callback):  # type: ignore[misc]
    """Adds up the seconds of the training loops, statistics included."""

    order = -100

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def before_train(self) -> None:
        self._began = time.perf_counter()

    def after_train(self) -> None:
        self.seconds += time.perf_counter() - self._began


def fastai_training(config: RunConfig, *, helped: bool) -> Figures:
    """Train with ``ActivationStats(with_hist=True)``; seconds of the training epochs, and of all.

    As it comes, fastai has torch's usual memory layout and its own AdamW, and records all layers
    that have parameters. Helped, it has what this project has: ``channels_last``, torch's AdamW,
    and the same layers, which are half as many.
    """
    setup = prepare(config.model_copy(update={"channels_last": helped}))
    modules = list(select_layers(setup.model, config.layers).values()) if helped else None
    clock = Clock()
    stats = ActivationStats(with_hist=True, modules=modules)
    optimizer = OptimWrapper(opt=setup.optimizer) if helped else Adam
    learner = _learner(setup, optimizer, [stats, clock])
    began = time.perf_counter()
    with learner.no_logging(), warnings.catch_warnings():
        # It warns of its own callback's attribute.
        warnings.filterwarnings("ignore", message="You are shadowing an attribute")
        _fit(learner, config)
    seconds = time.perf_counter() - began
    score = float(learner.final_record[-1])
    return {"training": clock.seconds, "whole run": seconds, "accuracy": score}


def _learner(setup: Setup, optimizer: Any, callbacks: list[Callback]) -> Learner:
    learner = Learner(
        DataLoaders(Batches(setup.loaders.train), Batches(setup.loaders.valid)),
        setup.model,
        loss_func=F.cross_entropy,
        opt_func=optimizer,
        wd=None if isinstance(optimizer, OptimWrapper) else setup.config.weight_decay,
        metrics=accuracy,
        cbs=callbacks,
    )
    learner.remove_cb(ProgressCallback)
    return learner


def _fit(learner: Learner, config: RunConfig) -> None:
    """One cycle between this project's levels, over the same share of the run."""
    learner.fit_one_cycle(
        config.epochs,
        config.lr_max,
        div=config.div,
        div_final=config.final_div,
        pct_start=config.resolved().pct_start,
        moms=(config.momentum_max, config.momentum_min, config.momentum_max),
    )
