"""The sampler of a study, from its options."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from pipelines.config import RunConfig
from search.config import StudyConfig
from search.space.search_space import SearchSpace
from tracking.errors import BadOption

__all__ = ["make_sampler"]

Space = dict[str, BaseDistribution]


def make_sampler(options: StudyConfig, space: SearchSpace, base: RunConfig) -> BaseSampler:
    """The sampler that the options name.

    Optuna finds out from finished trials which parameters belong together, and a trial whose
    schedule lacks one takes it from all that follow, or never lets it in. Here the space says it.

    Raises BadOption: a grid over ranges, or cmaes without a range that every trial has.
    """
    seed = base.seed if options.sampler_seed is None else options.sampler_seed
    match options.sampler:
        # These two are sequences that all workers share: their seed says which one.
        case "grid":
            return GridSampler(space.grid(base), seed=seed)
        case "qmc":
            return _Sequence(space.distributions(base), seed)
        case "cmaes":
            return _PerTrial(_cmaes, seed, _common_ranges(space, base))
        case "gp":
            return _PerTrial(_gp, seed, space.distributions(base, conditional=False))
        case "tpe":
            return _PerTrial(_tpe, seed)
        case "random":
            return _PerTrial(_random, seed)


def _common_ranges(space: SearchSpace, base: RunConfig) -> Space:
    """Of all trials: CMA-ES knows neither choices nor parameters that some trials lack."""
    found = _ranges(space.distributions(base, conditional=False))
    if not found:
        others = ", ".join(_ranges(space.distributions(base)))
        why = f"those of the space do not ({others})" if others else "the space has none"
        raise BadOption(
            f"sampler=cmaes searches ranges that belong to every trial, and {why}; give one, such "
            "as lr_max=log:1e-3:1, or take another sampler"
        )
    return found


def _ranges(space: Space) -> Space:
    choices = CategoricalDistribution
    return {name: known for name, known in space.items() if not isinstance(known, choices)}


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # In groups, since a parameter that only some schedules have is missing in other trials.
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


# What is not in the space of gp and cmaes is drawn at random, as the documentation says; the
# samplers would warn of it in every trial.
def _gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed, warn_independent_sampling=False)


def _cmaes(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return CmaEsSampler(seed=seed, warn_independent_sampling=False, consider_pruned_trials=True)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


class _Sequence(QMCSampler):
    """A scrambled Sobol sequence over the whole space, of which trial n has the point n.

    A trial makes nothing of the coordinates that it has no parameter for, and the others are as
    even without them. Optuna counts in an attribute of the study, which two workers may read before
    either of them has counted; both would get the same point.
    """

    def __init__(self, space: Space, seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(scramble=True, seed=seed)
        self._space = space
        self._number = 0

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        super().before_trial(study, trial)
        self._number = trial.number

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        return self._space

    def _find_sample_id(self, study: Study, search_space: Space) -> int:
        return self._number


class _PerTrial(BaseSampler):
    """Makes a sampler for each trial, seeded by the study's seed and the trial's number.

    What a trial is given then depends on the trials before it and on nothing else: not on which
    worker asks, nor on whether the study went on in another process. ``space``: what the sampler
    searches as one; without it, what it makes of the trials.
    """

    def __init__(
        self, make: Callable[[int], BaseSampler], seed: int, space: Space | None = None
    ) -> None:
        self._make = make
        self._seed = seed
        self._space = space
        self._sampler = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        digest = hashlib.sha256(f"{self._seed} {trial.number}".encode()).digest()
        self._sampler = self._make(int.from_bytes(digest[:4], "little"))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        if self._space is not None:
            return self._space
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        with warnings.catch_warnings():
            # cmaes says after each trial that it does not learn from constraints: a batch that does
            # not fit has the value of guessing, which is enough for it.
            warnings.filterwarnings("ignore", "Constraints have been set")
            self._sampler.after_trial(study, trial, state, values)
