"""Runs that are over and whose last records are still on their way to MLflow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tracking.errors import RecordsWaiting

__all__ = ["Deliveries"]


class Deliveries:
    """Waits for MLflow in threads, so that the next run of the process can begin meanwhile.

    ``most`` is how many runs may wait at a time; one more waits for the oldest. A context manager:
    leaving it waits for all of them. Raises RecordsWaiting then, if some have not arrived.
    """

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._threads: list[threading.Thread] = []
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

    def add(self, deliver: Callable[[], None]) -> None:
        """Call ``deliver``, which returns once all has arrived, in a thread."""
        while len(self._threads) >= self._most:
            self._threads.pop(0).join()
        thread = threading.Thread(target=self._run, args=(deliver,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self) -> None:
        """Until everything has arrived or been given up."""
        while self._threads:
            self._threads[0].join()
            self._threads.pop(0)
        failures, self._failures = self._failures, []
        if failures:
            more = f" (and {len(failures) - 1} more runs)" if len(failures) > 1 else ""
            raise RecordsWaiting(f"{failures[0]}{more}") from failures[0]

    def _run(self, deliver: Callable[[], None]) -> None:
        try:
            deliver()
        except Exception as error:
            self._failures.append(error)
