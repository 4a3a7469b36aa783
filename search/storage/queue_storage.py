"""Optuna's database storage as a queue of trials, for workers that may die at any time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from optuna import Study, Trial
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from search.storage.sqlite_transactions import lock_early, reading
from search.storage.trial_queue import copy_of
from tracking.reasons import one_line, reason

__all__ = ["QueueEmpty", "QueueStorage", "batched_writes", "give_back"]

log = logging.getLogger("layerscope")

Write = Callable[[Session], None]

# What this thread has to write at the end of `batched_writes`, if it is within it.
WRITES: ContextVar[list[tuple[QueueStorage, Write]] | None] = ContextVar("WRITES", default=None)


class QueueEmpty(Exception):
    """A worker asked for a trial and none waits."""


class QueueStorage(RDBStorage):
    """A storage whose trials are only made from a template, and so only by who fills the queue.

    Private methods of Optuna 5 are used where it has no public ones: its cache calls
    `_create_new_trial`, and a dead worker's trial must be failed and queued again at once.
    """

    def __init__(self, url: str, **options: Any) -> None:
        # Optuna formats its URLs; a brace in a path or password is to stay one.
        super().__init__(url.replace("{", "{{").replace("}", "}}"), **options)
        self._buried: set[int] = set()
        lock_early(self.engine)

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        lock_early(self.engine)

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        if template_trial is None:
            raise QueueEmpty
        return super()._create_new_trial(study_id, template_trial)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        """As Optuna's, but a trial that runs has a heartbeat from the start.

        Optuna's first one comes after the trial has been taken; a trial whose worker dies before
        it would run for ever.
        """
        if trial_id in self._buried:
            self._buried.discard(trial_id)
            return True
        if state == TrialState.RUNNING and self.heartbeat_interval is not None:
            self.record_heartbeat(trial_id)
        return super().set_trial_state_values(trial_id, state, values)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's, but may wait for others: see ``batched_writes``."""
        self._set(lambda session: self._note(session, trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's, but may wait for others: see ``batched_writes``."""
        kind = models.TrialSystemAttributeModel
        self._set(
            lambda session: self._set_trial_attr_without_commit(session, kind, trial_id, key, value)
        )

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        given = (trial_id, param_name, param_value_internal, distribution, previous_distribution)
        self._set(lambda session: self._set_trial_param_without_commit(session, *given))

    def _set(self, write: Write) -> None:
        pending = WRITES.get()
        if pending is None:
            self.write([write])
        else:
            pending.append((self, write))

    def write(self, writes: list[Write]) -> None:
        """Carry out writes in one transaction. Raises what Optuna raises for each."""
        # Optuna lets a value go that somebody else has set meanwhile, but not several with it.
        alone = len(writes) == 1
        with _create_scoped_session(self.scoped_session, ignore_integrity_error=alone) as session:
            for write in writes:
                write(session)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As Optuna's, without keeping writers out."""
        with reading():
            return super().get_trial(trial_id)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """As Optuna's, without keeping writers out, and without what its cache has anyway.

        The cache asks for the unfinished trials that it has, ``included_trial_ids``, and for later
        ones, before each trial that is begun. As long as a trial waits it stays as it is, and a
        queue may be long.
        """
        with reading():
            if included_trial_ids and states is None:
                included_trial_ids, trial_id_greater_than = self._changed(
                    study_id, included_trial_ids, trial_id_greater_than
                )
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)

    def _changed(self, study_id: int, cached: set[int], after: int) -> tuple[set[int], int]:
        """Of the cached trials and of those ``after`` an id: which to read, and the last one."""
        trial_id, state = models.TrialModel.trial_id, models.TrialModel.state
        with _create_scoped_session(self.scoped_session) as session:
            query = select(trial_id, state).where(
                models.TrialModel.study_id == study_id, trial_id >= min(cached)
            )
            found = session.execute(query).all()
        waiting = {number for number, state in found if state == TrialState.WAITING}
        wanted = {number for number, _ in found if number > after or number in cached}
        return wanted - (cached & waiting), max((number for number, _ in found), default=after)

    def record_heartbeat(self, trial_id: int) -> None:
        """As Optuna's, but a heartbeat that fails is not the last: its thread goes on."""
        try:
            super().record_heartbeat(trial_id)
        except (StorageInternalError, SQLAlchemyError) as error:
            log.warning("a heartbeat could not be stored: %s", reason(error.__cause__ or error))

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Trials whose worker has died, all failed and queued again by now.

        Optuna would fail them and then call a function that queues them; a worker killed between
        the two would lose a trial. It calls that function for what is returned here.
        """
        with reading():
            stale = super()._get_stale_trial_ids(study_id)
        self._buried = {trial_id for trial_id in stale if self._bury(study_id, trial_id)}
        return sorted(self._buried)

    def _bury(self, study_id: int, trial_id: int) -> bool:
        """Fail a trial and queue its copy in one transaction; whether it was this process."""
        try:
            with self._locked(study_id, trial_id) as (session, row):
                if row.state != TrialState.RUNNING:
                    return False
                self._queue_again(session, study_id, row, self._reason(), counted=True)
                row.state = TrialState.FAIL
                row.datetime_complete = datetime.now()
        except SQLAlchemyError as error:
            log.warning("a dead worker's trial has to wait for its retry: %s", one_line(error))
            return False
        return True

    def give_back(self, study_id: int, trial_id: int, why: str) -> None:
        """Queue a copy of a trial that runs and is cut short; it is none of its retries.

        In one transaction, as a trial that dies between two would come back twice: once by the
        copy, and once more when its worker shows no sign of life. The trial itself is for its
        worker to end. Raises UpdateFinishedTrialError: somebody else has.
        """
        with self._locked(study_id, trial_id) as (session, row):
            self._queue_again(session, study_id, row, why, counted=False)

    @contextmanager
    def _locked(self, study_id: int, trial_id: int) -> Iterator[tuple[Session, models.TrialModel]]:
        """A transaction in which no trial is queued, and this one is not changed, by others."""
        with self.scoped_session() as session, session.begin():
            # The study's lock first, as Optuna has it: trials are numbered under it.
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            yield session, models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)

    def _queue_again(
        self, session: Session, study_id: int, row: models.TrialModel, why: str, *, counted: bool
    ) -> None:
        """Note why a trial ends, queue a copy unless there is to be none, and note its number."""
        trial = self._build_frozen_trial_from_trial_model(row)
        trial_id = trial._trial_id  # noqa: SLF001
        self._note(session, trial_id, "reason", why)
        copy = copy_of(trial, counted=counted)
        if copy is not None:
            queued = self._get_prepared_new_trial(study_id, copy, session)
            self._note(session, trial_id, "retried_as", queued.number)

    def _note(self, session: Session, trial_id: int, key: str, value: Any) -> None:
        attributes = models.TrialUserAttributeModel
        self._set_trial_attr_without_commit(session, attributes, trial_id, key, value)

    def _reason(self) -> str:
        return f"its worker died (no sign of life for {self.grace_period} s)"


def give_back(study: Study, trial: Trial, why: str) -> None:
    """Put a trial that is cut short back into its study's queue: see ``QueueStorage.give_back``."""
    backend = study._storage._backend  # type: ignore[attr-defined]  # noqa: SLF001
    assert isinstance(backend, QueueStorage)
    backend.give_back(study._study_id, trial._trial_id, why)  # noqa: SLF001


@contextmanager
def batched_writes() -> Iterator[None]:
    """What is set of a trial within it, parameters and attributes, is written at its end.

    A transaction for each would take longer than choosing them does, and in SQLite each would keep
    the other workers waiting. Raises, at the end, what the storage raises.
    """
    pending: list[tuple[QueueStorage, Write]] = []
    token = WRITES.set(pending)
    try:
        yield
    finally:
        WRITES.reset(token)
        for storage in dict.fromkeys(storage for storage, _ in pending):
            storage.write([write for whose, write in pending if whose is storage])
