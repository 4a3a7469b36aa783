"""Optuna's database storage as a queue of trials, for workers that may die at any time."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, event, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from search.trial_queue import copy_of
from tracking.reasons import one_line, reason

__all__ = ["QueueEmpty", "QueueStorage", "together"]

log = logging.getLogger("layerscope")

Write = Callable[[Session], None]

# Whether the transaction that this thread begins only reads.
READS = ContextVar("READS", default=False)
# What this thread has to write at the end of `together`, if it is within it.
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
        _lock_early(self.engine)

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        _lock_early(self.engine)

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
        """As Optuna's, but may wait for others: see ``together``."""
        self._set(lambda session: self._note(session, trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's, but may wait for others: see ``together``."""
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
        with _reading():
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
        with _reading():
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
        with _reading():
            stale = super()._get_stale_trial_ids(study_id)
        self._buried = {trial_id for trial_id in stale if self._bury(study_id, trial_id)}
        return sorted(self._buried)

    def _bury(self, study_id: int, trial_id: int) -> bool:
        """Fail a trial and queue its copy in one transaction; whether it was this process."""
        try:
            with self.scoped_session() as session, session.begin():
                # The study's lock first, as Optuna has it: trials are numbered under it.
                models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
                row = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
                if row.state != TrialState.RUNNING:
                    return False
                self._note(session, trial_id, "reason", self._reason())
                copy = copy_of(self._build_frozen_trial_from_trial_model(row))
                if copy is not None:
                    queued = self._get_prepared_new_trial(study_id, copy, session)
                    self._note(session, trial_id, "retried_as", queued.number)
                row.state = TrialState.FAIL
                row.datetime_complete = datetime.now()
        except SQLAlchemyError as error:
            log.warning("a dead worker's trial has to wait for its retry: %s", one_line(error))
            return False
        return True

    def _note(self, session: Session, trial_id: int, key: str, value: Any) -> None:
        attributes = models.TrialUserAttributeModel
        self._set_trial_attr_without_commit(session, attributes, trial_id, key, value)

    def _reason(self) -> str:
        return f"its worker died (no sign of life for {self.grace_period} s)"


@contextmanager
def together() -> Iterator[None]:
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


@contextmanager
def _reading() -> Iterator[None]:
    token = READS.set(True)
    try:
        yield
    finally:
        READS.reset(token)


def _lock_early(engine: Engine) -> None:
    """Make SQLite take the write lock when a transaction begins; nothing for other databases.

    SQLite has no SELECT ... FOR UPDATE: two workers that read first and then write could both take
    the same trial. Reading all trials takes long, and writers need not wait for it.
    https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#pysqlite-serializable
    """
    if engine.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        # Safe with a write-ahead log: a power cut may take back the last commits, no more.
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if READS.get() else "BEGIN IMMEDIATE")

    # Connections from before would not know of it.
    engine.dispose()
