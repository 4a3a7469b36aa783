"""The callbacks that join a training run to tracking: what it records, and its epochs' metrics."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from torch import nn

from pipelines.callbacks import Callback
from pipelines.config import RunConfig
from pipelines.trainer import Fit
from tracking.activations import ActivationStats
from tracking.epoch_pictures import EpochPictures
from tracking.hyperparameters import Recorder
from tracking.recording import RecordingOptions, RunRecord
from tracking.records import Metric
from tracking.sink import Sink

__all__ = ["EpochMetrics", "Recording"]


class EpochMetrics(Callback):
    """Sends each epoch's validation metrics and speed to a sink."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def after_epoch(self, fit: Fit) -> None:
        now = time.time()
        self.sink.metrics([Metric(key, value, fit.step, now) for key, value in fit.metrics.items()])


class Recording(Callback):
    """Records a run below ``directory`` and hands what it leaves to a sink, as RunRecord does it.

    ``recorder`` and ``activation_stats`` exist from the start of the fit and can be read after it.
    ``model`` is the module that was built, also where a compiled form of it is what is trained.
    """

    recorder: Recorder
    activation_stats: ActivationStats
    _record: RunRecord

    def __init__(self, config: RunConfig, model: nn.Module, directory: Path, sink: Sink) -> None:
        self.options = RecordingOptions.of(config)
        self._pictured = config.report
        self.model = model
        self.directory = directory
        self.sink = sink
        self._open = ExitStack()

    def before_fit(self, fit: Fit) -> None:
        record = RunRecord(
            self.model,
            fit.optimizer,
            self.directory,
            sink=self.sink,
            expected_steps=fit.total_steps,
            options=self.options,
            scaler=fit.scaler,
        )
        self.recorder, self.activation_stats = record.recorder, record.activation_stats
        self._record = self._open.enter_context(record)
        self._pictures = EpochPictures(self.activation_stats, self.sink, fit.epochs)

    def before_step(self, fit: Fit) -> None:
        self._record.note(loss=fit.loss, batch_size=fit.batch_size, epoch=fit.epoch, step=fit.step)

    def after_batch(self, fit: Fit) -> None:
        self._record.step()

    def after_epoch(self, fit: Fit) -> None:
        if self._pictured:
            self._pictures.draw(fit.epoch)

    def cleanup_fit(self, fit: Fit) -> None:
        self._open.__exit__(type(fit.error) if fit.error else None, fit.error, None)
