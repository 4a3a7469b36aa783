"""Watch: how a study goes, told while it goes: a line for each trial, a bar on a terminal."""

from __future__ import annotations

import logging
import math
import threading
import time
from types import TracebackType
from typing import Self

from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from search.config import StudyConfig
from search.outcome import Outcome
from search.reports.trial_lines import trial_line
from search.storage.database import storage_reason
from tracking.records import Metric
from tracking.sink import Sink

__all__ = ["Watch"]

log = logging.getLogger("layerscope")

INTERVAL = 1.0
OPEN = ("waiting", "running")


class Watch:
    """Looks at the study's trials every second, from a thread, while it is entered.

    Each trial that has ended is a line on the console, and a point of ``trial/value`` and
    ``best/value`` in the study's run. It sees the trials of all workers, those of other machines
    too. ``compares``: it is a comparison, in which no trial is the best one.
    """

    def __init__(
        self,
        study: Study,
        options: StudyConfig,
        console: Console,
        sink: Sink,
        *,
        compares: bool = False,
    ) -> None:
        self._study = study
        self._options = options
        self._console = console
        self._compares = compares
        self._sink = sink
        self._stop = threading.Event()
        self._away = False
        self._thread = threading.Thread(target=self._run, name="layerscope-watch", daemon=True)
        self._outcome = Outcome.of(study)
        self._told = {n for n, state in self._outcome.states.items() if state not in OPEN}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("trials", total=options.trials, shown="")

    def __enter__(self) -> Self:
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self._progress.stop()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        try:
            self._tell(Outcome.of(self._study))
            self._update()
            self._away = False
        except SystemExit:
            pass  # rich's, where nobody reads the output any more
        except Exception as error:  # of the storage: to look again is all that can be done
            if not self._away:
                log.warning("the study cannot be looked at (%s)", storage_reason(error))
            self._away = True

    def _tell(self, now: Outcome) -> None:
        """Of the trials that have ended; most looks find that nothing has changed."""
        if _states(now) == _states(self._outcome):
            return
        for trial, state in zip(now.trials, now.states.values(), strict=True):
            if state in (*OPEN, "cancelled") or trial.number in self._told:
                continue
            self._told.add(trial.number)
            top = now.best is not None and trial.number == now.best.number
            mark = top and not self._compares
            self._log(trial, now.best)
            self._console.print(trial_line(self._study, trial, state, top=mark))
        self._outcome = now

    def _log(self, trial: FrozenTrial, top: FrozenTrial | None) -> None:
        now = time.time()
        # A pruned trial's value is its last score, which may be a figure of another kind.
        own = trial.values if trial.state == TrialState.COMPLETE else None
        best = top.values if top and not self._compares else None
        points = {"trial/value": own, "best/value": best}
        self._sink.metrics(
            [
                Metric(key, values[0], trial.number, now)
                for key, values in points.items()
                if values and math.isfinite(values[0])
            ]
        )

    def _update(self) -> None:
        number = self._outcome.counts
        left = self._outcome.time_left(max(self._options.workers, number.running, 1))
        parts = [f"{number.running} running", f"{number.pruned} pruned"]
        if left is not None:
            parts.append(f"about {_duration(left)} left")
        self._progress.update(self._task, completed=number.done, shown="  ".join(parts))


def _states(outcome: Outcome) -> list[TrialState]:
    """A trial that has ended stays as it is, and one that runs changes nothing that is told."""
    return [trial.state for trial in outcome.trials]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{rest:02}"
