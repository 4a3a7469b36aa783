"""The process that takes records from spools to MLflow, beside the one that trains.

MLflow's client and SQL store are Python: in the training process they would hold the interpreter's
lock for milliseconds at a time, and a step that waits for it waits in the middle of its work. This
process has a lock of its own and a low priority.

Orders come as lines of JSON on standard input, news goes back to the file descriptor that is the
first argument; see uploads.py for the other end. When the input ends, whoever trained has gone:
what is still open was not ended in order, and is delivered and ended as `layerscope replay` does
it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from tracking.errors import LayerscopeError
from tracking.mlflow_runs.courier import Courier
from tracking.mlflow_runs.replay import replay_all

__all__ = ["Uploader", "main"]

NICENESS = 10
"""Behind the training, but not so far that a busy machine would keep whoever waits for the end."""


class Uploader:
    """Carries out orders: one courier for each spool, in a thread of its own."""

    def __init__(self, news: TextIO) -> None:
        self._news = news
        self._lock = threading.Lock()
        self._couriers: dict[int, Courier] = {}

    def obey(self, order: dict[str, Any]) -> None:
        """``open`` a folder as an upload, ``hurry`` (nobody trains any more), ``close`` it (deliver
        the rest) or ``give_up`` on it.
        """
        upload = order["upload"]
        if order["order"] == "open":
            # What the user has set since this process was started: tokens, time limits.
            os.environ.update(order["environment"])
            folder = Path(order["folder"])
            courier = Courier(folder, order["interval"], order["patience"], self._teller(upload))
            self._couriers[upload] = courier
            courier.start()
            return
        known = self._couriers.get(upload)
        if known is None:  # it has ended meanwhile
            return
        match order["order"]:
            case "hurry":
                known.hurry()
            case "close":
                known.close()
            case "give_up":
                known.give_up(order["grace"])

    def end(self) -> None:
        """No more orders will come."""
        for courier in list(self._couriers.values()):
            courier.abandon()
            # One whose last records were on their way, too: nobody else would send them.
            if courier.folder.exists():
                with suppress(LayerscopeError):  # a store that is away; they wait
                    list(replay_all(courier.folder))

    def _teller(self, upload: int) -> Callable[..., None]:
        def tell(**news: Any) -> None:
            line = json.dumps({"upload": upload, **news})
            with self._lock:
                try:
                    self._news.write(f"{line}\n")
                    self._news.flush()
                except BrokenPipeError:
                    pass  # nobody is left to hear it
            if news.get("ended"):
                self._couriers.pop(upload, None)

        return tell


def main() -> None:
    """Obey until the input ends."""
    os.nice(NICENESS)
    # The terminal is another process group's; some stop whoever writes to it all the same.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.ERROR)
    uploader = Uploader(os.fdopen(int(sys.argv[1]), "w", encoding="utf-8"))
    try:
        for line in sys.stdin:
            uploader.obey(json.loads(line))
    except json.JSONDecodeError:
        pass  # whoever trained was killed in the middle of an order
    finally:
        uploader.end()


if __name__ == "__main__":
    main()
