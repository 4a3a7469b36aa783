"""WorkerPool: a study's worker processes on this machine."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import search
from search.storage.url import StorageUrl
from search.workers.stopping import Stopping
from tracking.errors import RecordsWaiting, TrainingFailed
from tracking.shown_commands import replay_command

__all__ = ["WorkerPool"]

log = logging.getLogger("layerscope")

ROOT = Path(search.__file__).resolve().parents[1]
POLL = 0.2
LIVES = 4
"""Workers that may be started in the place of each one: killed ones are replaced."""
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGHUP)
"""Exit codes of a worker that somebody has stopped, and nobody here."""
PATIENCE = 120.0
"""Seconds that workers have to end their trials in order, once they have been told to."""


class WorkerPool:
    """Starts ``size`` workers for a study, replaces those that are killed, and ends them all.

    The storage's URL goes to them in their environment, where a list of processes does not show it.
    ``local``: the options of RunConfig that are this machine's own.
    """

    def __init__(self, name: str, url: StorageUrl, size: int, local: Mapping[str, Any]) -> None:
        self._command = [
            # -P: a file in the working directory must not be taken for a library.
            *(sys.executable, "-P", "-m", "search.workers.pool_process"),
            json.dumps({"name": name, "local": {k: str(v) for k, v in local.items()}}),
        ]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        threads = max((os.cpu_count() or 1) // size, 1)
        self._environment = {
            "OMP_NUM_THREADS": str(threads),
            **os.environ,
            **url.environment,
            "PYTHONPATH": paths,
        }
        # The run that `mlflow run` has begun is the study's, and no trial's.
        self._environment.pop("MLFLOW_RUN_ID", None)
        self._size = size
        self._lives = size * LIVES
        self._waiting = False
        self._members: list[subprocess.Popen[bytes]] = []

    def work(self) -> None:
        """Until every worker has ended, which they do when no trial is left.

        Raises KeyboardInterrupt or SystemExit, when all have ended their trials in order, after a
        signal; TrainingFailed: a worker has given up, and said why; RecordsWaiting: see there.
        """
        with Stopping() as stopping:
            try:
                for _ in range(self._size):
                    self._members.append(self._start())
                while self._members and not stopping.asked:
                    self._look()
                    time.sleep(POLL)
            finally:
                self._end()
        stopping.raise_again()
        if self._waiting:
            raise RecordsWaiting(
                "all trials are done, but records of some still wait; send them with: "
                f"{replay_command()}"
            )

    def _start(self) -> subprocess.Popen[bytes]:
        # A session of its own: a terminal's Ctrl-C is for this process, which passes it on once.
        # Its input ends when this process does, however that ends: a worker then stops too.
        return subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _look(self) -> None:
        for member in [one for one in self._members if one.poll() is not None]:
            self._members.remove(member)
            _close(member)
            code = member.returncode
            if code < 0 or code in STOPPED:
                self._replace(member.pid, abs(code) % 128)
            elif code == RecordsWaiting.exit_code:
                self._waiting = True
            elif code:
                raise TrainingFailed(
                    f"a worker has given up (exit code {code}; its reason stands above)"
                )

    def _replace(self, pid: int, number: int) -> None:
        name = signal.Signals(number).name
        if self._lives == 0:
            raise TrainingFailed(f"workers are killed again and again, the last one by {name}")
        self._lives -= 1
        log.warning("worker %d was ended (%s); another one takes its place", pid, name)
        self._members.append(self._start())

    def _end(self) -> None:
        """Tell those that are left to stop, wait, and kill who does not."""
        for member in self._members:
            with suppress(ProcessLookupError):
                member.send_signal(signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        for member in self._members:
            try:
                member.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                log.warning("worker %d did not stop and is killed", member.pid)
                member.kill()
                member.wait()
            _close(member)


def _close(member: subprocess.Popen[bytes]) -> None:
    assert member.stdin is not None
    member.stdin.close()
