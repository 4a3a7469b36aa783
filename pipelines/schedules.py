"""Schedules: learning rate and momentum as a pure function of the step.

The same function trains and plots; its only state is the step. A run moves between three
levels, each a pair of learning rate and momentum:

    low     lr_max / div         momentum_max     where a rise begins
    peak    lr_max               momentum_min
    end     lr_max / final_div   momentum_max     where a decay ends

A schedule is a row of phases that lead from one level to the next, on a cosine or a straight line.
Both values follow the same line, so momentum always mirrors the learning rate (Smith 2018,
arXiv:1803.09820, section 4.3). docs/schedules.md has the formulas.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pipelines.config import RunConfig

__all__ = ["Phase", "Schedule", "ScheduleValues", "make_schedule"]

Curve = Callable[[float], float]


class ScheduleValues(NamedTuple):
    """What the optimizer uses in one step."""

    lr: float
    momentum: float
    """SGD's momentum, or Adam's beta1."""


def _straight(share: float) -> float:
    return share


def _cosine(share: float) -> float:
    """Half a cosine from 0 to 1, level at both ends (Loshchilov and Hutter, arXiv:1608.03983)."""
    return (1 - math.cos(math.pi * share)) / 2


def _between(first: float, last: float, share: float) -> float:
    """Linear interpolation that meets both ends exactly and never leaves their interval."""
    if share < 0.5:
        return first + (last - first) * share
    return last - (last - first) * (1 - share)


@dataclass(frozen=True)
class Phase:
    """A stretch of the run, in steps (fractions allowed), from one level to another."""

    start: float
    end: float
    first: ScheduleValues
    last: ScheduleValues
    curve: Curve

    def at(self, position: float) -> ScheduleValues:
        """Values at a position within the phase; a phase without length stays at its first."""
        length = self.end - self.start
        share = self.curve((position - self.start) / length) if length > 0 else 0.0
        return ScheduleValues(
            _between(self.first.lr, self.last.lr, share),
            _between(self.first.momentum, self.last.momentum, share),
        )


@dataclass(frozen=True)
class Schedule:
    """A pure function ``step -> ScheduleValues``, for steps 0 to ``total_steps - 1``.

    ``phases`` adjoin and are in order. They begin again every ``period`` steps.
    """

    total_steps: int
    phases: tuple[Phase, ...]
    period: float = math.inf

    def __call__(self, step: int) -> ScheduleValues:
        """Learning rate and momentum of a step.

        Raises ValueError: the step is outside the run.
        """
        if not 0 <= step < self.total_steps:
            raise ValueError(
                f"step={step} is outside the schedule; allowed: 0 to {self.total_steps - 1}"
            )
        position = step % self.period
        # A phase's end belongs to the next phase: a restart is at its peak at once.
        index = bisect_right(self.phases, position, key=lambda phase: phase.end)
        return self.phases[min(index, len(self.phases) - 1)].at(position)


@dataclass(frozen=True)
class _Plan:
    """What a schedule is built from: the run's length, its levels, the options of its shape."""

    steps: int
    low: ScheduleValues
    peak: ScheduleValues
    end: ScheduleValues
    pct_start: float
    cycles: int
    cycle_mult: float

    @property
    def last_step(self) -> int:
        return self.steps - 1

    @property
    def turn(self) -> float:
        """Where the first phase ends: torch's OneCycleLR counts from step 0 and so subtracts one.

        Without room for a first phase this is step 0, and the run starts with the second one.
        """
        return max(self.pct_start * self.steps - 1, 0.0)

    def two_phases(self, first: ScheduleValues, curve: Curve) -> Schedule:
        """From a level to the peak until the turn, then to the end level at the last step."""
        rise = Phase(0.0, self.turn, first, self.peak, curve)
        fall = Phase(self.turn, self.last_step, self.peak, self.end, curve)
        return Schedule(self.steps, (rise, fall))


def _one_cycle(plan: _Plan) -> Schedule:
    return plan.two_phases(plan.low, _cosine)


def _one_cycle_linear(plan: _Plan) -> Schedule:
    """Up, down in as many steps, and on to the end level (Smith, arXiv:1803.09820)."""
    if plan.turn == 0:  # no rise, so there is no fall of the same length either
        return plan.two_phases(plan.peak, _straight)
    phases = (
        Phase(0.0, plan.turn, plan.low, plan.peak, _straight),
        Phase(plan.turn, 2 * plan.turn, plan.peak, plan.low, _straight),
        Phase(2 * plan.turn, plan.last_step, plan.low, plan.end, _straight),
    )
    return Schedule(plan.steps, phases)


def _triangular(plan: _Plan) -> Schedule:
    """Cycles between the low level and the peak (Smith, arXiv:1506.01186)."""
    period = plan.steps / plan.cycles
    top = plan.pct_start * period
    up = Phase(0.0, top, plan.low, plan.peak, _straight)
    down = Phase(top, period, plan.peak, plan.low, _straight)
    return Schedule(plan.steps, (up, down), period)


def _flat_cos(plan: _Plan) -> Schedule:
    return plan.two_phases(plan.peak, _cosine)


def _cosine_decay(plan: _Plan) -> Schedule:
    return Schedule(plan.steps, (Phase(0.0, plan.last_step, plan.peak, plan.end, _cosine),))


def _warm_restarts(plan: _Plan) -> Schedule:
    """Cosine decays, one after the other (SGDR: Loshchilov and Hutter, arXiv:1608.03983)."""
    cycles = min(plan.cycles, plan.steps)  # no cycle is shorter than a step
    bounds = (
        round(plan.steps * _share_before(cycle, cycles, plan.cycle_mult))
        for cycle in range(cycles + 1)
    )
    phases = (Phase(start, end, plan.peak, plan.end, _cosine) for start, end in pairwise(bounds))
    return Schedule(plan.steps, tuple(phases))


def _share_before(cycle: int, cycles: int, mult: float) -> float:
    """Share of the run before a cycle: (mult^cycle - 1) / (mult^cycles - 1), cycle / cycles for 1.

    Written with negative powers, which cannot overflow, and expm1, which is exact near mult = 1.
    """
    growth = math.log(mult)
    if growth == 0:
        return cycle / cycles
    ratio = math.expm1(-cycle * growth) / math.expm1(-cycles * growth)
    return math.exp((cycle - cycles) * growth) * ratio


def _linear(plan: _Plan) -> Schedule:
    return plan.two_phases(plan.low, _straight)


def _constant(plan: _Plan) -> Schedule:
    level = ScheduleValues(plan.peak.lr, plan.end.momentum)
    return Schedule(plan.steps, (Phase(0.0, plan.last_step, level, level, _straight),))


_BUILDERS: dict[str, Callable[[_Plan], Schedule]] = {
    "one_cycle": _one_cycle,
    "one_cycle_linear": _one_cycle_linear,
    "triangular": _triangular,
    "flat_cos": _flat_cos,
    "cosine": _cosine_decay,
    "warm_restarts": _warm_restarts,
    "linear": _linear,
    "constant": _constant,
}


def make_schedule(config: RunConfig, total_steps: int) -> Schedule:
    """The schedule that a configuration names, for a run of that many optimizer steps.

    Raises ValueError: total_steps is below 1.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps}; allowed: at least 1")
    config = config.resolved()
    plan = _Plan(
        steps=total_steps,
        low=ScheduleValues(config.lr_max / config.div, config.momentum_max),
        peak=ScheduleValues(config.lr_max, config.momentum_min),
        end=ScheduleValues(config.lr_max / config.final_div, config.momentum_max),
        # Schedules without these options do not read them.
        pct_start=config.pct_start or 0.0,
        cycles=config.cycles or 1,
        cycle_mult=config.cycle_mult,
    )
    return _BUILDERS[config.schedule](plan)
