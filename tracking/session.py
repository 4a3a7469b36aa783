"""A run in MLflow from its opening to its end, whatever ends it."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from tracking import __version__
from tracking.errors import LayerscopeError, RecordsWaiting
from tracking.mlflow_model import log_model
from tracking.mlflow_run import MlflowRun
from tracking.mlflow_sink import MlflowSink
from tracking.reasons import first_line, reason
from tracking.run_folders import (
    check_records_root,
    records_root,
    remove_if_empty,
    remove_run_folder,
)
from tracking.spool import SpoolInUse

__all__ = ["TrackedRun", "tracked_run"]

log = logging.getLogger("layerscope")


@dataclass(frozen=True)
class TrackedRun:
    """An open run: its sink, and the folder where its records lie until they have been sent."""

    run: MlflowRun
    sink: MlflowSink
    directory: Path

    def log_model(self, model: nn.Module, example: npt.NDArray[np.float32]) -> None:
        """Log a model, ready to serve; see tracking/mlflow_model.py for what it takes.

        Where the store cannot take it now, it is saved beside the records and sent with them. A
        model that cannot be exported is left out, with a warning: the run has been trained.
        """
        try:
            log_model(self.run, model, example)
        except Exception as error:
            self._save_model(model, example, reason(error))

    def _save_model(self, model: nn.Module, example: npt.NDArray[np.float32], why: str) -> None:
        folder = self.directory / "model"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            log_model(None, model, example, folder)
        except Exception as error:
            log.warning("the run has no model: it cannot be exported (%s)", first_line(error))
            return
        log.warning("the model waits with the records (%s)", why)
        self.sink.artifact(folder)


@contextmanager
def tracked_run(experiment: str, name: str = "", *, patience: float = 60.0) -> Iterator[TrackedRun]:
    """Open a run; end it as FINISHED, FAILED or KILLED (interrupted), with the reason in a tag.

    The run's folder is removed once everything has arrived; ``patience`` is how many seconds to
    wait for a store that is away. Raises BadTracking: the store or the records folder cannot be
    used, and no run has been opened; RecordsWaiting: the work is done but not all of it is sent.
    """
    run, sink, directory = _open(experiment, name, patience)
    sink.tags({"layerscope.version": __version__, "layerscope.state": "running"})
    try:
        yield TrackedRun(run, sink, directory)
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        sink.tags({"layerscope.state": status.lower(), "layerscope.reason": why_ended(error)})
        try:
            _finish(sink, status, directory)
        except RecordsWaiting as waiting:  # the failure that ended the run is the one to raise
            log.warning("%s", waiting)
        raise
    sink.tags({"layerscope.state": "finished"})
    _finish(sink, "FINISHED", directory)


def why_ended(error: BaseException) -> str:
    """One line for the tag layerscope.reason."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (SIGINT)"
    if isinstance(error, SystemExit):
        return f"stopped ({_signal_name(error.code)})"
    text = first_line(error)
    return text if isinstance(error, LayerscopeError) else f"{type(error).__name__}: {text}"


def _signal_name(code: object) -> str:
    """SIGTERM for 143: shells and this project's command add 128 to a signal's number."""
    numbers = {128 + number: number.name for number in signal.Signals}
    return numbers.get(code, f"exit {code}") if isinstance(code, int) else f"exit {code}"


def _open(experiment: str, name: str, patience: float) -> tuple[MlflowRun, MlflowSink, Path]:
    check_records_root()
    try:
        run = MlflowRun.open(experiment, name)
    except BaseException:
        remove_if_empty(records_root())
        raise
    directory = records_root() / run.run_id
    try:
        return run, MlflowSink(run, directory, patience=patience), directory
    except SpoolInUse:
        raise  # the run is another process's
    except BaseException:
        run.end("FAILED", time.time())
        raise


def _finish(sink: MlflowSink, status: str, directory: Path) -> None:
    sink.finish(status)
    remove_run_folder(directory)
