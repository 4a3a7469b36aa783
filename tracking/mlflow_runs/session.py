"""A run in MLflow from its opening to its end, whatever ends it."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tracking import __version__
from tracking.errors import LayerscopeError, RecordsWaiting, TrialStopped
from tracking.mlflow_runs.deliveries import Deliveries
from tracking.mlflow_runs.model import log_model, register_model
from tracking.mlflow_runs.run import REASON, MlflowRun
from tracking.mlflow_runs.run_folders import (
    check_records_root,
    records_root,
    remove_if_empty,
    remove_run_folder,
)
from tracking.mlflow_runs.sink import MlflowSink
from tracking.reasons import first_line, reason
from tracking.signals import held_back
from tracking.spool import SpoolInUse

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

__all__ = [
    "TrackedRun",
    "check_tracking",
    "ended_as",
    "tracked",
    "tracked_run",
    "why_ended",
]

log = logging.getLogger("layerscope")


@dataclass(frozen=True)
class TrackedRun:
    """An open run: its sink, and the folder where its records lie until they have been sent."""

    run: MlflowRun
    sink: MlflowSink
    directory: Path

    def deliver(self) -> None:
        """Wait until all has arrived in MLflow, and remove the folder.

        Raises as ``MlflowSink.close``; where RecordsWaiting, the folder stays.
        """
        try:
            self.sink.close()
        except (KeyboardInterrupt, SystemExit):  # although all has arrived
            remove_run_folder(self.directory)
            raise
        remove_run_folder(self.directory)

    def log_model(
        self,
        make: Callable[[], tuple[nn.Module, npt.NDArray[np.float32]]],
        register: str = "",
    ) -> int | None:
        """Log a model, ready to serve; see tracking/mlflow_runs/model.py for what it takes.

        ``make`` gives the model and an example of its input. Where the store cannot take it now, it
        is saved beside the records and sent with them. A model that cannot be made or exported is
        left out, with a warning: the run has been trained.

        ``register`` names a model in MLflow's registry (see ``check_model_name``) whose next
        version this one becomes. Gives that version; None where nothing was registered, with a
        warning that says what to do where it was to be.
        """
        try:
            model, example = make()
        except Exception as error:
            _warn_no_model(error)
            return None
        try:
            model_id = log_model(self.run, model, example)
        except Exception as error:
            if self._save_model(model, example, reason(error)) and register:
                self._warn_unregistered(register, "it has to arrive in MLflow first")
            return None
        return self._register(model_id, register) if model_id and register else None

    def _save_model(self, model: nn.Module, example: npt.NDArray[np.float32], why: str) -> bool:
        folder = self.directory / "model"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            log_model(None, model, example, folder)
        except Exception as error:
            _warn_no_model(error)
            return False
        log.warning("the model waits with the records (%s)", why)
        self.sink.artifact(folder)
        return True

    def _register(self, model_id: str, name: str) -> int | None:
        try:
            return register_model(self.run, model_id, name)
        except Exception as error:
            self._warn_unregistered(name, reason(error))
            return None

    def _warn_unregistered(self, name: str, why: str) -> None:
        log.warning(
            "the model is not registered as %s (%s); to do it later: "
            "mlflow.register_model('runs:/%s/model', %r)",
            *(name, why, self.run.run_id, name),
        )


def _warn_no_model(error: Exception) -> None:
    log.warning("the run has no model: it cannot be exported (%s)", first_line(error))


def check_tracking() -> None:
    """Raise BadTracking where no run could be opened and recorded here, before anything is made."""
    check_records_root()
    try:
        MlflowRun.check_store()
    finally:
        remove_if_empty(records_root())


@contextmanager
def tracked_run(experiment: str, name: str = "", *, patience: float = 60.0) -> Iterator[TrackedRun]:
    """A new run of an experiment, or the one that `mlflow run` has begun; see ``tracked``.

    Raises BadTracking: the store or the records folder cannot be used, and no run has been opened.
    """
    with tracked(partial(MlflowRun.open, experiment, name), patience=patience) as opened:
        yield opened


@contextmanager
def tracked(
    begin: Callable[[], MlflowRun],
    *,
    patience: float = 60.0,
    deliveries: Deliveries | None = None,
) -> Iterator[TrackedRun]:
    """Open a run; end it as FINISHED, FAILED or KILLED (interrupted), with the reason in a tag.

    ``begin`` gives the run. Its folder is removed once everything has arrived; ``patience`` is how
    many seconds to wait for a store that is away. With ``deliveries`` the wait is theirs.
    Raises what ``begin`` raises; BadTracking: the records folder cannot be used, and no run has
    been opened; RecordsWaiting: the work is done but not all of it is sent.
    """
    opened: TrackedRun | None = None
    try:
        with held_back():  # a run that has just been opened must be known here, or nobody ends it
            opened = _open(begin, patience)
        opened.sink.tags({"layerscope.version": __version__, "layerscope.state": "running"})
        yield opened
        _end(opened.sink, "finished")
    except BaseException as error:
        if opened is None:
            raise
        try:
            _end(opened.sink, ended_as(error), {REASON: why_ended(error)})
        finally:  # also after a signal that came meanwhile
            _deliver_what_there_is(opened, deliveries)
        raise
    _deliver(opened, deliveries)


def ended_as(error: BaseException) -> str:
    """failed, or killed: by a signal, or as a trial that was not worth going on with."""
    own_fault = isinstance(error, Exception) and not isinstance(error, TrialStopped)
    return "failed" if own_fault else "killed"


def why_ended(error: BaseException) -> str:
    """One line for the tag layerscope.reason."""
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted ({error.args[0] if error.args else 'SIGINT'})"
    if isinstance(error, SystemExit):
        return f"stopped ({_signal_name(error.code)})"
    text = first_line(error)
    return text if isinstance(error, LayerscopeError) else f"{type(error).__name__}: {text}"


def _signal_name(code: object) -> str:
    """SIGTERM for 143: shells and this project's command add 128 to a signal's number."""
    numbers = {128 + number: number.name for number in signal.Signals}
    return numbers.get(code, f"exit {code}") if isinstance(code, int) else f"exit {code}"


def _open(begin: Callable[[], MlflowRun], patience: float) -> TrackedRun:
    check_records_root()
    try:
        run = begin()
    except BaseException:
        remove_if_empty(records_root())
        raise
    directory = records_root() / run.run_id
    try:
        return TrackedRun(run, MlflowSink(run, directory, patience=patience), directory)
    except SpoolInUse:
        raise  # the run is another process's
    except BaseException:
        run.end("FAILED", time.time())
        raise


def _end(sink: MlflowSink, state: str, tags: Mapping[str, str] | None = None) -> None:
    """Write down how the run has ended, unless that stands there already."""
    with held_back():  # a run that is ended half-way counts as running
        if not sink.ended:
            sink.tags({"layerscope.state": state, **(tags or {})})
            sink.end(state.upper())


def _deliver_what_there_is(opened: TrackedRun, deliveries: Deliveries | None) -> None:
    if not opened.sink.ended:  # the disk has not taken that; replay ends the run
        return
    try:
        _deliver(opened, deliveries)
    except RecordsWaiting as waiting:  # the failure that ended the run is the one to raise
        log.warning("%s", waiting)


def _deliver(opened: TrackedRun, deliveries: Deliveries | None) -> None:
    if deliveries is None:
        opened.deliver()
    else:
        deliveries.add(opened.deliver, opened.sink.give_up)
