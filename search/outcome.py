"""What has become of a study's trials: their states, the best of them, the time that is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import cached_property
from math import inf, isfinite
from statistics import fmean

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.storage.trial_queue import retried_numbers

__all__ = ["STATE_NAMES", "Counts", "Outcome", "infeasible", "objectives"]

STATE_NAMES = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Counts:
    """How many trials are in each state."""

    complete: int = 0
    pruned: int = 0
    infeasible: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0
    retried: int = 0
    cancelled: int = 0

    @property
    def done(self) -> int:
        """Those that count towards the study's target: not the retried and the cancelled ones."""
        return self.complete + self.pruned + self.infeasible + self.failed

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.running and not self.waiting

    def present(self) -> list[tuple[str, int]]:
        """State and number, of the states that there are trials in."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return [(name, number) for name, number in named if number]

    def text(self) -> str:
        """Such as ``12 complete, 3 pruned``."""
        return ", ".join(f"{number} {name}" for name, number in self.present()) or "no trials"


@dataclass(frozen=True)
class Outcome:
    """What has become of a study's trials at one moment; each answer is worked out once.

    The trials must be all of the study's: a failed one need not know of its copy.
    """

    trials: Sequence[FrozenTrial]
    directions: tuple[StudyDirection, ...]

    @classmethod
    def of(cls, study: Study) -> Outcome:
        """Of the study as it is now, read once."""
        return cls(study.get_trials(deepcopy=False), tuple(study.directions))

    @cached_property
    def states(self) -> Mapping[int, str]:
        """Of each trial, by its number, one of the names of ``Counts``."""
        retried = retried_numbers(self.trials)
        return {trial.number: _state(trial, retried) for trial in self.trials}

    @cached_property
    def counts(self) -> Counts:
        """How many trials are in each state."""
        return Counts(**Counter(self.states.values()))

    @property
    def best(self) -> FrozenTrial | None:
        """The best feasible trial that was trained to its end; None where there is none.

        With two objectives the one of the front with the best first one. Of equals the one with the
        lower validation loss, and then the earlier one.
        """
        return next(iter(self.ranked), None)

    @cached_property
    def ranked(self) -> Sequence[FrozenTrial]:
        """The best trials by the first objective, the best one first; with two, those of the front.

        Feasible ones that were trained to their end, with values that are finite.
        """
        pairs = zip(self.trials, self.states.values(), strict=True)
        feasible = [trial for trial, state in pairs if state == "complete"]
        finite = [trial for trial in feasible if all(map(isfinite, trial.values))]
        ordered = sorted(finite, key=lambda one: (*self._costs(one), _loss(one), one.number))
        return self._front(ordered) if len(self.directions) > 1 else ordered

    def _front(self, ordered: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Of trials in their order, those that none is better than in both objectives.

        A trial is left out where another is at least as good in each and better in one (Pareto).
        """
        best_so_far, chosen = inf, []
        previous: tuple[float, ...] = ()
        for trial in ordered:
            costs = self._costs(trial)
            if costs[1] < best_so_far or costs == previous:
                chosen.append(trial)
                best_so_far, previous = costs[1], costs
        return chosen

    def _costs(self, trial: FrozenTrial) -> tuple[float, ...]:
        """The values, turned so that less is better."""
        pairs = zip(trial.values, self.directions, strict=True)
        return tuple(-v if direction == StudyDirection.MAXIMIZE else v for v, direction in pairs)

    def time_left(self, workers: int) -> float | None:
        """Seconds until nothing runs or waits, by the mean time of the trials that are done.

        Failed trials do not count: they end at once, or after the long wait for a dead worker. None
        where no trial tells; 0 where nothing is left.
        """
        mean = self._mean_seconds
        if not self._left:
            return 0.0
        if mean is None:
            return None
        rest = [mean - _elapsed(trial, mean) for trial in self._left]
        # The longest trial ends after its own time, however many workers there are.
        return max(sum(rest) / max(1, workers), *rest)

    @cached_property
    def _left(self) -> Sequence[FrozenTrial]:
        return [t for t in self.trials if t.state in {TrialState.RUNNING, TrialState.WAITING}]

    @cached_property
    def _mean_seconds(self) -> float | None:
        done = {TrialState.COMPLETE, TrialState.PRUNED}
        durations = [trial.duration for trial in self.trials if trial.state in done]
        seconds = [duration.total_seconds() for duration in durations if duration is not None]
        return fmean(seconds) if seconds else None


def objectives(study: Study) -> tuple[str, ...]:
    """What a study is judged by, in the order of its values."""
    if len(study.directions) > 1:
        return "accuracy", "seconds"
    return ("accuracy",) if study.direction == StudyDirection.MAXIMIZE else ("loss",)


def infeasible(trial: FrozenTrial) -> bool:
    """Whether a trial is complete and violates a constraint: it did not fit into memory."""
    return trial.state == TrialState.COMPLETE and any(x > 0 for x in trial.constraints.values())


def _state(trial: FrozenTrial, retried: Container[int]) -> str:
    """``retried``: the numbers of the trials that a copy has taken the place of."""
    state, notes = trial.state, trial.user_attrs
    if infeasible(trial):
        return "infeasible"
    if state in {TrialState.FAIL, TrialState.WAITING} and notes.get("surplus"):
        return "cancelled"
    if state == TrialState.FAIL and trial.number in retried:
        return "retried"
    return STATE_NAMES[state]


def _elapsed(trial: FrozenTrial, most: float) -> float:
    if trial.state == TrialState.WAITING or trial.datetime_start is None:
        return 0.0
    age: timedelta = datetime.now() - trial.datetime_start  # Optuna's times are local
    return min(most, max(0.0, age.total_seconds()))


def _loss(trial: FrozenTrial) -> float:
    loss = trial.user_attrs.get("loss")
    return loss if isinstance(loss, float) and isfinite(loss) else inf
