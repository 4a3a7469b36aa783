"""Takes one spool to one run, tries again while the store is away, and tells how it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from tracking.mlflow_delivery import Delivery
from tracking.mlflow_run import MlflowRun
from tracking.reasons import reason
from tracking.spool import SpoolReader

__all__ = ["Courier"]

LONGEST_PAUSE = 15.0


class Courier(threading.Thread):
    """Delivers the spool in ``folder/spool`` every ``interval`` seconds.

    After ``close`` it delivers the rest, but gives up ``patience`` seconds after the last success.
    ``tell`` is called with ``away=reason`` when the store stops answering, ``away=""`` when it
    answers again, and at the end with ``ended=True`` and ``refusals``.
    """

    def __init__(
        self, folder: Path, interval: float, patience: float, tell: Callable[..., None]
    ) -> None:
        super().__init__(name=f"courier-{folder.name}", daemon=True)
        self._spool = SpoolReader(folder / "spool")
        self._interval = interval
        self._patience = patience
        self._tell = tell
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._closing_since = 0.0
        self._delivery: Delivery | None = None
        self._away = ""

    def close(self) -> None:
        """Nothing more will be written: deliver what is there, and end."""
        self._closing_since = time.monotonic()
        self._closing.set()

    def give_up(self) -> None:
        """End after the request that is on its way."""
        self._given_up.set()
        self._closing.set()

    def abandon(self) -> bool:
        """End likewise; whether it was at work without having been told to end."""
        unfinished = self.is_alive() and not self._closing.is_set()
        self.give_up()
        self.join()
        return unfinished

    def run(self) -> None:
        pause = self._interval
        while not self._given_up.is_set():
            closing = self._closing.is_set()
            try:
                arrived = self._send()
            except Exception as error:
                self._note_away(reason(error))
                if closing and self._hopeless():
                    break
                (self._given_up if closing else self._closing).wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._note_away("")
            pause = self._interval
            if closing and not arrived:
                break
            self._closing.wait(self._interval)
        self._tell(ended=True, refusals=self._delivery.refusals() if self._delivery else "")

    def _send(self) -> bool:
        if self._delivery is None:
            target = self._spool.target
            run = MlflowRun.find(target["tracking_uri"], target["run_id"])
            self._delivery = Delivery(self._spool, run)
        return self._delivery.send()

    def _hopeless(self) -> bool:
        last = self._delivery.last_success if self._delivery else 0.0
        return time.monotonic() - max(last, self._closing_since) > self._patience

    def _note_away(self, why: str) -> None:
        if bool(why) != bool(self._away):
            self._tell(away=why)
        self._away = why
