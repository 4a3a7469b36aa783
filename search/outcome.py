"""What has become of a study's trials: their states, the best of them, the time that is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from math import inf, isfinite
from statistics import fmean

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.trial_queue import retried_numbers

__all__ = [
    "STATE_NAMES",
    "Counts",
    "best",
    "best_few",
    "counts",
    "front",
    "objectives",
    "time_left",
    "trial_state",
]

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


def trial_state(trial: FrozenTrial, retried: Collection[int] = ()) -> str:
    """One of the names of ``Counts``.

    ``retried``: what ``retried_numbers`` says of the whole study, since a failed trial need not
    know of its copy. Infeasible: complete, with a violated constraint.
    """
    state, notes = trial.state, trial.user_attrs
    if state == TrialState.COMPLETE and any(x > 0 for x in trial.constraints.values()):
        return "infeasible"
    if state in {TrialState.FAIL, TrialState.WAITING} and notes.get("surplus"):
        return "cancelled"
    if state == TrialState.FAIL and (trial.number in retried or "retried_as" in notes):
        return "retried"
    return STATE_NAMES[state]


def counts(trials: Sequence[FrozenTrial]) -> Counts:
    """Count a study's trials by their state."""
    retried = retried_numbers(trials)
    return Counts(**Counter(trial_state(trial, retried) for trial in trials))


def objectives(study: Study) -> tuple[str, ...]:
    """What a study is judged by, in the order of its values."""
    if len(study.directions) > 1:
        return "accuracy", "seconds"
    return ("accuracy",) if study.direction == StudyDirection.MAXIMIZE else ("loss",)


def best(study: Study) -> FrozenTrial | None:
    """The best feasible trial that was trained to its end; None where there is none.

    With two objectives the one of the front with the best first one. Of equals the one with the
    lower validation loss, and then the earlier one.
    """
    return next(iter(best_few(study, 1)), None)


def best_few(study: Study, most: int) -> list[FrozenTrial]:
    """The best trials by the first objective, the best one first; with two, those of the front."""
    trials = front(study) if len(study.directions) > 1 else _candidates(study)
    return sorted(trials, key=lambda trial: (_costs(study, trial), _loss(trial), trial.number))[
        :most
    ]


def front(study: Study) -> list[FrozenTrial]:
    """The feasible trials that none is better than in every objective, by the first objective.

    A trial is left out where another is at least as good in each and better in one (Pareto).
    """
    best_so_far, chosen = inf, []
    ordered = sorted(_candidates(study), key=lambda one: (_costs(study, one), one.number))
    if len(study.directions) == 1:
        return ordered[:1]
    previous: tuple[float, ...] = ()
    for trial in ordered:
        costs = _costs(study, trial)
        if costs[1] < best_so_far or costs == previous:
            chosen.append(trial)
            best_so_far, previous = costs[1], costs
    return chosen


def time_left(trials: Sequence[FrozenTrial], workers: int) -> float | None:
    """Seconds until nothing runs or waits, by the mean time of the trials that are done.

    Failed trials do not count: they end at once, or after the long wait for a dead worker. None
    where no trial tells; 0 where nothing is left.
    """
    left = [t for t in trials if t.state in {TrialState.RUNNING, TrialState.WAITING}]
    if not left:
        return 0.0
    done = [t.duration for t in trials if t.state in {TrialState.COMPLETE, TrialState.PRUNED}]
    seconds = [duration.total_seconds() for duration in done if duration is not None]
    if not seconds:
        return None
    mean = fmean(seconds)
    rest = [mean - _elapsed(trial, mean) for trial in left]
    # The longest trial ends after its own time, however many workers there are.
    return max(sum(rest) / max(1, workers), *rest)


def _elapsed(trial: FrozenTrial, most: float) -> float:
    if trial.state == TrialState.WAITING or trial.datetime_start is None:
        return 0.0
    age: timedelta = datetime.now() - trial.datetime_start  # Optuna's times are local
    return min(most, max(0.0, age.total_seconds()))


def _candidates(study: Study) -> list[FrozenTrial]:
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [
        trial
        for trial in finished
        if trial_state(trial) == "complete" and all(map(isfinite, trial.values))
    ]


def _loss(trial: FrozenTrial) -> float:
    loss = trial.user_attrs.get("loss")
    return loss if isinstance(loss, float) and isfinite(loss) else inf


def _costs(study: Study, trial: FrozenTrial) -> tuple[float, ...]:
    """The values, turned so that less is better."""
    pairs = zip(trial.values, study.directions, strict=True)
    return tuple(-v if direction == StudyDirection.MAXIMIZE else v for v, direction in pairs)
