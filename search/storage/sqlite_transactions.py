"""When SQLite's transactions lock: at their beginning, unless they only read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Connection, Engine, event

__all__ = ["lock_early", "reading"]

# Whether the transaction that this thread begins only reads.
READS = ContextVar("READS", default=False)


@contextmanager
def reading() -> Iterator[None]:
    """Within it, this thread's transactions only read, and keep no writer out."""
    token = READS.set(True)
    try:
        yield
    finally:
        READS.reset(token)


def lock_early(engine: Engine) -> None:
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
