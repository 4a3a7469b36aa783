"""A worker: takes trials from a study's queue, one at a time, until none is left."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import optuna
from optuna import Study, Trial
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from search.reports.trial_text import end_of
from search.storage.database import storage_reason
from search.storage.queue_storage import QueueEmpty, give_back
from search.storage.trial_queue import taken_over
from search.trials.objective import NotBegun
from search.workers.stopping import Stopping
from tracking.errors import TrainingFailed

__all__ = ["Worker", "wait_for_others"]

log = logging.getLogger("layerscope")

MOST_FAILURES = 3
"""In a row; after so many it is not the trials' parameters that are wrong."""
LONGEST_NAP = 1.0


class Worker:
    """Works on a study in this process, until its queue is empty and no trial runs anywhere.

    While others still run, it waits: the trial of a worker that dies comes back into the queue.
    ``tell`` is given each trial that this worker has ended.
    ``objective`` lets ``stopping`` interrupt it where that does no harm. On SIGINT or SIGTERM the
    trial that runs fails and its copy goes back into the queue. Raises KeyboardInterrupt or
    SystemExit then; TrainingFailed: one trial after the other fails, or MLflow stays away.
    """

    def __init__(
        self,
        study: Study,
        objective: Callable[[Trial], float | tuple[float, ...]],
        heartbeat: int,
        stopping: Stopping,
        tell: Callable[[FrozenTrial], None] | None = None,
    ) -> None:
        self._study = study
        self._objective = objective
        self._stopping = stopping
        self._tell = tell
        self._nap = min(float(heartbeat), LONGEST_NAP)
        self._current: int | None = None
        self._hindrance: NotBegun | None = None
        self._failed: list[FrozenTrial] = []  # since the last one that did not fail
        self._told = False

    def run(self) -> None:
        """Work until nothing is left."""
        while not self._stopping.asked and self._next():
            self._look_at_failures()
        self._stopping.raise_again()

    def _next(self) -> bool:
        """Do a trial, or wait a while for one; whether there may be more."""
        self._current = None
        try:
            self._optimize()
        except QueueEmpty:
            return self._wait()
        except KeyboardInterrupt:
            pass  # the trial is back in the queue, and the signal is noted
        except Exception as error:
            if not taken_over(error):
                _raise_if_of_the_storage(error)
                raise
            log.warning(
                "trial %s was given to another worker: this one had shown no sign of life",
                self._current,
            )
        return True

    def _optimize(self) -> None:
        with _quiet():
            self._study.optimize(
                self._given_back, n_trials=1, catch=(Exception,), callbacks=[self._ended]
            )
        if self._hindrance is not None:  # Optuna has caught it
            raise self._hindrance

    def _given_back(self, trial: Trial) -> float | tuple[float, ...]:
        """The objective; a trial that is cut short goes back into the queue."""
        self._current = trial.number
        try:
            return self._objective(trial)
        except KeyboardInterrupt:
            give_back(self._study, trial, "interrupted")
            raise
        except NotBegun as hindrance:
            give_back(self._study, trial, str(hindrance))
            self._hindrance = hindrance
            raise

    def _ended(self, _study: Study, trial: FrozenTrial) -> None:
        """Optuna calls this where a trial has ended here, and so not where it was taken over."""
        if self._hindrance is not None:
            return
        if trial.state == TrialState.FAIL:
            self._failed.append(trial)
        else:
            self._failed.clear()
        if self._tell is not None:
            self._tell(trial)

    def _wait(self) -> bool:
        """For the trials of others; whether there are any."""
        left = _unfinished(self._study)
        if left and all(trial.state == TrialState.RUNNING for trial in left):
            self._tell_once(left)
            self._stopping.sleep(self._nap)
        return bool(left)

    def _tell_once(self, left: list[FrozenTrial]) -> None:
        if not self._told:
            numbers = ", ".join(str(trial.number) for trial in left)
            log.info(
                "waiting for the trials that run elsewhere (%s); if a worker has died, its trial "
                "is tried again after three heartbeats",
                numbers,
            )
        self._told = True

    def _look_at_failures(self) -> None:
        if len(self._failed) >= MOST_FAILURES:
            raise TrainingFailed(
                f"{len(self._failed)} trials failed one after the other, the last one with: "
                f"{end_of(self._failed[-1]) or 'nothing was noted'}"
            )


def _raise_if_of_the_storage(error: BaseException) -> None:
    """Raises TrainingFailed; Optuna 5.0 may hide what failed behind an error of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (StorageInternalError, SQLAlchemyError)):
            why = storage_reason(cause)
            raise TrainingFailed(f"the storage of the study failed: {why}") from error
        cause = cause.__cause__ or cause.__context__


def wait_for_others(study: Study, heartbeat: int) -> None:
    """Until other processes have done every trial; those of dead ones go back into the queue.

    Raises KeyboardInterrupt or SystemExit after a signal.
    """
    with Stopping() as stopping:
        while not stopping.asked and _unfinished(study):
            stopping.sleep(min(float(heartbeat), LONGEST_NAP))
    stopping.raise_again()


def _unfinished(study: Study) -> list[FrozenTrial]:
    """Trials that run or wait, after those of dead workers have been given back."""
    with _quiet():
        fail_stale_trials(study)
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))


@contextmanager
def _quiet() -> Iterator[None]:
    """What Optuna says every time: heartbeats and groups of parameters are experimental, and the
    Gaussian process takes the endless seconds of what does not fit into memory for the longest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Clip non-finite values")
        yield


optuna.logging.set_verbosity(optuna.logging.CRITICAL)
