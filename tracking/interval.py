"""When to record: every N steps, or as often as a share of the time allows; and thinning."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from tracking.errors import BadOption

__all__ = ["Interval", "Thinning", "parse_every"]

LEAST = 0.1
"""Of the share asked for, what recording gets however much is done in every step: layers must be
looked at from time to time."""


class Interval:
    """Decides which steps are recorded.

    ``every`` is N (steps 0, N, 2N, ...) or ``auto:SHARE``. The automatic interval starts at 1 and
    follows the measured cost: recording one step costs r seconds, what is done in every step a, and
    a step without either takes s. With every n-th step recorded that is
    (n a + r) / (n (s + a) + r) of the time, so n = ceil(r (1 - SHARE) / (s SHARE - a (1 - SHARE))).
    Where ``a`` alone takes nearly all of the share, or more, recording still gets a tenth of it,
    and both together take more than the share. The first recorded step is left out of the measure:
    kernels are compiled and memory is allocated in it. With ``adapts=False`` it only measures:
    several ranks set ``steps`` by agreement.

    Raises BadOption: ``every`` is neither.
    """

    def __init__(self, every: str | int, *, adapts: bool = True) -> None:
        try:
            self.steps, self._share = parse_every(str(every))
        except ValueError as error:
            raise BadOption(f"every={every}: {error}") from None
        self._adapts = adapts
        self._next = 0
        self._warm = False
        self._recording = _Average()
        self._always = _Average()
        self._bare = _Average()

    @property
    def fixed(self) -> bool:
        """Whether the interval is a number that the user gave."""
        return not self._share

    def state_dict(self) -> dict[str, int]:
        """The interval as it is, and the step that is recorded next."""
        return {"steps": self.steps, "next": self._next}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from what ``state_dict`` gave; what recording costs is measured anew."""
        self.steps, self._next = state["steps"], state["next"]

    def due(self, step: int) -> bool:
        """Whether this step is to be recorded."""
        return step >= self._next

    def end_step(self, step: int, seconds: float, recording: float, always: float = 0.0) -> None:
        """Learn from a finished step: its whole duration, the part that recording it took, and what
        is done in every step.
        """
        if self._warm and not self.fixed:
            self._bare.add(max(seconds - recording - always, 0.0))
            self._always.add(always)
            if recording:
                self._recording.add(recording)
            if self._adapts:
                self.steps = self.adapted()
        self._warm = self._warm or recording > 0
        if self.due(step):
            self._next = (step // self.steps + 1) * self.steps if self.fixed else step + self.steps

    def adapted(self) -> int:
        """The number of steps that the cost measured so far calls for."""
        if self.fixed or not (self._bare.value and self._recording.value):
            return self.steps
        share, allowed = self._share, self._bare.value * self._share
        left = max(allowed - self._always.value * (1 - share), allowed * LEAST)
        return max(1, math.ceil(self._recording.value * (1 - share) / left))


def parse_every(every: str) -> tuple[int, float]:
    """The number of steps and the share of the time that ``every`` means; a share of 0 is none.

    Raises ValueError: it is neither a whole number from 1 nor auto:SHARE.
    """
    whole = int(every) if re.fullmatch(r"[0-9]+", every) else 0
    auto = re.fullmatch(r"auto:([0-9]*\.?[0-9]+)", every)
    share = float(auto[1]) if auto else 0.0
    if whole or 0 < share < 1:
        return whole or 1, share
    raise ValueError(
        "allowed: a whole number from 1, or auto:SHARE with SHARE between 0 and 1, "
        "such as auto:0.05"
    )


class _Average:
    """A running mean that forgets: follows a changing speed, is not thrown by the first step."""

    def __init__(self) -> None:
        self.value = 0.0
        self._weight = 0.0

    def add(self, x: float) -> None:
        self._weight = 0.9 * self._weight + 0.1
        self.value += (x - self.value) * 0.1 / self._weight


class Thinning:
    """Chooses about ``points`` of the records for a chart; the artifacts keep them all.

    ``expected`` is the number of steps of the run. Where it is not known, every record is shown at
    first, and the stride doubles each time the records have doubled beyond ``points``, so that n
    records leave about points (1 + log2(n / points) / 2).
    """

    def __init__(self, expected: int | None, points: int = 1000) -> None:
        self._stride = math.ceil(expected / points) if expected else 0
        self._points = points
        self._seen = 0
        self._next = 0

    def state_dict(self) -> dict[str, int]:
        """How many records there were, and the step that is shown next."""
        return {"seen": self._seen, "next": self._next}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from what ``state_dict`` gave."""
        self._seen, self._next = state["seen"], state["next"]

    def keep(self, step: int) -> bool:
        """Whether the record of this step is to be shown; steps come in ascending order."""
        if self._stride:
            due = step >= self._next
            if due:
                self._next = (step // self._stride + 1) * self._stride
            return due
        stride = 1 << (self._seen // self._points).bit_length()
        self._seen += 1
        return (self._seen - 1) % stride == 0
