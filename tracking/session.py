"""A run in MLflow from its opening to its end, whatever ends it."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from tracking import __version__
from tracking.errors import RecordsWaiting
from tracking.mlflow_model import log_model
from tracking.mlflow_run import MlflowRun
from tracking.mlflow_sink import MlflowSink

__all__ = ["TrackedRun", "records_root", "tracked_run"]

log = logging.getLogger("layerscope")


@dataclass(frozen=True)
class TrackedRun:
    """An open run: its sink, and the folder where its records lie until they have been sent."""

    run: MlflowRun
    sink: MlflowSink
    directory: Path

    def log_model(self, model: nn.Module, example: npt.NDArray[np.float32]) -> None:
        """Log a model, ready to serve.

        Where the store cannot take it now, it is saved beside the records and sent with them.
        """
        try:
            log_model(self.run, model, example)
        except Exception as error:
            log.warning("the model waits with the records: %s", first_line(error))
            folder = self.directory / "model"
            shutil.rmtree(folder, ignore_errors=True)
            log_model(None, model, example, folder)
            self.sink.artifact(folder)


def records_root() -> Path:
    """Where runs keep what has not been sent yet: .layerscope, or LAYERSCOPE_RECORDS."""
    return Path(os.environ.get("LAYERSCOPE_RECORDS", ".layerscope"))


@contextmanager
def tracked_run(experiment: str, name: str = "") -> Iterator[TrackedRun]:
    """Open a run; end it as FINISHED, FAILED or KILLED (interrupted), with the reason in a tag.

    The run's folder is removed once everything has arrived. Raises BadTracking: the store cannot be
    used, and nothing has been opened; RecordsWaiting: the work is done but not all of it is sent.
    """
    run = MlflowRun.open(experiment, name)
    directory = records_root() / run.run_id
    sink = MlflowSink(run, directory / "spool")
    sink.tags({"layerscope.version": __version__, "layerscope.state": "running"})
    try:
        yield TrackedRun(run, sink, directory)
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        sink.tags({"layerscope.state": status.lower(), "layerscope.reason": first_line(error)})
        try:
            _finish(sink, status, directory)
        except RecordsWaiting as waiting:  # the failure that ended the run is the one to raise
            log.warning("%s", waiting)
        raise
    sink.tags({"layerscope.state": "finished"})
    _finish(sink, "FINISHED", directory)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _finish(sink: MlflowSink, status: str, directory: Path) -> None:
    sink.finish(status)
    shutil.rmtree(directory)
