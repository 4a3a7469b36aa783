"""The callbacks that join a training run to tracking: what it records, and its epochs' metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from pipelines.callbacks import Callback
from pipelines.config import RunConfig
from pipelines.fit import Fit
from tracking.diagnosis.evidence import RunContext
from tracking.earlier import EarlierRecords
from tracking.errors import StoppedByFinding
from tracking.plots.epoch_pictures import EpochPictures
from tracking.recorders.activations import ActivationStats
from tracking.recorders.hyperparameters import Recorder
from tracking.recording import RunRecord
from tracking.recording_options import RecordingOptions
from tracking.records import Finding, Metric
from tracking.sink import Sink

__all__ = ["EpochMetrics", "Recording"]


class EpochMetrics(Callback):
    """Sends each epoch's metrics, of training, validation and speed, to a sink."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def after_epoch(self, fit: Fit) -> None:
        now = time.time()
        self.sink.metrics([Metric(key, value, fit.step, now) for key, value in fit.metrics.items()])


class Recording(Callback):
    """Records a run below ``directory`` and hands what it leaves to a sink, as RunRecord does it.

    ``recorder`` and ``activation_stats`` exist from the start of the fit and can be read after it.
    ``model`` is the module that was built, also where a compiled form of it is what is trained.
    ``earlier`` is what a run that was stopped has left, with which this one goes on.
    """

    recorder: Recorder
    activation_stats: ActivationStats
    _record: RunRecord

    def __init__(
        self,
        config: RunConfig,
        model: nn.Module,
        directory: Path,
        sink: Sink,
        context: RunContext | None = None,
        announce: Callable[[Finding], None] | None = None,
        earlier: EarlierRecords | None = None,
    ) -> None:
        self.options = RecordingOptions.of(config)
        self._pictured = config.report
        self._stop_on = config.stop_on
        self._context = context
        self._announce = announce
        self._earlier = earlier
        self._fatal: Finding | None = None
        self._aside = 0.0
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
            context=self._context,
            announce=self._note,
            earlier=self._earlier,
        )
        self.recorder, self.activation_stats = record.recorder, record.activation_stats
        self._record = self._open.enter_context(record)
        self._open.callback(self._before_end, fit)
        self._pictures = EpochPictures(self.activation_stats, self.sink, fit.epochs)

    def before_epoch(self, fit: Fit) -> None:
        self._aside = 0.0
        self._record.resume()

    def before_batch(self, fit: Fit) -> None:
        if fit.aside != self._aside:
            self._aside = fit.aside
            self._record.resume()

    def before_step(self, fit: Fit) -> None:
        self._record.note(
            loss=fit.loss,
            batch_size=fit.batch_size,
            epoch=fit.epoch,
            step=fit.step,
            labels=fit.labels,
        )

    def after_batch(self, fit: Fit) -> None:
        self._record.step()
        self._stop_where_hopeless()

    def after_epoch(self, fit: Fit) -> None:
        valid = fit.history[-1].valid
        if valid is not None:
            self._record.validated(valid.loss, valid.accuracy, valid.top_class)
        self._stop_where_hopeless()
        if self._pictured:
            self._pictures.draw(fit.epoch)

    def remember(self) -> dict[str, Any]:
        """What its records need to be gone on with after this step; it is on disk then."""
        return self._record.remember()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the run, what matters most first."""
        return self._record.findings

    def _note(self, finding: Finding) -> None:
        if finding.severity == self._stop_on:
            self._fatal = self._fatal or finding
        if self._announce is not None:
            self._announce(finding)

    def _stop_where_hopeless(self) -> None:
        if self._fatal is not None:
            raise StoppedByFinding(
                f"stopped (stop_on={self._stop_on}): {self._fatal.summary} ({self._fatal.rule}); "
                f"try: {', or '.join(map(str, self._fatal.remedies[:2]))}"
            )

    def cleanup_fit(self, fit: Fit) -> None:
        self._open.__exit__(type(fit.error) if fit.error else None, fit.error, None)

    def _before_end(self, fit: Fit) -> None:
        if fit.error is not None:
            # There may be no loss of this step: none can be computed of labels out of range.
            self._record.note(labels=fit.labels)
