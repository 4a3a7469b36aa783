"""The sampler of a study, from its options."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
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
from search.space import SearchSpace

__all__ = ["make_sampler"]


def make_sampler(options: StudyConfig, space: SearchSpace, base: RunConfig) -> BaseSampler:
    """The sampler that the options name.

    Raises BadOption: a grid over ranges, or cmaes without a range.
    """
    seed = base.seed if options.sampler_seed is None else options.sampler_seed
    # These two are sequences that all workers share: their seed says which one.
    if options.sampler == "grid":
        return GridSampler(space.grid(base), seed=seed)
    if options.sampler == "qmc":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False)
    return _PerTrial(_MAKERS[options.sampler], seed)


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # In groups, since a parameter that only some schedules have is missing in other trials.
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed, warn_independent_sampling=False)


def _cmaes(seed: int) -> BaseSampler:
    return CmaEsSampler(seed=seed, warn_independent_sampling=False, consider_pruned_trials=True)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


_MAKERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
    "random": _random,
}


class _PerTrial(BaseSampler):
    """Makes a sampler for each trial, seeded by the study's seed and the trial's number.

    What a trial is given then depends on the trials before it and on nothing else: not on which
    worker asks, nor on whether the study was interrupted and went on in another process.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._sampler = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        digest = hashlib.sha256(f"{self._seed} {trial.number}".encode()).digest()
        self._sampler = self._make(int.from_bytes(digest[:4], "little"))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
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
        self._sampler.after_trial(study, trial, state, values)
