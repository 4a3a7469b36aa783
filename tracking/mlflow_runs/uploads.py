"""The training process's end of the uploading process (tracking/mlflow_runs/uploader.py).

A process has one uploader, which is started with the first run and serves later ones too: starting
it takes seconds, most of which MLflow's imports take.
"""

from __future__ import annotations

import atexit
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import tracking
from tracking.signals import ENDING

__all__ = ["GRACE", "Upload", "start_upload", "start_uploader"]

log = logging.getLogger("layerscope")

ROOT = Path(tracking.__file__).resolve().parents[1]
GONE = "the uploading process has ended"
GRACE = 5.0
"""Seconds in which what is nearly done may still arrive, once somebody wants an end."""


class Upload:
    """A folder's spool on its way to MLflow, as the training process sees it."""

    def __init__(self, uploader: _Uploader, number: int, folder: Path) -> None:
        self._uploader = uploader
        self._number = number
        self._folder = folder
        self._ended = threading.Event()
        self.away = ""
        """Why the store does not answer, or empty."""
        self.refusals = ""
        """After the end: a line about what the store would not take, or empty."""
        self.returns = ""
        """After the end: a few words about what something before the store did not, or empty."""

    def hurry(self) -> None:
        """Deliver at once what is there: no training needs the processor."""
        self._order("hurry")

    def close(self) -> None:
        """Nothing more will be written; the rest is to be delivered."""
        self._order("close")

    def give_up(self) -> None:
        """Deliver no more than what is on its way, or what takes a store that answers a moment."""
        self._order("give_up", grace=GRACE)

    def wait(self, seconds: float | None = None) -> bool:
        """Until it has ended, whether all has arrived or not; False where the time was up."""
        return self._ended.wait(seconds)

    def hear(self, news: Mapping[str, Any]) -> None:
        """Take news from the uploader."""
        if news.get("away") and not self.away:
            log.warning("MLflow is away (%s); records wait in %s", news["away"], self._folder)
        self.away = news.get("away", self.away)
        self.refusals = news.get("refusals", self.refusals)
        self.returns = news.get("returns", self.returns)
        if news.get("ended"):
            self._ended.set()

    def _order(self, order: str, **more: float) -> None:
        if not self._uploader.tell({"order": order, "upload": self._number, **more}):
            self.hear({"away": GONE, "ended": True})


class _Uploader:
    """The process, its orders and its news."""

    def __init__(self) -> None:
        # By number: a folder may be given up and opened again, while its old courier still ends.
        self._uploads: dict[int, Upload] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        # Not its standard output, to which any library may print.
        ear, mouth = os.pipe()
        self._news = os.fdopen(ear, encoding="utf-8")
        with _blocked():
            self._process = _started(mouth)
        os.close(mouth)
        self.owner = os.getpid()
        self._ear = threading.Thread(target=self._listen, name="layerscope-uploads", daemon=True)
        self._ear.start()
        atexit.register(self._exit)

    @property
    def usable(self) -> bool:
        """Whether it lives and is this process's own; a forked process has inherited it."""
        alive = self._process.poll() is None and self._ear.is_alive()
        return alive and self.owner == os.getpid()

    def take(self, folder: Path, interval: float, patience: float) -> Upload:
        """Begin to deliver a folder's spool."""
        number = next(self._numbers)
        upload = self._uploads[number] = Upload(self, number, folder)
        begun = self.tell(
            {
                "order": "open",
                "upload": number,
                "folder": str(folder),
                "interval": interval,
                "patience": patience,
                "environment": dict(os.environ),
            }
        )
        if not begun:
            upload.hear({"away": GONE, "ended": True})
        return upload

    def tell(self, order: Mapping[str, Any]) -> bool:
        """Give an order; False where nobody is there to take it."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            with self._lock:
                pipe.write(json.dumps(order) + "\n")
                pipe.flush()
        except (BrokenPipeError, ValueError):  # the latter of a pipe that is closed
            return False
        return True

    def _listen(self) -> None:
        try:
            for line in self._news:
                news = json.loads(line)
                self._uploads[news["upload"]].hear(news)
                if news.get("ended"):
                    del self._uploads[news["upload"]]
        except json.JSONDecodeError:
            pass  # a line that its end cut off
        finally:
            # Whatever ended it: nobody is to wait for what will not come.
            for upload in list(self._uploads.values()):
                upload.hear({"away": GONE, "ended": True})

    def _exit(self) -> None:
        # One more Ctrl-C asks for what is happening, and would be a page of text.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._end()

    def _end(self) -> None:
        """When this process ends in order: the uploader has nothing left to do, and goes too."""
        if self.owner != os.getpid():
            return
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # of one that has died
            self._process.stdin.close()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            # A request is on its way to a store that does not answer.
            self._process.kill()
            self._process.wait()
        self._ear.join()
        self._news.close()


def _started(mouth: int) -> subprocess.Popen[str]:
    """The process, which gives its news to a file descriptor."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        # -P: a file in the working directory must not be taken for a library.
        [sys.executable, "-P", "-m", "tracking.mlflow_runs.uploader", str(mouth)],
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        pass_fds=[mouth],
        # A terminal's Ctrl-C and hang-up are for the one that trains. A session of its own would
        # spare it them too, but Linux divides cores evenly among sessions (autogroup): its low
        # priority would then count for nothing.
        process_group=0,
    )


@contextmanager
def _blocked() -> Iterator[None]:
    """A process started within never hears of signals to end; it ends when its input does.

    Whoever stops a whole service or job sends them to all of its processes, and what trains still
    ends its runs then. Blocked, and not ignored: this holds from the process's first instruction.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_current: list[_Uploader] = []
_starting = threading.Lock()


def start_uploader() -> None:
    """Start the process, where there is none yet: before imports of its own, a command may do so.

    What it imports meanwhile then takes a core that is idle, and not one of the training's.
    """
    with _starting:
        if not (_current and _current[0].usable):
            _current[:] = [_Uploader()]


def start_upload(folder: Path, interval: float, patience: float) -> Upload:
    """Begin to deliver what is and will be in ``folder/spool``; returns at once.

    ``interval`` is seconds between looks into the spool, ``patience`` how long after the last
    success the uploader goes on trying, once it has been told to close.
    """
    start_uploader()
    return _current[0].take(folder, interval, patience)
