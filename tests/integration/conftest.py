"""Real MLflow servers, in processes of their own that a test can stop, kill and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

__all__: list[str] = []

# Far more than it takes, for busy machines.
PATIENCE = 120.0


class Processes:
    """A command that listens at a port of its own, with all the processes it starts."""

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._command = [*command, "--port", str(port)]
        self._log = log
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether its first process lives, stopped or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self.running, self._log.read_text()[-2000:]
            assert time.monotonic() < deadline, self._log.read_text()[-2000:]
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
def processes() -> type[Processes]:
    """The class, for tests that start servers of other kinds."""
    return Processes


@pytest.fixture(scope="session")
def _session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """The session's tracking server: SQLite behind it, artifacts through it."""
    folder = tmp_path_factory.mktemp("server")
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    # Its runners of background jobs would start seven more processes.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = Processes(command, folder / "log.txt", environment)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(
    _session_server: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Processes]:
    """The server as this test's store; whatever the test does to it, it answers again after."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _session_server.url)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.chdir(tmp_path)
    yield _session_server
    if _session_server.running:
        _session_server.signal(signal.SIGCONT)
    else:
        _session_server.start()


@pytest.fixture
def patience() -> float:
    """How many seconds a test waits for what must come, at the most."""
    return PATIENCE


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the pictures out of a study's report; they take longer than a small study's trials."""
    monkeypatch.setattr("search.reports.report.save_plots", lambda shot, folder: ([], {}))
