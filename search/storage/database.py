"""The database of the studies, opened: reachable, of the right kind, or one line that says why not.

The queue of trials itself is in trial_queue.py; what makes it safe in queue_storage.py.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import _CachedStorage
from optuna.trial import FrozenTrial
from sqlalchemy import URL, Connection, NullPool, create_engine, inspect, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from search.storage.queue_storage import QueueStorage
from search.storage.url import DEFAULT_STORAGE, StorageUrl, mask_password
from tracking.errors import BadTracking
from tracking.reasons import one_line, reason

__all__ = ["NoStudies", "answering", "open_storage", "storage_reason"]

log = logging.getLogger("layerscope")

Retry = Callable[[Study, FrozenTrial], None]

FIRST_ANSWER = 10  # seconds that someone waits for it
LOCKED = 60  # seconds that a SQLite transaction waits for the others
ATTEMPTS = 5  # processes that create the tables at the same time fail in each other's way
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433, "oracle": 1521}
DRIVERS = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "cx_Oracle": "cx-oracle",
}


class NoStudies(BadTracking):
    """The database is empty."""


def open_storage(
    url: StorageUrl, *, heartbeat: int = 20, retry: Retry | None = None, create: bool = True
) -> _CachedStorage:
    """Open the database of the studies.

    Args:
        url: which database.
        heartbeat: seconds between a running trial's signs of life. After three times as long
            without one, another worker fails the trial and queues a copy (MAX_RETRIES times).
        retry: called after that with the study and the dead trial, whose user attributes "reason"
            and "retried_as" (absent when it is not retried) say what happened. Its errors are
            logged.
        create: whether a SQLite file, or tables, are made where there are none.

    Returns:
        a storage whose trials all come from the queue: QueueEmpty is raised when none waits.

    Raises:
        NoStudies: it is empty, and is not to be filled; BadTracking: it cannot be reached within 10
        seconds, or is no storage of studies.
    """
    try:
        _check(make_url(url.secret), create)
        return _CachedStorage(_opened(url, heartbeat, retry))
    except Exception as error:
        kind = NoStudies if isinstance(error, NoStudies) else BadTracking
        place = _place(make_url(url.secret))
        text = f"storage {url} ({place}) cannot be used: {storage_reason(error)}"
    # Raised out here: the error that led to it may hold the URL, and is not to be carried along.
    raise kind(mask_password(text, url))


@contextmanager
def answering(url: StorageUrl) -> Iterator[None]:
    """What is done with an open storage. Raises BadTracking: the database answers no more."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        place = _place(make_url(url.secret))
        text = f"storage {url} ({place}) answers no more: {storage_reason(error)}"
        raise BadTracking(mask_password(text, url)) from None


def _opened(url: StorageUrl, heartbeat: int, retry: Retry | None) -> QueueStorage:
    """The storage. Raises what SQLAlchemy and Optuna raise."""
    options = {"connect_args": _connect_args(make_url(url.secret), LOCKED), "pool_pre_ping": True}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with warnings.catch_warnings():
                # Heartbeats have been "experimental" since Optuna 2.9.
                warnings.simplefilter("ignore", ExperimentalWarning)
                return QueueStorage(
                    url.secret,
                    engine_kwargs=options,
                    heartbeat_interval=heartbeat,
                    grace_period=3 * heartbeat,
                    heartbeat_stale_trial_callback=partial(_retried, retry),
                )
        except (SQLAlchemyError, StorageInternalError):
            if attempt == ATTEMPTS:
                raise
            time.sleep(random.uniform(0.05, 0.5))
    raise AssertionError("the last attempt returns or raises")


def _retried(retry: Retry | None, study: Study, trial: FrozenTrial) -> None:
    log.warning("trial %d: %s", trial.number, trial.user_attrs.get("reason"))
    try:
        if retry is not None:
            retry(study, trial)
    except Exception as error:
        log.warning("trial %d: what follows its end failed: %s", trial.number, one_line(error))


def _check(url: URL, create: bool) -> None:
    """Reach the database once, with nothing made yet. Raises what the driver raises."""
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite:
        _check_file(Path(str(url.database)), create)
    engine = create_engine(url, poolclass=NullPool, connect_args=_connect_args(url, FIRST_ANSWER))
    try:
        with engine.connect() as connection:
            _check_tables(connection, create)
            if sqlite:
                connection.rollback()
                _prepare_file(connection)
    finally:
        engine.dispose()


def _check_file(path: Path, create: bool) -> None:
    if str(path).startswith("file:"):
        return  # a URI, which SQLite reads by itself
    if path.is_dir():
        raise BadTracking("it is a folder; name a file in it")
    if not path.parent.is_dir():
        raise BadTracking("its folder does not exist; make it first")
    if not create and not path.exists():
        raise BadTracking("there is no such file; check --storage and OPTUNA_STORAGE")


def _check_tables(connection: Connection, create: bool) -> None:
    """Optuna would write its tables into MLflow's database, and fail after that."""
    tables = set(inspect(connection).get_table_names())
    if not create and not tables:
        raise NoStudies("it has no studies; check --storage and OPTUNA_STORAGE")
    if "alembic_version" in tables and "version_info" not in tables:
        raise BadTracking(
            "it is the database of another program, such as MLflow; "
            f"give the studies one of their own, such as {DEFAULT_STORAGE}"
        )


def _prepare_file(connection: Connection) -> None:
    """See that it can be written, and let readers and a writer work at the same time."""
    cursor = connection.connection.cursor()
    cursor.execute("BEGIN IMMEDIATE")
    # BEGIN alone does not fail where the file is read-only; this writes what it has read.
    [(version,)] = cursor.execute("PRAGMA user_version").fetchall()
    cursor.execute(f"PRAGMA user_version={version}")
    cursor.execute("ROLLBACK")
    try:
        cursor.execute("PRAGMA journal_mode=WAL").fetchall()
    except sqlite3.OperationalError as error:
        log.info("no write-ahead log on this file system, studies work without: %s", error)


def _connect_args(url: URL, seconds: int) -> dict[str, Any]:
    """What keeps a driver from waiting for ever, unless the URL says how long it may."""
    backend = url.get_backend_name()
    if backend == "sqlite":
        args = {"timeout": seconds}
    elif backend in {"postgresql", "mysql", "mariadb"}:
        args = {"connect_timeout": FIRST_ANSWER}
    else:
        args = {}
    return {name: value for name, value in args.items() if name not in url.query}


def _place(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return f"file {url.database}"
    host = url.host or url.query.get("host") or "localhost"
    port = url.port or url.query.get("port") or PORTS.get(url.get_backend_name(), "default")
    return f"host {host}, port {port}"


def storage_reason(error: BaseException) -> str:
    """Why a database fails, in one line, which may hold the password of its URL."""
    if isinstance(error, BadTracking):
        return str(error)
    if isinstance(error, ImportError):
        missing = error.name or "psycopg"
        package = DRIVERS.get(missing, missing)
        return f'its driver {missing} is not installed; run: pip install "{package}"'
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, DBAPIError) and error.orig is not None:
        return f"{reason(error.orig)}; {_advice(error.orig)}"
    return reason(error)


def _advice(error: BaseException) -> str:
    if isinstance(error, sqlite3.Error):
        if "locked" in str(error):
            return "another program holds it; close that program"
        return f"name a SQLite file that can be written, such as {DEFAULT_STORAGE}"
    return "check that its server runs, and OPTUNA_STORAGE"
