"""Pace: which steps of a run are recorded, by the interval asked for and what recording costs."""

from __future__ import annotations

import time
from collections.abc import Callable

from tracking.interval import Interval

__all__ = ["LOOK_EVERY", "Pace"]

LOOK_EVERY = 16
"""Recorded steps after which a watcher is shown what they left, so that it can act in time."""

BESIDE = 1.8
"""Seconds that recording takes in all for each one in functions of ours: torch calls the hooks,
what follows finds the processor's caches cold, and another process sends what was recorded.
Measured: docs/decisions/0011-one-pace-for-a-run.md.
"""


class Pace:
    """Which steps are recorded, and the host's time that recording them takes.

    ``every`` is that of Interval. The recorders of one run share a Pace, so that they record the
    same steps, and an automatic interval counts what all of them take; whoever made it ends its
    steps. Recorders add the seconds that they take to ``recording`` or to ``always``.
    ``adapts=False``: several ranks set ``interval.steps`` to what they agree on.

    Raises BadOption: ``every`` cannot be used.
    """

    def __init__(self, every: str | int, *, adapts: bool = True) -> None:
        self._every = str(every)
        self.interval = Interval(every, adapts=adapts)
        self.due: Callable[[int], bool] = self.interval.due
        """Whether a step is to be recorded."""
        self.recording = 0.0
        """Seconds that went into recording the step under way."""
        self.always = 0.0
        """Seconds of it that every step takes, recorded or not."""
        self._evaluated = False
        self._began = time.perf_counter()

    def __str__(self) -> str:
        return self._every

    def before_forward(self, training: bool) -> None:
        """The model is about to be called, in training mode or for evaluation."""
        if not training:
            self._evaluated = True
        elif self._evaluated:
            # What was spent on evaluation is no part of the step that comes now.
            self._evaluated = False
            self.begin()

    def begin(self) -> None:
        """A step begins now; whatever was done before is no part of it."""
        self._began = time.perf_counter()
        self.recording = self.always = 0.0

    def end_step(self, step: int) -> None:
        """The step is over."""
        seconds = time.perf_counter() - self._began
        self.interval.end_step(step, seconds, BESIDE * self.recording, BESIDE * self.always)
        self.begin()
