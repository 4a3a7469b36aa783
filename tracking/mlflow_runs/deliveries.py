"""Runs that are over and whose last records are still on their way to MLflow."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from tracking.errors import RecordsWaiting
from tracking.shown_commands import replay_command

__all__ = ["Deliveries"]

log = logging.getLogger("layerscope")

LOOK = 0.1
UNNOTICED = 20.0
"""Seconds of waiting that need no explanation; what delivers has to start first."""


class _UnderWay(NamedTuple):
    thread: threading.Thread
    give_up: Callable[[], None]


class Deliveries:
    """Waits for MLflow in threads, so that the next run of the process can begin meanwhile.

    ``most`` is how many runs may wait at a time; one more waits for the oldest. A context manager:
    leaving it waits for all of them. Where ``asked`` says meanwhile that somebody wants an end,
    they are given up, which leaves a store that answers a moment.
    Raises RecordsWaiting then, if some have not arrived.
    """

    def __init__(self, most: int = 4, asked: Callable[[], bool] = lambda: False) -> None:
        self._most = most
        self._asked = asked
        self._under_way: list[_UnderWay] = []
        self._failures: list[Exception] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except RecordsWaiting as waiting:
            if error is None:
                raise
            error.add_note(str(waiting))

    def add(self, deliver: Callable[[], None], give_up: Callable[[], None] = lambda: None) -> None:
        """Call ``deliver`` in a thread; it returns when all has arrived, or after ``give_up``."""
        while len(self._under_way) >= self._most:
            self._under_way.pop(0).thread.join()
        thread = threading.Thread(target=self._run, args=(deliver,), daemon=True)
        self._under_way.append(_UnderWay(thread, give_up))
        thread.start()

    def wait(self) -> None:
        """Until everything has arrived or been given up."""
        began, told = time.monotonic(), False
        patient = not self._asked()  # who has asked before this wait has not asked to end it
        while self._under_way:
            self._under_way[0].thread.join(LOOK)
            if not self._under_way[0].thread.is_alive():
                self._under_way.pop(0)
            elif patient and self._asked():
                patient = False
                for one in self._under_way:
                    one.give_up()
            elif patient and not told and time.monotonic() - began > UNNOTICED:
                told = True
                log.info("waiting for records to arrive in MLflow; Ctrl-C ends the wait")
        failures, self._failures = self._failures, []
        if failures:
            first, others = failures[0], len(failures) - 1
            more = f"; {others} more runs wait too: {replay_command()} sends all of them"
            raise RecordsWaiting(f"{first}{more if others else ''}") from first

    def _run(self, deliver: Callable[[], None]) -> None:
        try:
            deliver()
        except Exception as error:
            self._failures.append(error)
