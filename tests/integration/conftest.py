"""A real MLflow server, in processes of its own that a test can stop, kill and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__: list[str] = []

# Far more than it takes, for busy machines.
PATIENCE = 120.0


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Processes:
    """A command that answers HTTP at ``url``, with all the processes it starts."""

    def __init__(self, command: list[str], url: str, log: Path) -> None:
        self.command = command
        self.url = url
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether its first process lives, stopped or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes: SIGSTOP and SIGCONT, for instance."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End all of its processes at once."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait(PATIENCE)
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture(scope="session")
def server_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """The session's server: SQLite behind it, artifacts through it."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    processes = Processes(command, f"http://127.0.0.1:{port}", folder / "log.txt")
    try:
        processes.start()
        yield processes
    finally:
        processes.kill()


@pytest.fixture
def server(
    server_processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Processes]:
    """The server as this test's store; whatever the test does to it, it answers again after."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server_processes.url)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.chdir(tmp_path)
    yield server_processes
    if server_processes.running:
        server_processes.signal(signal.SIGCONT)
    else:
        server_processes.start()


@pytest.fixture
def patience() -> float:
    """How many seconds a test waits for what must come, at the most."""
    return PATIENCE
