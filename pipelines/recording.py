"""The callback that joins a training run to tracking: recorder, activation statistics, metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from torch import nn

from pipelines.callbacks import Callback
from pipelines.config import RunConfig
from pipelines.trainer import Fit
from tracking.activations import ActivationStats
from tracking.hyperparameters import Recorder
from tracking.plots import color_dim_figure, layer_stats_figure, save, schedule_figure
from tracking.records import Metric
from tracking.sink import Sink

__all__ = ["EpochMetrics", "Recording", "color_dim_file"]


class EpochMetrics(Callback):
    """Sends each epoch's validation metrics and speed to a sink."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def after_epoch(self, fit: Fit) -> None:
        now = time.time()
        self.sink.metrics([Metric(key, value, fit.step, now) for key, value in fit.metrics.items()])


class Recording(Callback):
    """Records hyperparameters and activations of a run below ``directory``.

    ``recorder`` and ``activation_stats`` exist from the start of the fit and can be read after it.
    Whatever ends the run, cleanup removes the hooks, joins the parts, draws the pictures and hands
    all of it to the sink. ``model`` is the module that was built, also where a compiled form of it
    is what is trained.
    """

    recorder: Recorder
    activation_stats: ActivationStats

    def __init__(self, config: RunConfig, model: nn.Module, directory: Path, sink: Sink) -> None:
        self.config = config
        self.model = model
        self.directory = directory
        self.sink = sink
        self._open = ExitStack()
        self._begun = False

    def before_fit(self, fit: Fit) -> None:
        config = self.config
        self.recorder = Recorder(
            fit.optimizer,
            directory=self.directory / "hyperparameters",
            sink=self.sink,
            expected_steps=fit.total_steps,
        )
        self.activation_stats = ActivationStats(
            self.model,
            layers=config.layers,
            every=config.every,
            record_eval=config.record_eval,
            near_zero_eps=config.near_zero_eps,
            above_threshold=config.above_threshold,
            directory=self.directory / "activations",
            sink=self.sink,
            expected_steps=fit.total_steps,
        )
        self._open.enter_context(self.recorder)
        self._open.enter_context(self.activation_stats)
        self._begun = True

    def before_step(self, fit: Fit) -> None:
        self.recorder.note(loss=fit.loss, batch_size=fit.batch_size, epoch=fit.epoch, step=fit.step)

    def after_batch(self, fit: Fit) -> None:
        self.activation_stats.step()

    def cleanup_fit(self, fit: Fit) -> None:
        self._open.close()  # each of them, also when the other fails
        if self._begun:
            for path, folder in self._artifacts():
                self.sink.artifact(path, folder)

    def _artifacts(self) -> Iterator[tuple[Path, str]]:
        yield self.recorder.path, "hyperparameters"
        yield self.activation_stats.path, "activations"
        steps, stats = self.recorder.read(), self.activation_stats.read()
        if len(steps):
            picture = self.directory / "hyperparameters" / "schedule.png"
            yield save(schedule_figure(steps), picture), "hyperparameters"
        if not len(stats):
            return
        folder = self.directory / "activations"
        layers = self.activation_stats.layers
        yield save(color_dim_figure(stats, layers), folder / "color_dim.png"), "activations"
        yield save(layer_stats_figure(stats, layers), folder / "layer_stats.png"), "activations"
        for layer in layers:
            picture = folder / "color_dim" / color_dim_file(layer)
            yield save(color_dim_figure(stats, [layer]), picture), "activations/color_dim"


def color_dim_file(layer: str) -> str:
    """The file name of a layer's picture; separators cannot be part of a file name."""
    return f"{layer.replace('/', '_')}.png"
