"""Successive halving and Hyperband over the rungs of a study's trials.

As ASHA (Li et al. 2018, arXiv:1810.05934) and Hyperband (Li et al. 2016, arXiv:1603.06560) stand in
Optuna, and for trials that all have all rungs they decide as Optuna's pruners do. Those take a
trial's first score for that of the first rung, whichever it is of. Here large batches have no early
rung (``rung_least_steps``), and a score is compared with scores of its own rung only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from zlib import crc32

from optuna import Study
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from search.storage.trial_queue import retried_numbers

__all__ = ["Halving", "Hyperband"]


class Halving(BasePruner):
    """From each rung one trial in ``reduction`` goes on, rounded down, or the best of them.

    The first ``bootstrap`` trials at a rung end there. A trial is judged by its last report, whose
    step is the rung.
    """

    def __init__(self, reduction: int, bootstrap: int = 0) -> None:
        self._reduction = reduction
        self._bootstrap = bootstrap

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial ends at its rung."""
        if trial.last_step is None:
            return False
        return self.ends(trial, _others(study, trial), study.direction)

    def ends(
        self, trial: FrozenTrial, others: Iterable[FrozenTrial], direction: StudyDirection
    ) -> bool:
        """Whether a trial that has a score ends at its rung, among others that have been there."""
        rung = trial.last_step
        sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
        (score,) = _scores([trial], rung, sign)
        before = _scores(others, rung, sign)
        count = len(before) + 1
        if math.isnan(score) or count <= self._bootstrap:
            return True
        return sum(other > score for other in before) >= max(count // self._reduction, 1)


class Hyperband(BasePruner):
    """Halving in brackets, whose trials compete among themselves.

    The first bracket is judged at all of so many ``rungs``, each other one from a later rung on,
    the last one at none. A trial's number says which is its own; how many trials a bracket gets is
    Hyperband's rule.
    """

    def __init__(self, rungs: int, reduction: int, bootstrap: int = 0) -> None:
        self._halving = Halving(reduction, bootstrap)
        brackets = rungs + 1
        shares = (math.ceil(brackets * reduction**s / (s + 1)) for s in reversed(range(brackets)))
        self._bounds = list(accumulate(shares))

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial ends at its rung."""
        name = study.study_name
        own = self.bracket(name, trial.number)
        if trial.last_step is None or trial.last_step <= own:
            return False
        others = (each for each in _others(study, trial) if self.bracket(name, each.number) == own)
        return self._halving.ends(trial, others, study.direction)

    def bracket(self, study_name: str, number: int) -> int:
        """The bracket of a trial: 0, 1, ..., as many as rungs and one more."""
        draw = crc32(f"{study_name}_{number}".encode()) % self._bounds[-1]
        return bisect_right(self._bounds, draw)


def _others(study: Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """All other trials of a study but those whose copy competes in their place."""
    trials = study.get_trials(deepcopy=False)
    out = retried_numbers(trials) | {trial.number}
    return [other for other in trials if other.number not in out]


def _scores(trials: Iterable[FrozenTrial], rung: int | None, sign: float) -> list[float]:
    """Of those trials that have this very rung; the better, the higher."""
    reported = (trial.intermediate_values for trial in trials)
    return [sign * scores[rung] for scores in reported if rung in scores]
