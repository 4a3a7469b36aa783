"""Takes one spool to one run, tries again while the store is away, and tells how it goes."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from tracking.mlflow_runs.delivery import Delivery
from tracking.mlflow_runs.run import MlflowRun
from tracking.reasons import reason
from tracking.spool import SpoolReader

__all__ = ["Courier"]

LONGEST_PAUSE = 15.0
"""Seconds: while a store is away, and after a request that took it long."""
LEAST_SHARE = 0.0025
"""Of a core's time. An idle thread has 3/1027 of a core that one other thread keeps busy, which may
be the training's, and is over when somebody waits; with less, others want the processor too.
"""
PROBE = bytes(1 << 21)
REST = 50.0
"""Pause beside the work done before it, so that all of it takes a fiftieth of a core."""


class Courier:
    """Delivers the spool in ``folder/spool``, which it looks into every ``interval`` seconds.

    After ``close`` it delivers the rest, but gives up ``patience`` seconds after the last success.
    ``tell`` is called with ``away=reason`` when the store stops answering, ``away=""`` when it
    answers again, and at the end with ``ended=True``, ``refusals`` and ``returns``.

    Until ``hurry`` it works little, and only when nobody else wants the processor: it is a thread
    that Linux schedules as idle, since a low priority alone would still keep a core of the
    training's, all of whose threads then wait. After a request it rests, for 15 seconds at most.
    Such a thread cannot become an ordinary one again, so what comes after the training, for whose
    end somebody waits, is delivered by another. So is everything where a machine is never idle: a
    thread that gets no time would keep the interpreter's lock, and the store's, for minutes.
    """

    def __init__(
        self, folder: Path, interval: float, patience: float, tell: Callable[..., None]
    ) -> None:
        self.folder = folder
        self._spool = SpoolReader(folder / "spool")
        self._interval = interval
        self._patience = patience
        self._tell = tell
        self._hurried = threading.Event()
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._last_moment = 0.0
        self._closing_since = 0.0
        self._delivery: Delivery | None = None
        self._away = ""
        self._background = threading.Thread(target=self._meanwhile, daemon=True)
        self._last = threading.Thread(target=self._afterwards, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._background.start()

    def hurry(self) -> None:
        """The training is over: deliver what waits as fast as it goes, while more is written."""
        if not self._hurried.is_set():
            self._hurried.set()
            self._last.start()

    def close(self) -> None:
        """Nothing more will be written: deliver what is there, and end."""
        self._closing_since = time.monotonic()
        self._closing.set()
        self.hurry()

    def give_up(self, grace: float = 0.0) -> None:
        """End after the request that is on its way; a store that answers has ``grace`` seconds."""
        self._last_moment = time.monotonic() + grace
        self._given_up.set()

    def abandon(self) -> None:
        """End likewise, and wait for it, whether it has been told to close or not."""
        self.give_up()
        if not self._closing.is_set():
            self.close()
        self._last.join()

    def _meanwhile(self) -> None:
        """As long as the training goes on."""
        idle = threading.Thread(target=self._now_and_then, args=(True,), daemon=True)
        idle.start()
        idle.join()
        self._now_and_then(False)

    def _now_and_then(self, when_idle: bool) -> None:
        """Until the training is over, or there turns out to be no idle time."""
        if when_idle:
            _work_when_idle()
        pause = self._interval
        while not self._hurried.wait(pause):
            if when_idle and _starves():
                return
            began = time.thread_time()
            # What waits after the first seconds of a run would take the whole of a short one.
            failed = self._fails(partial(self._rests, began + self._interval / REST, self._sent))
            rest = 2 * pause if failed else REST * (time.thread_time() - began)
            pause = min(max(self._interval, rest), LONGEST_PAUSE)

    def _rests(self, since: float, sent: int) -> bool:
        """Whether a little has been sent, and it is time for a rest."""
        # Reaching the store may take longer than all that is allowed, and yet something has to be
        # sent each time.
        little = self._sent > sent and time.thread_time() > since
        return self._hurried.is_set() or little

    def _afterwards(self) -> None:
        """Until the spool is closed and all has been sent, or there is no hope of it."""
        self._background.join()
        pause = 0.0
        try:
            while not self._closing.wait(pause):
                sent = self._sent
                failed = self._fails(self._ends) and self._sent == sent
                rest = 2 * pause if failed else 0.0
                pause = min(max(self._interval, rest), LONGEST_PAUSE)
            pause = self._interval
            while not self._ends() and self._fails(self._ends) and not self._hopeless():
                self._given_up.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:  # whoever waits must hear of the end, whatever it is
            done = self._delivery
            refusals, returns = (done.refusals(), done.returns()) if done else ("", "")
            self._tell(ended=True, refusals=refusals, returns=returns)

    def _ends(self) -> bool:
        """Whether whoever waits has had enough."""
        late = bool(self._away) or time.monotonic() >= self._last_moment
        return self._given_up.is_set() and late

    def _fails(self, enough: Callable[[], bool]) -> bool:
        """Send what waits now, until that is enough; whether the store is away."""
        try:
            while self._send(enough) and not enough():
                pass
        except Exception as error:
            self._note_away(reason(error))
            return True
        self._note_away("")
        return False

    def _send(self, enough: Callable[[], bool]) -> bool:
        """Send a stretch, or what is enough of it; False where nothing waits."""
        if self._delivery is None:
            target = self._spool.target
            run = MlflowRun.find(target["tracking_uri"], target["run_id"])
            self._delivery = Delivery(self._spool, run)
        return self._delivery.send(enough)

    @property
    def _sent(self) -> int:
        return self._delivery.sent if self._delivery else 0

    def _hopeless(self) -> bool:
        last = self._delivery.last_success if self._delivery else 0.0
        return time.monotonic() - max(last, self._closing_since) > self._patience

    def _note_away(self, why: str) -> None:
        if why != self._away:
            self._tell(away=why)
        self._away = why


def _starves() -> bool:
    """Whether the calling thread hardly gets any time; found out without holding any lock."""
    began, used = time.monotonic(), time.thread_time()
    hashlib.sha256(PROBE)  # which lets go of the interpreter's lock
    used = time.thread_time() - used
    return used < LEAST_SHARE * (time.monotonic() - began)


def _work_when_idle() -> None:
    """Have the calling thread run only where a core has nothing else to do (Linux)."""
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):  # not allowed in some sandboxes, and not necessary
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
