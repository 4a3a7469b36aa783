"""FitRecords: what the callbacks for all libraries have in common."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tracking.errors import BadOption, RecordsWaiting, did_you_mean
from tracking.integrations.steps import StepBatches
from tracking.reasons import one_line
from tracking.recorders.activations import ActivationStats
from tracking.recorders.hyperparameters import Recorder
from tracking.recording import RunRecord
from tracking.recording_options import RecordingOptions
from tracking.records import Finding

__all__ = ["FitRecords", "RunAddress"]

log = logging.getLogger("layerscope")

OF_A_FIT = {"_open", "_batches", "_record", "_recording", "_samples", "_scaler", "_steps"}


def _warn(finding: Finding) -> None:
    log.warning("%s", finding)


class RunAddress(NamedTuple):
    """Where a run in MLflow is found."""

    run_id: str
    tracking_uri: str | None


class FitRecords:
    """Options and destination of the records, and the records of the last fit.

    ``directory`` is where tables and pictures stay; each fit begins them anew. With ``run_id`` they
    go to that run in MLflow too, whose owner ends it; ``tracking_uri`` is MLflow's own choice
    unless it is given. The other options are those of RecordingOptions.

    A copy of a callback (a pickled learner, say) takes its options along, but no records.

    Raises BadOption: an option is unknown or cannot be used.
    """

    _record: RunRecord
    _open: ExitStack
    _recording: bool

    def __init__(
        self,
        directory: Path | str = "records",
        *,
        run_id: str | None = None,
        tracking_uri: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = _options(options)
        self.directory = Path(directory)
        self._run = RunAddress(run_id, tracking_uri) if run_id else None
        self._forget()

    @property
    def recorder(self) -> Recorder:
        """Of the fit under way, or of the last one."""
        return self._recorded().recorder

    @property
    def activation_stats(self) -> ActivationStats:
        """Of the fit under way, or of the last one."""
        return self._recorded().activation_stats

    def close(self) -> None:
        """Remove the hooks, write what is left and hand it over. May be called twice.

        Where MLflow is away, that is a warning: the records wait, the training is done.
        """
        closing, self._open = self._open, ExitStack()
        self._recording = False
        try:
            closing.close()
        except RecordsWaiting as waiting:
            log.warning("%s", waiting)

    def _close_after(self, error: BaseException | None) -> None:
        """Close, after a fit that may have failed; its own failure is the one to be raised."""
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            log.warning("the records are not complete: %s", one_line(failure))

    def _begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        expected_steps: int | None,
        first_step: int = 0,
        run: RunAddress | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> RunRecord:
        """Hook on. ``run`` is where records go unless the user has named a run."""
        self.close()
        self._batches = StepBatches()
        with ExitStack() as opened:
            sink = None
            if address := self._run or run:
                from tracking.mlflow_runs.attach import attached_run

                sink = opened.enter_context(attached_run(*address)).sink
            record = RunRecord(
                model,
                optimizer,
                self.directory,
                sink=sink,
                expected_steps=expected_steps,
                first_step=first_step,
                options=self.options,
                scaler=scaler,
                announce=_warn,
                together=False,
            )
            opened.enter_context(record)
            self._open = opened.pop_all()
        self._record, self._recording = record, True
        return record

    def _hooked(self, *handles: RemovableHandle) -> None:
        """Have hooks of the callback's own removed with the others."""
        for handle in handles:
            self._open.callback(handle.remove)

    def _recorded(self) -> RunRecord:
        if "_record" not in self.__dict__:
            raise RuntimeError("nothing has been recorded yet: train with this callback first")
        return self._record

    def _forget(self) -> None:
        self._open = ExitStack()
        self._batches = StepBatches()
        self._recording = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in OF_A_FIT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def _options(given: dict[str, Any]) -> RecordingOptions:
    known = [field.name for field in fields(RecordingOptions)]
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise BadOption(f"{name}: no such option; allowed: {', '.join(known)}.{hint}")
    return RecordingOptions(**given)
